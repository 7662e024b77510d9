"""A video's faces as tracks, from one frame in ten."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.ahead import read_ahead
from pipeline.config import Settings
from pipeline.decode import VideoReader
from pipeline.detect import FaceDetector, Rung, retry_ladder
from pipeline.frame import Frame
from pipeline.scenes import CutFinder
from pipeline.track import Linker, Tracks
from pipeline.types import VideoInfo

FRAMES_AHEAD = 6
"""Decoded meanwhile, where there are threads to spare: 37 MB of 1080p."""


@dataclass(frozen=True)
class Search:
    """What was found."""

    info: VideoInfo
    tracks: Tracks
    rung: Rung
    num_frames_decoded: int
    last_index: int
    """Of the last frame that was looked at, counting those that failed to decode."""
    failed_frames: tuple[int, ...]
    decode_seconds: float
    detect_seconds: float
    remarks: list[str]
    max_frames: int | None = None
    """Frames of a video that a pass may look at (``detect.max_frames``); None: all."""


class Watcher(Protocol):
    """Somebody who wants to see all frames, and what has been found so far."""

    def begin(self, reader: VideoReader) -> None:
        """A search begins; if there was one before, it found no track."""

    def watch(self, frame: Frame) -> None:
        """See a frame, in order."""

    def searched(self, last_index: int, linker: Linker) -> None:
        """Faces are known up to the newest frame, ``last_index``, which was searched everywhere."""


def find_faces(path: str, detector: FaceDetector, settings: Settings, watcher: Watcher | None = None) -> Search:
    """Up the retry ladder until a face stays long enough to be a track.

    Raises:
        VideoDecodeError: the video can't be decoded.
    """
    searches: list[Search] = []
    decode_seconds = detect_seconds = 0.0
    for step in itertools.count():
        with VideoReader(path, detector.num_threads, settings.detect.max_frames, detector.decode_device) as reader:
            ladder = retry_ladder(settings.detect, reader.info.width, reader.info.height)
            search = _search(reader, ladder[step], detector, settings, watcher)
        decode_seconds += search.decode_seconds
        detect_seconds += search.detect_seconds
        search = replace(search, decode_seconds=decode_seconds, detect_seconds=detect_seconds)
        if search.tracks.tracks:
            return search
        # What low thresholds let through and no track confirms is noise, not a face that was too short.
        if not ladder[step].keep_one:
            searches.append(search)
        if step + 1 == len(ladder):
            break
    told = next((search for search in searches if search.tracks.num_too_short), searches[0])
    return replace(told, decode_seconds=decode_seconds, detect_seconds=detect_seconds)


def _search(
    reader: VideoReader, rung: Rung, detector: FaceDetector, settings: Settings, watcher: Watcher | None
) -> Search:
    """One pass over the video."""
    cut_finder = CutFinder(settings.track.cut_similarity, settings.track.cut_face_similarity)
    linker = Linker(settings.track)
    scale, detect_seconds = rung.scale, 0.0
    if watcher is not None:
        watcher.begin(reader)
    every = settings.detect.every_n_frames
    frames = reader.sampled(every) if watcher is None else reader.frames()
    if detector.num_threads > 1:
        frames = read_ahead(frames, FRAMES_AHEAD)
    with closing(frames):
        sampled = frames if watcher is None else _sampled(frames, every, reader, watcher)
        for found in detector.search(cut_finder.watch(sampled), rung):
            for one in found:
                linker.add(one.frame_index, one.detections, cut_finder.cuts.get(one.frame_index))
                scale = min(scale, one.scale)
                detect_seconds += one.seconds
            if watcher is not None:
                watcher.searched(found[-1].frame_index, linker)
    return Search(
        reader.info,
        linker.tracks(),
        replace(rung, scale=scale),
        reader.num_frames_decoded,
        reader.last_index,
        reader.failed_frames,
        reader.seconds,
        detect_seconds + cut_finder.seconds,
        [*_remarks(reader, scale, rung)],
        reader.max_frames,
    )


def _remarks(reader: VideoReader, scale: float, rung: Rung) -> Iterator[str]:
    if scale < rung.scale:
        yield f"memory ran out: searched at scale {scale:.3g}"
    if reader.device_remark is not None:
        yield f"decoded without a GPU: {reader.device_remark}"


def _sampled(frames: Iterator[Frame], every: int, reader: VideoReader, watcher: Watcher) -> Iterator[Frame]:
    """The frames of :meth:`VideoReader.sampled`, while all are shown to the watcher."""
    newest = None
    for frame in frames:
        watcher.watch(frame)
        newest = frame
        if frame.index % every == 0:
            yield frame
    if newest is not None and newest.index % every and newest.index == reader.last_index:
        yield newest
