"""Cutting a video's segments out while it is still being searched, so that it is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from time import perf_counter
from typing import Self

import numpy as np

from pipeline.arena import Arena
from pipeline.config import Settings
from pipeline.crop import crop_squares
from pipeline.cutter import Cutter
from pipeline.decode import VideoReader
from pipeline.frame import Frame
from pipeline.patches import Patch, Patches
from pipeline.schema import StoredTrack
from pipeline.track import Chain, Linker, Tracks, decided_segments, segments_of
from pipeline.types import BoolArray, Track, VideoInfo

ARENA_BYTES = 300 * 10**6
"""For pictures that come as BGR; others take as much less as they are smaller. Seven seconds of the surroundings of a
face of 400 pixels, or 48 frames of 1080p."""


@lru_cache(maxsize=1)
def shared_arena() -> Arena:
    """This process's memory for patches."""
    return Arena(ARENA_BYTES)


class SinglePass:
    """Watches the search of one video, and cuts each segment as soon as nothing can change it any more.

    What can't be cut then, because too little of its frames was kept, is cut out of frames that are decoded again.
    Pixels are the same either way.

    A context manager: one at a time has the process's memory for patches, and gives it back.

    Args:
        make_cutter: given what the container says of the video.
        settings: of the extraction.
    """

    def __init__(self, make_cutter: Callable[[VideoInfo], Cutter], settings: Settings) -> None:
        self._make_cutter = make_cutter
        self._settings = settings
        self._close = ExitStack()
        self._watch_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    @property
    def seconds(self) -> float:
        """Spent on keeping, cutting and writing."""
        return self._watch_seconds + self._cutter.seconds

    @property
    def num_too_short(self) -> int:
        """Pieces that weren't stored, since too many of their frames failed."""
        return self._cutter.num_too_short

    def begin(self, reader: VideoReader) -> None:
        """A search begins. What one before found is void: it ended without a track."""
        self._reader = reader
        self._cutter = self._make_cutter(reader.info)
        self._close.close()
        self._patches = Patches(reader.info.width, reader.info.height, self._settings, shared_arena())
        self._close.callback(self._patches.forget_all)
        self._chains: list[Chain] = []
        """Their places are the faces' numbers until all are known."""
        self._decided: dict[Chain, int] = {}
        """How many segments of a face were decided."""
        self._left: list[Track] = []
        """Decided, but not covered by patches."""

    def watch(self, frame: Frame) -> None:
        """See a frame, before those that come later are searched."""
        started = perf_counter()
        self._patches.watch(frame)
        self._watch_seconds += perf_counter() - started

    def searched(self, last_index: int, linker: Linker) -> None:
        """Faces are known up to the newest frame."""
        started = perf_counter()
        self._patches.searched(last_index, linker)
        self._watch_seconds += perf_counter() - started
        track = self._settings.track
        best = linker.faces()[: track.max_faces]
        for chain in best:
            self._cut(chain, decided_segments(chain, self._number(chain), track, self._decided.get(chain, 0)))
        self._patches.forget_all_but([*linker.followed, *best])

    def finish(self, tracks: Tracks) -> BoolArray:
        """Everything was searched.

        Returns:
            The frames that are needed again, bool, up to the last of them.
        """
        for chain in tracks.chains:
            segments = segments_of(chain, self._number(chain), self._settings.track)
            self._cut(chain, segments[self._decided.get(chain, 0) :])
        chosen = {self._number(chain) for chain in tracks.chains}
        self._left = [segment for segment in self._left if segment.face_id in chosen]
        needed: BoolArray = np.zeros(max((segment.frame_stop for segment in self._left), default=0), bool)
        for segment in self._left:
            missing = [patch is None for patch in self._patches_of(segment)]
            needed[segment.frame_start : segment.frame_stop] |= missing
        failed = [index for index in self._reader.failed_frames if index < len(needed)]
        needed[failed] = False
        self._cutter.expect(self._left, self._patches_of)
        return needed

    def take(self, frame: Frame) -> None:
        """See one of the needed frames."""
        self._cutter.take(frame)

    def stored(self, tracks: Tracks) -> list[StoredTrack]:
        """What was stored of the faces that were chosen."""
        return self._cutter.finish({self._number(chain): face_id for face_id, chain in enumerate(tracks.chains)})

    def _number(self, chain: Chain) -> int:
        if chain not in self._chains:
            self._chains.append(chain)
        return self._chains.index(chain)

    def _patches_of(self, segment: Track) -> Sequence[Patch | None]:
        chain = self._chains[segment.face_id]
        squares = crop_squares(segment.boxes_xyxy, self._settings.crop)
        return [self._patches.get(chain, segment.frame_start + row, square) for row, square in enumerate(squares)]

    def _cut(self, chain: Chain, segments: Sequence[Track]) -> None:
        failed = set(self._reader.failed_frames) if segments else set()
        for segment in segments:
            patches = self._patches_of(segment)
            missing = {segment.frame_start + row for row, patch in enumerate(patches) if patch is None}
            if missing <= failed:
                self._cutter.cut(segment, patches)
                self._patches.forget(chain, segment.frame_start, segment.frame_stop)
            else:
                self._left.append(segment)
            self._decided[chain] = segment.segment + 1
