"""Tracks are cut out of a video's frames and go to the store as they are complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.compare import track_score
from pipeline.config import Settings
from pipeline.crop import crop_square, crop_squares, sharpness, window_of
from pipeline.frame import Frame, swap_red_and_blue
from pipeline.patches import Patch
from pipeline.picture import on_grain
from pipeline.schema import StoredTrack, face_label
from pipeline.types import BoolArray, Float32Array, Track, UInt8Array, VideoInfo, VideoRef
from pipeline.writer import PartitionWriter, frames_checksum


class Difference(Protocol):
    """How one frame differs from that of the original."""

    def score(self, box_xyxy: Float32Array) -> float:
        """Of a face, see :meth:`pipeline.compare.Change.score`."""

    def mask(self, track: Track, picture: UInt8Array) -> UInt8Array:
        """Of a face's picture as it is stored, but BGR: uint8 (S, S)."""


def wanted_frames(tracks: Sequence[Track]) -> BoolArray:
    """Which frames show a face, bool, up to the last of them."""
    mask = np.zeros(max(track.frame_stop for track in tracks), bool)
    for track in tracks:
        mask[track.frame_start : track.frame_stop] = True
    return mask


class _Clip:
    """A segment being cut out, frame by frame."""

    def __init__(self, track: Track, info: VideoInfo, settings: Settings, is_compared: bool) -> None:
        self.track = track
        self._frame_size = (info.width, info.height)
        self.squares = crop_squares(track.boxes_xyxy, settings.crop)
        size = settings.crop.size
        self.frames = np.empty((len(track), size, size, 3), np.uint8)
        self.timestamps_seconds = np.zeros(len(track), np.float64)
        self.have: BoolArray = np.zeros(len(track), bool)
        self.change_scores = np.zeros(len(track), np.float32) if is_compared else None
        has_masks = is_compared and settings.extract.save_masks
        self.masks = np.empty((len(track), size, size), np.uint8) if has_masks else None

    def take(self, frame: Frame, difference: Difference | None) -> None:
        row = frame.index - self.track.frame_start
        picture = self._put(row, frame)
        if difference is not None and self.change_scores is not None:
            self.change_scores[row] = difference.score(self.track.boxes_xyxy[row])
            if self.masks is not None:
                self.masks[row] = difference.mask(self.track, picture)

    def take_patches(self, patches: Sequence[Patch | None]) -> None:
        """Fill the rows that are still empty from what covers their squares."""
        for row, patch in enumerate(patches):
            if patch is not None and not self.have[row]:
                self._put(row, patch)

    def _put(self, row: int, source: Frame | Patch) -> UInt8Array:
        window = on_grain(window_of(self.squares[row], *self._frame_size), self._frame_size)
        picture = crop_square(source.bgr_of(window), self.squares[row], self.frames.shape[1], window[:2])
        self.frames[row] = swap_red_and_blue(picture)
        self.timestamps_seconds[row] = source.timestamp_seconds
        self.have[row] = True
        return picture

    def runs(self) -> list[slice]:
        """Stretches of consecutive frames that did decode: a frame that failed is a gap, never made up."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.have, [False]]).astype(np.int8)))
        return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


class Cutter:
    """Cuts segments of one video out and hands them to the writer as they are complete.

    Args:
        ref: the video.
        info: of the video.
        pair_source: ``video_id`` of the video whose tracks they are; None: nobody's clips lie beside these.
        is_compared: whether frames come with what they differ in from the original's.
        writer: of the partition.
        settings: of the extraction.
    """

    def __init__(
        self,
        ref: VideoRef,
        info: VideoInfo,
        pair_source: str | None,
        is_compared: bool,
        writer: PartitionWriter,
        settings: Settings,
    ) -> None:
        self._ref = ref
        self._info = info
        self._pair_source = pair_source
        self._is_compared = is_compared
        self._writer = writer
        self._settings = settings
        self._patches_of: Callable[[Track], Sequence[Patch | None]] | None = None
        self._waiting: list[Track] = []
        self._open: list[_Clip] = []
        self._stored: list[StoredTrack] = []
        self._short_face_ids: list[int] = []
        """One entry a piece that wasn't stored."""
        self.num_too_short = 0
        """Pieces that weren't stored, since too many of their frames failed; known when :meth:`finish` was called."""
        self.seconds = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the last segment is complete."""
        return not self._open and not self._waiting

    def cut(self, track: Track, patches: Sequence[Patch | None]) -> None:
        """Cut a segment out of what was kept of its frames; None for those that failed to decode."""
        started = perf_counter()
        clip = _Clip(track, self._info, self._settings, self._is_compared)
        clip.take_patches(patches)
        self._store_runs(clip)
        self.seconds += perf_counter() - started

    def expect(
        self, tracks: Sequence[Track], patches_of: Callable[[Track], Sequence[Patch | None]] | None = None
    ) -> None:
        """Cut these segments out of the frames that follow, and for the rest out of what was kept, if anything."""
        self._waiting = sorted(tracks, key=lambda t: (t.frame_start, t.face_id), reverse=True)
        self._patches_of = patches_of

    def take(self, frame: Frame, difference: Difference | None = None) -> None:
        """Cut what one frame shows; frames come in order."""
        started = perf_counter()
        self._close([clip for clip in self._open if clip.track.frame_stop <= frame.index])
        while self._waiting and self._waiting[-1].frame_start <= frame.index:
            self._open.append(_Clip(self._waiting.pop(), self._info, self._settings, self._is_compared))
        for clip in self._open:
            # One whose frames were all missed is opened late, and empty.
            if frame.index < clip.track.frame_stop:
                clip.take(frame, difference)
        self._close([clip for clip in self._open if clip.track.frame_stop <= frame.index + 1])
        self.seconds += perf_counter() - started

    def finish(self, face_ids: Mapping[int, int] | None = None) -> list[StoredTrack]:
        """There are no more frames.

        Args:
            face_ids: of the faces by the numbers that tracks came with, where these were given before all faces were
                known. Others aren't among the chosen ones.

        Returns:
            What was stored, by face and time, with ``track_id`` and ``segment`` counted in that order.
        """
        started = perf_counter()
        self._close(list(self._open))
        self._patches_of = None  # Or whoever gave it would be freed late, and with it the writer.
        self.seconds += perf_counter() - started
        stored = self._stored
        # Only of the chosen ones: of the others less is counted where less was kept of their frames.
        self.num_too_short = sum(face_ids is None or face_id in face_ids for face_id in self._short_face_ids)
        if face_ids is not None:
            stored = [
                replace(one, track=replace(one.track, face_id=face_ids[one.track.face_id]))
                for one in stored
                if one.track.face_id in face_ids
            ]
        numbered: list[StoredTrack] = []
        for track_id, one in enumerate(sorted(stored, key=lambda s: (s.track.face_id, s.track.frame_start))):
            track = one.track
            # Named by what the search found, which is the same for all whose tracks these are.
            pair_id = self._pair_source and f"{self._pair_source}#{track.face_id}.{track.segment}"
            last = numbered[-1].track if numbered else None
            segment = last.segment + 1 if last is not None and last.face_id == track.face_id else 0
            numbered.append(replace(one, track_id=track_id, pair_id=pair_id, track=replace(track, segment=segment)))
        return numbered

    def _close(self, clips: list[_Clip]) -> None:
        for clip in clips:
            self._open.remove(clip)
            if self._patches_of is not None:
                clip.take_patches(self._patches_of(clip.track))
            self._store_runs(clip)

    def _store_runs(self, clip: _Clip) -> None:
        for run in clip.runs():
            if run.stop - run.start < self._settings.track.min_frames:
                self._short_face_ids.append(clip.track.face_id)
            else:
                self._store(clip, run)

    def _store(self, clip: _Clip, run: slice) -> None:
        frames, timestamps_seconds = clip.frames[run], clip.timestamps_seconds[run]
        ref, track = self._ref, clip.track
        scores = None if clip.change_scores is None else clip.change_scores[run]
        score = None if scores is None else track_score(scores)
        self._stored.append(
            StoredTrack(
                video_id=ref.video_id, track_id=-1, array=self._writer.array_name,
                row_start=self._writer.append(frames, None if clip.masks is None else clip.masks[run]),
                track=track[run], crop_xyxy=clip.squares[run], timestamps_seconds=timestamps_seconds,
                fps=self._fps(timestamps_seconds), label=ref.label, source_id=ref.source_id, group_id=ref.group_id,
                width=self._info.width, height=self._info.height, sharpness=sharpness(frames),
                checksum=frames_checksum(frames),
                face_label=face_label(ref.label, score, self._settings.pair.min_change),
                change_score=score, change_scores=scores,
            )
        )  # fmt: skip

    def _fps(self, timestamps_seconds: NDArray[np.float64]) -> float:
        fps = self._info.fps_from_header
        if not fps and timestamps_seconds[-1] > timestamps_seconds[0]:
            fps = (len(timestamps_seconds) - 1) / float(timestamps_seconds[-1] - timestamps_seconds[0])
        return fps
