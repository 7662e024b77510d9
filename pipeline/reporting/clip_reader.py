"""Frames of a store's tracks for a page: a clip that can't be read is noted, and the others are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.pictures import Picture, shrink, strip
from pipeline.store import FaceStore, StoreFormatError
from pipeline.types import UInt8Array

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Film:
    """Frames of a track, side by side."""

    picture: Picture | None
    """None: they can't be read."""
    shown: tuple[int, ...]
    """Frames of the video that are, or would be, in the picture."""
    problem: str | None
    """Why there is no picture."""


def video_frames(track: Row) -> range:
    """Which frames of its video a track has, in the order of its rows."""
    return range(track["frame_start"], track["frame_stop"], track["frame_step"])


def middle_rows(length: int, most: int) -> tuple[int, ...]:
    """The middles of equal parts of a track, at most so many: side by side they are in place on an axis of time."""
    number = min(most, length)
    return tuple(int((i + 0.5) * length / number) for i in range(number))


class ClipReader:
    """Reads a few frames of a few tracks.

    Attributes:
        store: where they are.
        problems: what can't be read, by ``video_id`` and ``track_id``.
    """

    def __init__(self, store: FaceStore) -> None:
        self.store = store
        self.problems: dict[tuple[str, int], str] = {}
        self._read: set[tuple[str, int]] = set()

    @property
    def num_read(self) -> int:
        """Tracks that were to be read, whether or not they could be."""
        return len(self._read)

    def frames(self, track: Row, rows: Sequence[int]) -> UInt8Array | None:
        """Some frames of a track, uint8 (T, S, S, 3), one by one: a long track whole may be too much.

        None: they can't be read, and :attr:`problems` says why.
        """
        self._read.add((track["video_id"], track["track_id"]))
        try:
            return np.concatenate([self.store.frames(track, row, row + 1) for row in rows])
        except (StoreFormatError, IndexError) as error:
            self.problems[track["video_id"], track["track_id"]] = str(error)
            return None

    def problem(self, track: Row) -> str | None:
        """Why frames of a track couldn't be read; None: they could."""
        return self.problems.get((track["video_id"], track["track_id"]))

    def film(self, track: Row, most: int, side: int) -> Film:
        """Up to ``most`` frames of a track, evenly spaced, of at most ``side`` pixels."""
        rows = middle_rows(track["row_stop"] - track["row_start"], most)
        frames = self.frames(track, rows)
        return Film(
            picture=None if frames is None else strip(shrink(frames, side)),
            shown=tuple(track["frame_start"] + row * track["frame_step"] for row in rows),
            problem=self.problem(track),
        )

    def of_frames(self, track: Row, column: str) -> list[Any] | None:
        """A column with a value a frame, of one track, read from its own partition alone; None where it is null."""
        partition = str(track["array"]).rsplit("-", 1)[0]
        found = self.store.read_partition("tracks", partition, ["video_id", "track_id", column])
        is_it = pc.and_(pc.equal(found["video_id"], track["video_id"]), pc.equal(found["track_id"], track["track_id"]))
        values = found.filter(is_it)[column].to_pylist()
        return values[0] if values else None


def rows_of(tracks: pa.Table, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Some rows of a table of tracks, in this order."""
    rows: list[dict[str, Any]] = tracks.take(pa.array(numbers, pa.int64())).to_pylist()
    return rows
