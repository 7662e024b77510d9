"""The work itself: one video, one partition. The same functions run in-process, on a local cluster and on a remote one.

A video is read twice: once to find its faces, which takes a frame in ten, and once to cut them out, which takes the
frames with faces. So memory holds clips being cut, never the video.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import perf_counter

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.crop import crop_square, crop_squares, sharpness
from pipeline.decode import VideoDecodeError, VideoReader
from pipeline.detect import FaceDetector, Rung, retry_ladder, shared_detector
from pipeline.device import Device
from pipeline.files import StoreFiles
from pipeline.frame import Frame, swap_red_and_blue
from pipeline.runs import Run, begin_attempt, end_attempt
from pipeline.scenes import CutFinder
from pipeline.schema import StoredTrack
from pipeline.track import Tracks, build_tracks
from pipeline.types import BoolArray, Partition, Track, VideoInfo, VideoOutcome, VideoRef
from pipeline.writer import PartitionWriter, StoreWriteError, frames_checksum

logger = logging.getLogger(__name__)

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class _Search:
    """What the first pass found."""

    info: VideoInfo
    tracks: Tracks
    rung: Rung
    num_frames_decoded: int
    failed_frames: tuple[int, ...]
    decode_seconds: float
    detect_seconds: float
    remarks: list[str]


def _find_faces(path: str, detector: FaceDetector, settings: Settings) -> _Search:
    """First pass, up the retry ladder until a face stays long enough to be a track."""
    searches: list[_Search] = []
    decode_seconds = detect_seconds = 0.0
    for step in itertools.count():
        cut_finder = CutFinder(settings.track.cut_similarity, settings.track.cut_face_similarity)
        with VideoReader(path, detector.num_threads) as reader:
            ladder = retry_ladder(settings.detect, reader.info.width, reader.info.height)
            rung = ladder[step]
            found = detector.detect_video(cut_finder.watch(reader.sampled(settings.detect.every_n_frames)), rung)
        decode_seconds += reader.seconds
        detect_seconds += found.seconds
        search = _Search(
            reader.info,
            build_tracks(found.frame_indices, found.detections, settings.track, cut_finder.cuts),
            replace(rung, scale=found.scale),
            reader.num_frames_decoded,
            tuple(reader.failed_frames),
            decode_seconds,
            detect_seconds,
            [f"memory ran out: searched at scale {found.scale:.3g}"] if found.scale < rung.scale else [],
        )
        if search.tracks.tracks:
            return search
        # What low thresholds let through and no track confirms is noise, not a face that was too short.
        if not rung.keep_one:
            searches.append(search)
        if rung is ladder[-1]:
            break
    told = next((search for search in searches if search.tracks.num_too_short), searches[0])
    return replace(told, decode_seconds=decode_seconds, detect_seconds=detect_seconds)


class _Clip:
    """A segment being cut out, frame by frame."""

    def __init__(self, track: Track, settings: Settings) -> None:
        self.track = track
        self.squares = crop_squares(track.boxes_xyxy, settings.crop)
        size = settings.crop.size
        self.frames = np.empty((len(track), size, size, 3), np.uint8)
        self.timestamps_seconds = np.zeros(len(track), np.float64)
        self.have: BoolArray = np.zeros(len(track), bool)

    def take(self, frame: Frame) -> None:
        row = frame.index - self.track.frame_start
        self.frames[row] = swap_red_and_blue(crop_square(frame.bgr, self.squares[row], self.frames.shape[1]))
        self.timestamps_seconds[row] = frame.timestamp_seconds
        self.have[row] = True

    def runs(self) -> list[slice]:
        """Stretches of consecutive frames that did decode: a frame that failed is a gap, never made up."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.have, [False]]).astype(np.int8)))
        return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


class _Cutter:
    """Second pass: cuts all segments of a video out of its frames and hands them to the writer as they fill."""

    def __init__(self, ref: VideoRef, search: _Search, writer: PartitionWriter, settings: Settings) -> None:
        self._ref = ref
        self._search = search
        self._writer = writer
        self._settings = settings
        self._waiting = sorted(search.tracks.tracks, key=lambda t: (t.frame_start, t.face_id), reverse=True)
        self._open: list[_Clip] = []
        self.stored: list[StoredTrack] = []
        self.num_too_short = 0
        self.seconds = 0.0

    def wanted(self) -> NDArray[np.bool_]:
        """Which frames show a face: bool, up to the last of them."""
        mask = np.zeros(max(track.frame_stop for track in self._waiting), bool)
        for track in self._waiting:
            mask[track.frame_start : track.frame_stop] = True
        return mask

    def take(self, frames: Iterable[Frame]) -> None:
        """Cut, until the last segment is complete."""
        for frame in frames:
            started = perf_counter()
            self._finish([clip for clip in self._open if clip.track.frame_stop <= frame.index])
            while self._waiting and self._waiting[-1].frame_start <= frame.index:
                self._open.append(_Clip(self._waiting.pop(), self._settings))
            for clip in self._open:
                clip.take(frame)
            self._finish([clip for clip in self._open if clip.track.frame_stop == frame.index + 1])
            self.seconds += perf_counter() - started
            if not self._open and not self._waiting:
                return
        self._finish(list(self._open))

    def _finish(self, clips: list[_Clip]) -> None:
        for clip in clips:
            self._open.remove(clip)
            for run in clip.runs():
                if run.stop - run.start < self._settings.track.min_frames:
                    self.num_too_short += 1
                else:
                    self._store(clip, run)

    def _store(self, clip: _Clip, run: slice) -> None:
        frames, timestamps_seconds = clip.frames[run], clip.timestamps_seconds[run]
        info, ref = self._search.info, self._ref
        fps = info.fps_from_header
        if not fps and timestamps_seconds[-1] > timestamps_seconds[0]:
            fps = (len(frames) - 1) / float(timestamps_seconds[-1] - timestamps_seconds[0])
        row_start = self._writer.append(frames)
        self.stored.append(
            StoredTrack(
                video_id=ref.video_id, track_id=-1, array=self._writer.array_name, row_start=row_start,
                track=clip.track[run], crop_xyxy=clip.squares[run], timestamps_seconds=timestamps_seconds, fps=fps,
                label=ref.label, source_id=ref.source_id, group_id=ref.group_id, width=info.width, height=info.height,
                sharpness=sharpness(frames), checksum=frames_checksum(frames),
            )
        )  # fmt: skip

    def numbered(self) -> list[StoredTrack]:
        """What was stored, by face and time, with ``track_id`` and ``segment`` counted in that order."""
        ordered = sorted(self.stored, key=lambda s: (s.track.face_id, s.track.frame_start))
        numbered: list[StoredTrack] = []
        for track_id, stored in enumerate(ordered):
            last = numbered[-1].track if numbered else None
            segment = last.segment + 1 if last is not None and last.face_id == stored.track.face_id else 0
            numbered.append(replace(stored, track_id=track_id, track=replace(stored.track, segment=segment)))
        return numbered


def _remarks(search: _Search) -> list[str]:
    """What is worth knowing of a video that could be read."""
    remarks = list(search.remarks)
    promised, decoded, failed = search.info.num_frames_from_header, search.num_frames_decoded, search.failed_frames
    if promised is not None and promised != decoded:
        remarks.append(f"decoded {decoded} frames, the header promises {promised}")
    if failed:
        remarks.append(f"{len(failed)} frames failed to decode, first {', '.join(map(str, failed[:5]))}")
    return remarks


def _extract(
    ref: VideoRef, writer: PartitionWriter, detector: FaceDetector, settings: Settings
) -> tuple[VideoOutcome, list[StoredTrack]]:
    search = _find_faces(ref.path, detector, settings)
    cutter = _Cutter(ref, search, writer, settings)
    failed_frames = set(search.failed_frames)
    decode_seconds = search.decode_seconds
    if search.tracks.tracks:
        wanted = cutter.wanted()
        with VideoReader(ref.path, detector.num_threads) as reader:
            cutter.take(reader.frames(lambda index: index < len(wanted) and bool(wanted[index])))
        failed_frames |= set(reader.failed_frames)
        decode_seconds += reader.seconds
    tracks = cutter.numbered()
    num_too_short = search.tracks.num_too_short + cutter.num_too_short
    outcome = VideoOutcome(
        ref,
        status="ok" if tracks else "too_short" if num_too_short else "no_face",
        message="; ".join(_remarks(search)) or None,
        num_frames_from_header=search.info.num_frames_from_header,
        num_frames_decoded=search.num_frames_decoded,
        num_frames_failed=len(failed_frames),
        width=search.info.width,
        height=search.info.height,
        fps_from_header=search.info.fps_from_header,
        num_tracks=len(tracks),
        num_tracks_too_short=num_too_short,
        num_tracks_over_max_faces=search.tracks.num_over_max_faces,
        detect_scale=search.rung.scale,
        thresholds=search.rung.thresholds,
        decode_seconds=decode_seconds,
        detect_seconds=search.detect_seconds,
        write_seconds=cutter.seconds,
    )
    return outcome, tracks


def process_video(
    ref: VideoRef, writer: PartitionWriter, detector: FaceDetector, settings: Settings
) -> tuple[VideoOutcome, list[StoredTrack]]:
    """Turn one video into clips and its row. Whatever is wrong with the video becomes the row.

    Raises:
        StoreWriteError: the store can't be written, which is no fault of the video.
    """
    try:
        return _extract(ref, writer, detector, settings)
    except StoreWriteError:
        raise
    except VideoDecodeError as error:
        logger.info("%s: %s", ref.video_id, error)
        return VideoOutcome(ref, "decode_error", type(error).__name__, str(error)), []
    except Exception as error:  # The boundary of one video: nothing it does may cost another one its row.
        logger.info("%s failed: %s", ref.video_id, error, exc_info=True)
        return VideoOutcome(ref, "failed", type(error).__name__, str(error) or repr(error)), []


def prepare_process() -> None:
    """Set up a process that does nothing but extract; results don't depend on it.

    One thread a library: work is spread over processes and over the detector's threads instead, whose number doesn't
    change results (see :class:`FaceDetector`). And memory of freed frames is kept for the next ones: dask starts
    workers with MALLOC_TRIM_THRESHOLD_=65536, which gives each frame back to the system, and a third of the time goes
    into page faults.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def _unheard(_video_id: str | None) -> None:
    return


def process_partition(
    partition: Partition,
    run: Run,
    settings: Settings,
    device: Device,
    num_threads: int,
    progress: Callable[[str | None], None] = _unheard,
) -> list[VideoOutcome]:
    """Work through one partition and commit it.

    Does nothing if an earlier attempt has committed it: an engine may run a task again whose answer got lost.

    Args:
        partition: its number has not been tried before.
        run: that the work is for; it says where the store is.
        settings: of the extraction.
        device: that networks run on.
        num_threads: of the detector and the decoder.
        progress: told the ``video_id`` of what is worked on, and None for what concerns all of them.

    Returns:
        What became of each video; empty if there was nothing to do.

    Raises:
        StoreWriteError: the store can't be written; nothing of the partition is committed.
        AttemptLostError, PartitionTakenError, RunOverError: the work is no longer this attempt's.
    """
    files = StoreFiles(run.store_url)
    if files.exists(f"videos/{partition.name}.parquet"):
        return []
    prepare_process()
    detector = shared_detector(settings.detect, device, num_threads)
    writer = PartitionWriter(files, partition.name, settings.crop.size, settings.store)
    begin_attempt(files, run, partition.name, writer.array_name)
    try:
        results = []
        for ref in partition.videos:
            progress(ref.video_id)
            results.append(process_video(ref, writer, detector, settings))
        progress(None)
        outcomes = [outcome for outcome, _ in results]
        writer.commit(outcomes, [track for _, tracks in results for track in tracks])
    except BaseException:
        writer.discard()
        raise
    finally:
        end_attempt(files, partition.name)
    return outcomes
