"""One video by itself: searched, cut out, and its row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.config import Settings
from pipeline.cutter import Cutter
from pipeline.decode import VideoDecodeError, VideoReader, num_frames_expected
from pipeline.detect import FaceDetector
from pipeline.schema import StoredTrack
from pipeline.search import Search, find_faces
from pipeline.single_pass import SinglePass
from pipeline.types import TracksFrom, VideoInfo, VideoOutcome, VideoRef
from pipeline.writer import PartitionWriter, StoreWriteError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What became of a video."""

    outcome: VideoOutcome
    tracks: list[StoredTrack]


@dataclass(frozen=True)
class Reading:
    """What reading a video came to, over all passes."""

    num_frames_decoded: int
    failed_frames: frozenset[int]
    seconds: float

    def and_again(self, reader: VideoReader) -> Reading:
        """With one more pass, over some of the frames."""
        failed_frames = self.failed_frames | frozenset(reader.failed_frames)
        return Reading(self.num_frames_decoded, failed_frames, self.seconds + reader.seconds)


def row_or_error(ref: VideoRef, pairing_note: str | None, work: Callable[[], Result]) -> Result:
    """What the work comes to. Whatever is wrong with the video becomes its row.

    Raises:
        StoreWriteError: the store can't be written, which is no fault of the video.
    """
    try:
        return work()
    except StoreWriteError:
        raise
    except VideoDecodeError as error:
        logger.info("%s: %s", ref.video_id, error)
        status, kind, message = "decode_error", type(error).__name__, str(error)
    except Exception as error:  # The boundary of one video: nothing it does may cost another one its row.
        logger.info("%s failed: %s", ref.video_id, error, exc_info=True)
        status, kind, message = "failed", type(error).__name__, str(error) or repr(error)
    return Result(VideoOutcome(ref, status, kind, message, pairing_note=pairing_note), [])  # type: ignore[arg-type]


def process_video(
    ref: VideoRef,
    writer: PartitionWriter,
    detector: FaceDetector,
    settings: Settings,
    pairing_note: str | None = None,
) -> Result:
    """Turn one video, with tracks of its own, into clips and its row.

    Args:
        pairing_note: why it doesn't have the tracks of its original.

    Raises:
        StoreWriteError: the store can't be written.
    """

    def work() -> Result:
        with SinglePass(lambda info: own_cutter(ref, info, writer, settings), settings) as cutting:
            search = find_faces(ref.path, detector, settings, cutting)
            if not search.tracks.tracks:
                return without_tracks(ref, search, pairing_note)
            needed = cutting.finish(search.tracks)
            decoding = Reading(search.num_frames_decoded, frozenset(search.failed_frames), search.decode_seconds)
            if needed.any():
                max_frames, device = settings.detect.max_frames, detector.decode_device
                with VideoReader(ref.path, detector.num_threads, max_frames, device) as reader:
                    for frame in reader.frames(lambda index: index < len(needed) and bool(needed[index])):
                        cutting.take(frame)
                        if frame.index + 1 == len(needed):
                            break
                decoding = decoding.and_again(reader)
            tracks = cutting.stored(search.tracks)
            return own_result(ref, search, decoding, tracks, cutting.num_too_short, cutting.seconds, pairing_note)

    return row_or_error(ref, pairing_note, work)


def own_cutter(ref: VideoRef, info: VideoInfo, writer: PartitionWriter, settings: Settings) -> Cutter:
    """Of a video with tracks of its own. If it is an original, they are those of its fakes, too."""
    pair_source = ref.video_id if ref.source_id is None else None
    return Cutter(ref, info, pair_source, False, writer, settings)


def without_tracks(ref: VideoRef, search: Search, pairing_note: str | None) -> Result:
    """The row of a video without a face that stays."""
    reading = Reading(search.num_frames_decoded, frozenset(search.failed_frames), search.decode_seconds)
    return Result(outcome(ref, search, "own", reading, [], 0, search.detect_seconds, 0.0, pairing_note), [])


def own_result(
    ref: VideoRef,
    search: Search,
    reading: Reading,
    tracks: list[StoredTrack],
    num_cut_too_short: int,
    write_seconds: float,
    pairing_note: str | None,
) -> Result:
    """What was cut out of a video with tracks of its own."""
    seconds = search.detect_seconds, write_seconds
    return Result(outcome(ref, search, "own", reading, tracks, num_cut_too_short, *seconds, pairing_note), tracks)


def outcome(
    ref: VideoRef,
    search: Search,
    tracks_from: TracksFrom,
    reading: Reading,
    tracks: Sequence[StoredTrack],
    num_cut_too_short: int,
    detect_seconds: float,
    write_seconds: float,
    pairing_note: str | None,
) -> VideoOutcome:
    """The row of a video that could be read.

    Args:
        ref: the video.
        search: of it, or of its original.
        tracks_from: which of both.
        reading: of the video itself.
        tracks: that were stored.
        num_cut_too_short: pieces that weren't, since too many frames failed.
        detect_seconds: spent on this video.
        write_seconds: spent on this video.
        pairing_note: see :class:`VideoOutcome`.
    """
    num_too_short = search.tracks.num_too_short + num_cut_too_short
    return VideoOutcome(
        ref,
        status="ok" if tracks else "too_short" if num_too_short else "no_face",
        message="; ".join(_remarks(search, reading)) or None,
        num_frames_from_header=search.info.num_frames_from_header,
        num_frames_decoded=reading.num_frames_decoded,
        num_frames_failed=len(reading.failed_frames),
        width=search.info.width,
        height=search.info.height,
        fps_from_header=search.info.fps_from_header,
        num_tracks=len(tracks),
        num_tracks_too_short=num_too_short,
        num_tracks_over_max_faces=search.tracks.num_over_max_faces,
        detect_scale=search.rung.scale,
        thresholds=search.rung.thresholds,
        decode_seconds=reading.seconds,
        detect_seconds=detect_seconds,
        write_seconds=write_seconds,
        tracks_from=tracks_from,
        pairing_note=pairing_note,
    )


def _remarks(search: Search, reading: Reading) -> Iterable[str]:
    """What is worth knowing of a video that could be read."""
    yield from search.remarks
    promised, decoded = search.info.num_frames_from_header, reading.num_frames_decoded
    expected, failed = num_frames_expected(search.info, search.max_frames), sorted(reading.failed_frames)
    if expected is not None and expected != decoded:
        yield (
            f"decoded {decoded} frames, the header promises {promised}"
            if expected == promised
            else f"decoded {decoded} of the first {expected} frames"
        )
    if failed:
        yield f"{len(failed)} frames failed to decode, first {', '.join(map(str, failed[:5]))}"
