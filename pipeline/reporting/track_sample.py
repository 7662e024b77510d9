"""Which tracks of a store to look at: a sample of all kinds, and those with the lowest figures; from a table alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LOOKED_AT = 4096
"""Tracks among which those that stand out are looked for, at most, once they are in order."""


def sample_strata(tracks: pa.Table, strata: NDArray[np.int64], most: int) -> list[int]:
    """A few tracks of each stratum, as many of each as there are; always the same ones.

    Within a stratum they are evenly spaced by name, so that they are of videos far from each other; no video has two
    where another one has none.

    Args:
        tracks: with ``video_id`` and ``track_id``; N rows.
        strata: int64 (N,).
        most: how many in all.

    Returns:
        Row numbers, stratum by stratum.
    """
    keys = [("video_id", "ascending"), ("track_id", "ascending")]
    order = np.asarray(pc.sort_indices(tracks.select(["video_id", "track_id"]), keys).to_numpy(), np.int64)
    turns = _turns(tracks["video_id"].take(pa.array(order)))
    # By stratum, then the first track of each video, then the second ones; by name within these.
    by_stratum = np.lexsort((turns, strata[order]))
    numbers, starts, counts = np.unique(strata[order][by_stratum], return_index=True, return_counts=True)
    shares = _even_shares(counts, most)
    chosen: list[int] = []
    for number in range(len(numbers)):
        own = by_stratum[starts[number] : starts[number] + counts[number]]
        chosen += order[_by_turns(own, turns[own], int(shares[number]))].tolist()
    return chosen


def _turns(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """How many equal ones come before each, int64 (N,); equal ones are together."""
    ids = names.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else np.zeros(0, np.int64)
    return np.arange(len(ids)) - np.repeat(starts, np.diff(np.r_[starts, len(ids)]))


def _by_turns(places: NDArray[np.int64], turns: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """So many places, those of the first turns whole, and evenly spaced ones of the last turn that has room."""
    if not number:
        return places[:0]
    last = turns[number - 1]
    whole, of_last = places[turns < last], places[turns == last]
    left = number - len(whole)
    spaced = ((np.arange(left) + 0.5) * len(of_last) / left).astype(np.int64)
    return np.sort(np.r_[whole, of_last[spaced]])


def _even_shares(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """How many of each, as alike as can be; if there is less room than strata, of the largest."""
    shares = np.zeros_like(counts)
    by_size = np.argsort(-counts, kind="stable")
    left = min(most, int(counts.sum()))
    while left:
        takers = by_size[shares[by_size] < counts[by_size]][:left]
        shares[takers] += 1
        left -= len(takers)
    return shares


def lowest_tracks(tracks: pa.Table, column: str, most: int) -> list[int]:
    """Row numbers of the tracks with the lowest values, lowest first.

    A fake that was cut along its original's track has the same figures; of these only the first is taken, the
    original's where it is there.

    Args:
        tracks: with ``video_id``, ``track_id``, ``source_id``, ``pair_id``, ``frame_start`` and that column.
        column: of numbers.
        most: how many.
    """
    values = np.asarray(tracks[column].to_numpy(), np.float64)
    # All that are as low as the last of those looked at, or the choice would depend on the order of rows.
    bound = np.partition(values, LOOKED_AT)[LOOKED_AT] if len(values) > LOOKED_AT else np.inf
    candidates = np.flatnonzero(values <= bound) if np.isfinite(bound) else np.arange(len(values))
    names = ["video_id", "track_id", "source_id", "pair_id", "frame_start", column]
    found = tracks.select(names).take(pa.array(candidates))
    found = found.append_column("is_fake", pc.cast(pc.is_valid(found["source_id"]), pa.int8()))
    keys = [(column, "ascending"), ("is_fake", "ascending"), ("video_id", "ascending"), ("track_id", "ascending")]
    order = pc.sort_indices(found, keys).to_numpy()[:LOOKED_AT]
    chosen: list[int] = []
    seen: set[tuple[str, int]] = set()
    for place, row in zip(order, found.take(pa.array(order)).to_pylist(), strict=True):
        key = (row["pair_id"] or f"{row['video_id']}#{row['track_id']}", row["frame_start"])
        if len(chosen) == most:
            break
        if key not in seen:
            seen.add(key)
            chosen.append(int(candidates[place]))
    return chosen
