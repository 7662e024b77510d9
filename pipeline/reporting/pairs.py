"""Which tracks of a store show the same face before and after, and a few of them to look at; from the table alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LOOKED_AT = 64
"""Of each part of the range of scores at most so many pairs are considered."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of tracks by their row numbers in the table that they were found in; P of them."""

    fakes: NDArray[np.int64]
    """int64 (P,), ascending, each once."""
    originals: NDArray[np.int64]
    """int64 (P,)."""

    def __len__(self) -> int:
        return len(self.fakes)

    def __getitem__(self, which: NDArray[np.generic] | list[int]) -> Pairs:
        return Pairs(self.fakes[which], self.originals[which])


def find_pairs(tracks: pa.Table) -> Pairs:
    """Tracks of fakes, each with the track of its original that it shares most frames with; without one it is left out.

    Args:
        tracks: with ``video_id``, ``source_id``, ``pair_id``, ``frame_start`` and ``frame_stop``.
    """
    numbered = tracks.append_column("row", pa.array(np.arange(tracks.num_rows), pa.int64()))
    of_pairs = numbered.filter(pc.is_valid(numbered["pair_id"]))
    is_fake = pc.is_valid(of_pairs["source_id"])
    kept = ["row", "pair_id", "frame_start", "frame_stop"]
    both = of_pairs.filter(is_fake).select([*kept, "source_id"]).join(
        of_pairs.filter(pc.invert(is_fake)).select([*kept, "video_id"]),
        keys=["source_id", "pair_id"], right_keys=["video_id", "pair_id"], join_type="inner",
        right_suffix="_of_original", use_threads=False,
    )  # fmt: skip
    # Where frames failed to decode a track is in several pieces, and they all have its pair_id.
    shared = pc.subtract(
        pc.min_element_wise(both["frame_stop"], both["frame_stop_of_original"]),
        pc.max_element_wise(both["frame_start"], both["frame_start_of_original"]),
    )
    best_first = [("row", "ascending"), ("shared", "descending"), ("row_of_original", "ascending")]
    both = both.append_column("shared", shared).filter(pc.greater(shared, 0)).sort_by(best_first)
    fakes, first = np.unique(both["row"].to_numpy(), return_index=True)
    return Pairs(fakes.astype(np.int64), both["row_of_original"].to_numpy()[first].astype(np.int64))


def spread(tracks: pa.Table, most: int) -> list[int]:
    """A few tracks from all over the range of scores and from as many groups as may be; always the same ones.

    The tracks by score are cut into equal parts, and of each part one is taken whose group has been taken least.

    Args:
        tracks: with ``video_id``, ``track_id``, ``group_id`` and ``change_score``.
        most: how many.

    Returns:
        Row numbers, highest score first; the highest of all is among them, and unknown ones are last.
    """
    keys = [("change_score", "descending"), ("video_id", "ascending"), ("track_id", "ascending")]
    order = pc.sort_indices(tracks, keys).to_numpy()
    num_parts = min(most, len(order))
    chosen: list[int] = []
    taken: Counter[str] = Counter()
    for part in np.array_split(order, num_parts) if num_parts else ():
        rows = part[:: -(-len(part) // LOOKED_AT)]
        groups = tracks["group_id"].take(pa.array(rows)).to_pylist()
        best = min(range(len(rows)), key=lambda i: (taken[groups[i]], i))
        taken[groups[best]] += 1
        chosen.append(int(rows[best]))
    return chosen
