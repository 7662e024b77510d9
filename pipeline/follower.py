"""One fake that is cut along the tracks of its original, and compared with it, as long as it shows the same."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from pipeline import compare
from pipeline.agreement import Agreement
from pipeline.compare import Cells
from pipeline.config import Settings
from pipeline.crop import crop_square, crop_squares
from pipeline.cutter import Cutter, wanted_frames
from pipeline.decode import VideoReader, num_frames_expected
from pipeline.frame import Frame
from pipeline.search import Search
from pipeline.types import BoolArray, Float32Array, Track, UInt8Array, VideoRef
from pipeline.video import Reading, Result, outcome
from pipeline.writer import PartitionWriter


class NoPairError(Exception):
    """A fake can't have its original's tracks; the message says why."""


@dataclass(frozen=True)
class Reference:
    """A frame of the original, as what fakes are compared with."""

    index: int
    picture: compare.Original
    tracks: Sequence[Track]
    """That show in it."""
    pixels: UInt8Array
    """Some of its pixels, see :func:`pipeline.compare.pixel_sample`; only for masks."""
    pictures: Sequence[UInt8Array]
    """Of each track the face as it is stored, but BGR; only for masks."""


class SearchedOriginal:
    """An original, and what its frames show.

    Args:
        ref: the video.
        search: what was found in it, at least one track.
        settings: of the extraction.
    """

    def __init__(self, ref: VideoRef, search: Search, settings: Settings) -> None:
        self.ref = ref
        self.search = search
        self.settings = settings
        self._tracks = search.tracks.tracks
        self._squares = [crop_squares(track.boxes_xyxy, settings.crop) for track in self._tracks]
        self.wanted: BoolArray = wanted_frames(self._tracks)
        self.max_frames = settings.detect.max_frames
        self.face_pixels = min(_smallest_side(track) for track in self._tracks)
        self.cell_pixels = compare.cell_pixels(search.info.width, search.info.height, self.face_pixels)

    def is_wanted(self, index: int) -> bool:
        """Whether a frame shows a face."""
        return index < len(self.wanted) and bool(self.wanted[index])

    def reference(self, frame: Frame) -> Reference:
        """One of its frames, for fakes to be compared with."""
        shown = [
            (track, squares)
            for track, squares in zip(self._tracks, self._squares, strict=True)
            if track.frame_start <= frame.index < track.frame_stop
        ]
        boxes_xyxy = np.array([track.boxes_xyxy[frame.index - track.frame_start] for track, _ in shown], np.float32)
        has_masks = self.settings.extract.save_masks
        size = self.settings.crop.size
        return Reference(
            frame.index,
            compare.Original(compare.cells_of(frame.bgr, self.cell_pixels), boxes_xyxy),
            [track for track, _ in shown],
            compare.pixel_sample(frame.bgr) if has_masks else np.zeros((0, 0, 3), np.uint8),
            [crop_square(frame.bgr, squares[frame.index - track.frame_start], size) for track, squares in shown]
            if has_masks
            else [],
        )


def _smallest_side(track: Track) -> float:
    return float(np.sqrt((track.boxes_xyxy[:, 2:] - track.boxes_xyxy[:, :2]).prod(axis=1)).min())


class _Difference:
    """Of one frame of a fake from that of the original, for the cutter."""

    def __init__(self, reference: Reference, cells: Cells, frame: Frame) -> None:
        self._reference = reference
        self._frame = frame
        self._cells = cells
        self._noise = reference.picture.noise(cells)

    def score(self, box_xyxy: Float32Array) -> float:
        return self._reference.picture.change_score(self._cells, self._noise, box_xyxy)

    def mask(self, track: Track, picture: UInt8Array) -> UInt8Array:
        reference = self._reference
        number = next(i for i, shown in enumerate(reference.tracks) if shown is track)
        noise = compare.pixel_noise(
            reference.pixels, compare.pixel_sample(self._frame.bgr), reference.picture.boxes_xyxy
        )
        return compare.change_mask(reference.pictures[number], picture, noise)


class Follower:
    """A fake on its way along its original.

    Args:
        ref: the fake.
        reader: of it, not yet used.
        original: what it was made from.
        writer: of the partition.
        thread: one to spare, for the next frame to be decoded meanwhile; or None.

    Raises:
        NoPairError: its size or its length is another one.
    """

    def __init__(
        self,
        ref: VideoRef,
        reader: VideoReader,
        original: SearchedOriginal,
        writer: PartitionWriter,
        thread: ThreadPoolExecutor | None,
    ) -> None:
        search, settings = original.search, original.settings
        if (reader.info.width, reader.info.height) != (search.info.width, search.info.height):
            raise NoPairError(
                f"it has frames of {reader.info.width} x {reader.info.height} pixels, its original of "
                f"{search.info.width} x {search.info.height}"
            )
        ours, theirs = (num_frames_expected(info, original.max_frames) for info in (reader.info, search.info))
        if ours is not None and theirs is not None:
            # Before anything of it is stored; that headers tell the truth is seen at the end.
            _check_length(ours - theirs, settings)
        self.ref = ref
        self._reader = reader
        self._original = original
        self._frames = reader.frames(original.is_wanted)
        self._ahead: Frame | None = None
        self._thread = thread
        self._agreement = Agreement(original.face_pixels)
        self._cutter = Cutter(ref, reader.info, original.ref.video_id, True, writer, settings)
        self._cutter.expect(search.tracks.tracks)
        self._compare_seconds = 0.0

    def follow(self, references: Sequence[Reference], slopes: Mapping[int, Float32Array]) -> None:
        """Cut and compare what the original shows in these frames.

        Args:
            references: of the frames.
            slopes: of some of them, by index, see :func:`pipeline.agreement.slope`.

        Raises:
            NoPairError: it shows something else.
        """
        by_index = {reference.index: reference for reference in references}
        last: tuple[Reference, Cells] | None = None
        # Closed also where this ends with an error: no reader may be closed while a thread decodes with it.
        with closing(self._until(references[-1].index)) as frames:
            for frame in frames:
                reference = by_index.get(frame.index)
                if reference is None:  # The original's own frame failed to decode.
                    continue
                started = perf_counter()
                cells = compare.cells_of(frame.bgr, self._original.cell_pixels)
                if frame.index in slopes:
                    self._agreement.add(cells, reference.picture.cells, slopes[frame.index])
                difference = _Difference(reference, cells, frame)
                self._compare_seconds += perf_counter() - started
                self._cutter.take(frame, difference)
                last = reference, cells
        objection = self._agreement.objection_in_time()
        if objection is None and last is not None:
            reference, cells = last
            objection = self._agreement.objection_in_space(cells, reference.picture)
        if objection is not None:
            raise NoPairError(f"{objection}, about frame {references[0].index}")

    def _until(self, last_index: int) -> Generator[Frame, None, None]:
        """The frames up to one. With a thread to spare the next is decoded meanwhile, but none beyond: while another
        video is worked on, nothing of this one may crash or hang."""
        coming: Future[Frame | None] | None = None
        try:
            while (frame := self._ahead or (coming.result() if coming else next(self._frames, None))) is not None:
                self._ahead = coming = None
                if frame.index > last_index:
                    self._ahead = frame
                    return
                if self._thread is not None and frame.index < last_index:
                    coming = self._thread.submit(next, self._frames, None)
                yield frame
        finally:
            if coming is not None:
                wait([coming])

    def result(self) -> Result:
        """Read what is left, and give what was cut out.

        Raises:
            NoPairError: it is longer or shorter than its original, or too little of it decodes.
        """
        for _ in self._frames:
            pass
        search = self._original.search
        _check_length(self._reader.last_index - search.last_index, self._original.settings)
        tracks = self._cutter.finish()
        if not tracks:
            raise NoPairError("too many of its frames failed to decode where its original shows faces")
        reader = self._reader
        row = outcome(
            self.ref,
            replace(search, info=reader.info, remarks=[]),
            "original",
            Reading(reader.num_frames_decoded, frozenset(reader.failed_frames), reader.seconds),
            tracks,
            self._cutter.num_too_short,
            0.0,
            self._cutter.seconds + self._compare_seconds,
            None,
        )
        return Result(row, tracks)


def _check_length(difference: int, settings: Settings) -> None:
    """Of a fake's number of frames from its original's."""
    if abs(difference) > settings.pair.max_frame_difference:
        raise NoPairError(f"it has {abs(difference)} frames {'more' if difference > 0 else 'less'} than its original")
