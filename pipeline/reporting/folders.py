"""Which folder a video counts to, where folders are few enough to be looked at; from names alone.

In most data sets a folder is a kind of manipulation or a part of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TOP = "./"
"""Name of the folder of videos that lie in none."""
MOST_PARTS = 50
"""Of a path that are looked at."""


@dataclass(frozen=True)
class Folders:
    """The largest folders of some videos."""

    names: tuple[str, ...]
    """The largest first, each with a slash at its end."""
    num_others: int
    """Folders that have no name here."""
    depth: int
    """Parts of a path that make a folder."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names, and one for all others where there are any."""
        rest = f"{self.num_others:,} other folder{'s' * (self.num_others != 1)}"
        return (*self.names, rest) if self.num_others else self.names


def largest_folders(video_ids: pa.ChunkedArray, most: int) -> Folders:
    """The largest folders of some videos.

    A folder is the whole of a video's path before its name, if ``most`` such folders hold at least half of the videos.
    Where each video has a folder of its own they don't; so it is the longest beginning of paths of which they do.

    Args:
        video_ids: strings.
        most: folders with a name.
    """
    deepest = min(int(pc.max(pc.count_substring(video_ids, "/")).as_py() or 0), MOST_PARTS)
    for depth in range(deepest, 0, -1):
        counts = pc.value_counts(folders_of(video_ids, depth))
        numbers = counts.field("counts").to_numpy()
        if depth == 1 or np.sort(numbers)[-most:].sum() * 2 >= len(video_ids):
            break
    else:
        counts, depth = pc.value_counts(folders_of(video_ids, 0)), 0
    by_size = sorted(counts.to_pylist(), key=lambda row: (-row["counts"], row["values"]))
    names = tuple(row["values"] for row in by_size[:most])
    return Folders(names, len(by_size) - len(names), depth)


def folders_of(video_ids: pa.ChunkedArray, depth: int) -> pa.Array:
    """The folder of each video: so many parts of its path, or as many as it has."""
    pattern = f"^(?P<folder>(?:[^/]*/){{0,{depth}}})"
    found = pc.extract_regex(video_ids, pattern=pattern)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    names = found.field("folder")
    return pc.if_else(pc.equal(names, ""), TOP, names)


def folder_numbers(video_ids: pa.ChunkedArray, folders: Folders) -> NDArray[np.int64]:
    """Which of :attr:`Folders.columns` each video is in, int64 (N,)."""
    places = pc.index_in(folders_of(video_ids, folders.depth), pa.array(folders.names, pa.string()))
    return np.asarray(pc.fill_null(places, len(folders.names)).to_numpy(zero_copy_only=False), np.int64)


def counts_by_folder(
    numbers: NDArray[np.int64], num_folders: int, values: pa.ChunkedArray, columns: Sequence[object]
) -> NDArray[np.int64]:
    """How many videos of each folder (rows) have which value (columns), int64 (F, C); other values aren't counted.

    Args:
        numbers: int64 (N,), the folders.
        num_folders: F.
        values: N of them.
        columns: C values; None is null.
    """
    counts = []
    for column in columns:
        chosen = pc.is_null(values) if column is None else pc.fill_null(pc.equal(values, column), fill_value=False)
        counts.append(np.bincount(numbers[np.asarray(chosen.to_numpy(), bool)], minlength=num_folders))
    return np.stack(counts, axis=1).astype(np.int64)
