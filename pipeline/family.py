"""An original and the fakes that were made from it, read side by side: one search for all of them.

The original is searched. Then it and its fakes are decoded in step, some frames at a time: a fake is cut along the
original's tracks and compared with it, frame by frame, and leaves as soon as it turns out to show something else; it is
then done like any other video. What comes out for a fake depends on its file and the original's alone, not on what else
is in the partition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from pipeline.agreement import slope
from pipeline.config import Settings
from pipeline.decode import VideoReader
from pipeline.detect import FaceDetector
from pipeline.follower import Follower, NoPairError, Reference, SearchedOriginal
from pipeline.frame import Frame
from pipeline.search import find_faces
from pipeline.types import VideoRef
from pipeline.video import Reading, Result, own_cutter, own_result, process_video, row_or_error, without_tracks
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
            about = SearchedOriginal(original, search, settings)
            ready.append(_Together(about, writer, detector, tell))
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


class _Together:
    """Passes over an original, each with some of its fakes."""

    def __init__(self, original: SearchedOriginal, writer: PartitionWriter, detector: FaceDetector, tell: Tell) -> None:
        self._original = original
        self._writer = writer
        self._num_threads = detector.num_threads
        self._decode_device = detector.decode_device
        self._tell = tell
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

            def opened(ref: VideoRef) -> Follower:
                reader = stack.enter_context(self._reader(ref))
                return Follower(ref, reader, self._original, self._writer, thread)

            tried = [self._try(ref, lambda ref=ref: opened(ref)) for ref in refs]  # type: ignore[misc]
            fakes = [fake for fake in tried if fake is not None]
            self._tell(self._original.ref.video_id)
            read = row_or_error(self._original.ref, None, lambda: self._read(fakes, is_to_store))
            if is_to_store:
                yield read
            if error := read.outcome.error_type:
                notes = {fake.ref: f"its original can't be read again ({error})" for fake in fakes}
                self.left = notes | self.left
            for fake in fakes:
                result = None if fake.ref in self.left else self._try(fake.ref, fake.result)
                if result is not None:
                    yield result

    def _reader(self, ref: VideoRef) -> VideoReader:
        return VideoReader(ref.path, DECODER_THREADS, self._original.max_frames, self._decode_device)

    def _read(self, fakes: Sequence[Follower], is_to_store: bool) -> Result:
        original = self._original
        search = original.search
        cutter = own_cutter(original.ref, search.info, self._writer, original.settings)
        cutter.expect(search.tracks.tracks)
        with self._reader(original.ref) as reader:
            references: list[Reference] = []
            for frame in reader.frames(original.is_wanted):
                if is_to_store:
                    cutter.take(frame)
                elif all(fake.ref in self.left for fake in fakes):
                    break
                self._show(frame, fakes, references)
                if len(references) == FRAMES_IN_STEP:
                    self._follow(fakes, references)
                    references = []
                if frame.index + 1 == len(original.wanted):
                    break
            if references:
                self._follow(fakes, references)
        searching = Reading(search.num_frames_decoded, frozenset(search.failed_frames), search.decode_seconds)
        reading = searching.and_again(reader)
        return own_result(original.ref, search, reading, cutter.finish(), cutter.num_too_short, cutter.seconds, None)

    def _show(self, frame: Frame, fakes: Sequence[Follower], references: list[Reference]) -> None:
        """Add a frame to those that fakes are compared with. Comparing must not cost an original its row."""
        following = [fake.ref for fake in fakes if fake.ref not in self.left]
        if not following:
            return
        try:
            references.append(self._original.reference(frame))
        except Exception as error:  # The boundary of one video.
            note = f"its original can't be compared with ({type(error).__name__})"
            logger.info("%s: %s", self._original.ref.video_id, note, exc_info=True)
            self.left |= dict.fromkeys(following, note)

    def _follow(self, fakes: Sequence[Follower], references: Sequence[Reference]) -> None:
        slopes = {
            middle.index: slope(before.picture.cells, after.picture.cells)
            for before, middle, after in zip(references, references[1:], references[2:], strict=False)
            if after.index - before.index == 2
        }
        for fake in fakes:
            if fake.ref not in self.left:
                self._try(fake.ref, lambda fake=fake: fake.follow(references, slopes))  # type: ignore[misc]
        self._tell(self._original.ref.video_id)

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
