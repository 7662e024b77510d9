"""The first pass over a video: its faces as tracks, from one frame in ten."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from pipeline.config import Settings
from pipeline.decode import VideoReader
from pipeline.detect import FaceDetector, Rung, retry_ladder
from pipeline.scenes import CutFinder
from pipeline.track import Tracks, build_tracks
from pipeline.types import VideoInfo


@dataclass(frozen=True)
class Search:
    """What the first pass found."""

    info: VideoInfo
    tracks: Tracks
    rung: Rung
    num_frames_decoded: int
    last_index: int
    """Of the video's last frame, counting those that failed to decode."""
    failed_frames: tuple[int, ...]
    decode_seconds: float
    detect_seconds: float
    remarks: list[str]


def find_faces(path: str, detector: FaceDetector, settings: Settings) -> Search:
    """Up the retry ladder until a face stays long enough to be a track.

    Raises:
        VideoDecodeError: the video can't be decoded.
    """
    searches: list[Search] = []
    decode_seconds = detect_seconds = 0.0
    for step in itertools.count():
        cut_finder = CutFinder(settings.track.cut_similarity, settings.track.cut_face_similarity)
        with VideoReader(path, detector.num_threads) as reader:
            ladder = retry_ladder(settings.detect, reader.info.width, reader.info.height)
            rung = ladder[step]
            found = detector.detect_video(cut_finder.watch(reader.sampled(settings.detect.every_n_frames)), rung)
        decode_seconds += reader.seconds
        detect_seconds += found.seconds
        search = Search(
            reader.info,
            build_tracks(found.frame_indices, found.detections, settings.track, cut_finder.cuts),
            replace(rung, scale=found.scale),
            reader.num_frames_decoded,
            reader.last_index,
            reader.failed_frames,
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
