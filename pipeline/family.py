"""An original and the fakes that were made from it, read side by side: one search for all of them.

The original is searched. Then it and its fakes are decoded in step, some frames at a time: a fake is cut along the
original's tracks and compared with it, frame by frame, and leaves as soon as it turns out to show something else; it is
then done like any other video. What comes out for a fake depends on its file and the original's alone, not on what else
is in the partition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeVar

import numpy as np

from pipeline import compare
from pipeline.agreement import Agreement, slope
from pipeline.compare import Cells
from pipeline.config import Settings
from pipeline.crop import crop_square, crop_squares
from pipeline.cutter import Cutter, wanted_frames
from pipeline.decode import VideoReader
from pipeline.detect import FaceDetector
from pipeline.frame import Frame
from pipeline.search import Search, find_faces
from pipeline.types import BoolArray, Float32Array, Track, UInt8Array, VideoRef
from pipeline.video import Reading, Result, outcome, own_cutter, own_result, process_video, row_or_error, without_tracks
from pipeline.writer import PartitionWriter, StoreWriteError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FRAMES_IN_STEP = 32
"""So many of the original are compared with before the next video's turn."""
MAX_TOGETHER = 6
"""Fakes that are read at once: each has a decoder and clips being cut, some 100 MB at 1080p."""

DECODER_THREADS = 1
"""Of each video: more would go on with one video while another one is worked on, and a crash be blamed on that."""

Tell = Callable[[str | None], None]


class NoPairError(Exception):
    """A fake can't have its original's tracks; the message says why."""


@dataclass(frozen=True)
class _Reference:
    """A frame of the original, as what fakes are compared with."""

    index: int
    picture: compare.Original
    tracks: Sequence[Track]
    """That show in it."""
    pixels: UInt8Array
    """Some of its pixels, see :func:`pipeline.compare.pixel_sample`; only for masks."""
    pictures: Sequence[UInt8Array]
    """Of each track the face as it is stored, but BGR; only for masks."""


def process_family(
    original: VideoRef,
    is_in_partition: bool,
    fakes: Sequence[VideoRef],
    writer: PartitionWriter,
    detector: FaceDetector,
    settings: Settings,
    tell: Tell,
) -> Iterator[Result]:
    """Turn an original and its fakes into clips and rows.

    Args:
        original: what the fakes were made from.
        is_in_partition: whether it is to be stored, too, or has been or will be elsewhere.
        fakes: at least one.
        writer: of the partition.
        detector: of this process.
        settings: of the extraction.
        tell: told the ``video_id`` of what is worked on.

    Yields:
        One for each video, in any order.

    Raises:
        StoreWriteError: the store can't be written.
    """
    tell(original.video_id)
    ready: list[_Together] = []

    def search() -> Result:
        search = find_faces(original.path, detector, settings)
        if search.tracks.tracks:
            ready.append(_Together(original, search, writer, settings, detector.num_threads, tell))
        return without_tracks(original, search, None)

    found = row_or_error(original, None, search)
    if not ready:
        error = found.outcome.error_type
        note = f"its original can't be searched ({error})" if error else "no face was found in its original"
        if is_in_partition:
            yield found
        yield from _each_by_itself(dict.fromkeys(fakes, note), writer, detector, settings, tell)
        return
    together = ready[0]
    for start in range(0, len(fakes), MAX_TOGETHER):
        # The original is stored on its first pass, and only read on those that follow.
        yield from together.work(fakes[start : start + MAX_TOGETHER], is_in_partition and start == 0)
    yield from _each_by_itself(together.left, writer, detector, settings, tell)


def _each_by_itself(
    notes: Mapping[VideoRef, str], writer: PartitionWriter, detector: FaceDetector, settings: Settings, tell: Tell
) -> Iterator[Result]:
    for ref, note in notes.items():
        tell(ref.video_id)
        yield process_video(ref, writer, detector, settings, note)


class _Original:
    """An original that was searched, and what its frames show."""

    def __init__(self, search: Search, settings: Settings) -> None:
        self._tracks = search.tracks.tracks
        self._settings = settings
        self._squares = [crop_squares(track.boxes_xyxy, settings.crop) for track in self._tracks]
        self.wanted: BoolArray = wanted_frames(self._tracks)
        self.face_pixels = min(_smallest_side(track) for track in self._tracks)
        self.cell_pixels = compare.cell_pixels(search.info.width, search.info.height, self.face_pixels)

    def is_wanted(self, index: int) -> bool:
        """Whether a frame shows a face."""
        return index < len(self.wanted) and bool(self.wanted[index])

    def reference(self, frame: Frame) -> _Reference:
        shown = [
            (track, squares)
            for track, squares in zip(self._tracks, self._squares, strict=True)
            if track.frame_start <= frame.index < track.frame_stop
        ]
        boxes_xyxy = np.array([track.boxes_xyxy[frame.index - track.frame_start] for track, _ in shown], np.float32)
        has_masks = self._settings.extract.save_masks
        size = self._settings.crop.size
        return _Reference(
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

    def __init__(self, reference: _Reference, cells: Cells, frame: Frame) -> None:
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


class _Fake:
    """A fake that follows its original as long as it shows the same."""

    def __init__(
        self,
        ref: VideoRef,
        reader: VideoReader,
        original: VideoRef,
        about_original: _Original,
        search: Search,
        writer: PartitionWriter,
        settings: Settings,
        thread: ThreadPoolExecutor | None,
    ) -> None:
        if (reader.info.width, reader.info.height) != (search.info.width, search.info.height):
            raise NoPairError(
                f"it has frames of {reader.info.width} x {reader.info.height} pixels, its original of "
                f"{search.info.width} x {search.info.height}"
            )
        ours, theirs = reader.info.num_frames_from_header, search.info.num_frames_from_header
        if ours is not None and theirs is not None:
            # Before anything of it is stored; that headers tell the truth is seen at the end.
            _check_length(ours - theirs, settings)
        self.ref = ref
        self._reader = reader
        self._original = about_original
        self._search = search
        self._settings = settings
        self._frames = reader.frames(about_original.is_wanted)
        self._ahead: Frame | None = None
        self._thread = thread
        self._agreement = Agreement(about_original.face_pixels)
        self._cutter = Cutter(ref, reader.info, search.tracks.tracks, original.video_id, True, writer, settings)
        self._compare_seconds = 0.0

    def follow(self, references: Sequence[_Reference], slopes: Mapping[int, Float32Array]) -> None:
        """Cut and compare what the original shows in these frames.

        Args:
            references: of the frames.
            slopes: of some of them, by index, see :func:`pipeline.agreement.slope`.

        Raises:
            NoPairError: it shows something else.
        """
        by_index = {reference.index: reference for reference in references}
        last: tuple[_Reference, Cells] | None = None
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
        _check_length(self._reader.last_index - self._search.last_index, self._settings)
        tracks = self._cutter.finish()
        if not tracks:
            raise NoPairError("too many of its frames failed to decode where its original shows faces")
        reader = self._reader
        row = outcome(
            self.ref,
            replace(self._search, info=reader.info, remarks=[]),
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


class _Together:
    """Passes over an original, each with some of its fakes."""

    def __init__(
        self,
        original: VideoRef,
        search: Search,
        writer: PartitionWriter,
        settings: Settings,
        num_threads: int,
        tell: Tell,
    ) -> None:
        self._ref = original
        self._search = search
        self._writer = writer
        self._settings = settings
        self._num_threads = num_threads
        self._tell = tell
        self._about = _Original(search, settings)
        self.left: dict[VideoRef, str] = {}
        """Fakes that couldn't be paired, and why."""

    def work(self, refs: Sequence[VideoRef], is_to_store: bool) -> Iterator[Result]:
        """Read all of them once.

        Args:
            refs: the fakes.
            is_to_store: whether the original is, too.
        """
        with ExitStack() as stack:
            thread = stack.enter_context(ThreadPoolExecutor(1, "decode")) if self._num_threads > 1 else None

            def opened(ref: VideoRef) -> _Fake:
                reader = stack.enter_context(VideoReader(ref.path, DECODER_THREADS))
                return _Fake(ref, reader, self._ref, self._about, self._search, self._writer, self._settings, thread)

            tried = [self._try(ref, lambda ref=ref: opened(ref)) for ref in refs]  # type: ignore[misc]
            fakes = [fake for fake in tried if fake is not None]
            self._tell(self._ref.video_id)
            read = row_or_error(self._ref, None, lambda: self._read(fakes, is_to_store))
            if is_to_store:
                yield read
            if error := read.outcome.error_type:
                notes = {fake.ref: f"its original can't be read again ({error})" for fake in fakes}
                self.left = notes | self.left
            for fake in fakes:
                result = None if fake.ref in self.left else self._try(fake.ref, fake.result)
                if result is not None:
                    yield result

    def _read(self, fakes: Sequence[_Fake], is_to_store: bool) -> Result:
        cutter = own_cutter(self._ref, self._search, self._writer, self._settings)
        with VideoReader(self._ref.path, DECODER_THREADS) as reader:
            references: list[_Reference] = []
            for frame in reader.frames(self._about.is_wanted):
                if is_to_store:
                    cutter.take(frame)
                elif all(fake.ref in self.left for fake in fakes):
                    break
                self._show(frame, fakes, references)
                if len(references) == FRAMES_IN_STEP:
                    self._follow(fakes, references)
                    references = []
                if frame.index + 1 == len(self._about.wanted):
                    break
            if references:
                self._follow(fakes, references)
        return own_result(self._ref, self._search, cutter, reader, None)

    def _show(self, frame: Frame, fakes: Sequence[_Fake], references: list[_Reference]) -> None:
        """Add a frame to those that fakes are compared with. Comparing must not cost an original its row."""
        following = [fake.ref for fake in fakes if fake.ref not in self.left]
        if not following:
            return
        try:
            references.append(self._about.reference(frame))
        except Exception as error:  # The boundary of one video.
            note = f"its original can't be compared with ({type(error).__name__})"
            logger.info("%s: %s", self._ref.video_id, note, exc_info=True)
            self.left |= dict.fromkeys(following, note)

    def _follow(self, fakes: Sequence[_Fake], references: Sequence[_Reference]) -> None:
        slopes = {
            middle.index: slope(before.picture.cells, after.picture.cells)
            for before, middle, after in zip(references, references[1:], references[2:], strict=False)
            if after.index - before.index == 2
        }
        for fake in fakes:
            if fake.ref not in self.left:
                self._try(fake.ref, lambda fake=fake: fake.follow(references, slopes))  # type: ignore[misc]
        self._tell(self._ref.video_id)

    def _try(self, ref: VideoRef, step: Callable[[], T]) -> T | None:
        """One step of one fake; whatever is wrong with it, it is then done by itself, and the others go on."""
        self._tell(ref.video_id)
        try:
            return step()
        except StoreWriteError:
            raise
        except NoPairError as error:
            self.left[ref] = str(error)
        except Exception as error:  # The boundary of one video.
            self.left[ref] = f"it can't be compared with its original ({type(error).__name__})"
        logger.info("%s: %s", ref.video_id, self.left[ref])
        return None
