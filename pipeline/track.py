"""Detections of sampled frames become tracks: association, bridging, linear interpolation, segments. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.config import TrackSettings
from pipeline.scenes import SceneCut
from pipeline.types import Detections, Float32Array, Track


@dataclass(frozen=True)
class Tracks:
    """The faces of a video, and how many were left out and why."""

    tracks: list[Track] = field(repr=False)
    """Segments by face and time; faces by descending mean score."""
    num_too_short: int
    """Faces seen for less than ``min_frames``."""
    num_over_max_faces: int
    """Faces long enough, but beyond ``max_faces``."""


@dataclass(eq=False)
class _Chain:
    """One face while it is being followed: where and when it was seen."""

    frames: list[int]
    boxes: list[Float32Array]
    landmarks: list[Float32Array]
    scores: list[float]

    @property
    def num_frames(self) -> int:
        return self.frames[-1] - self.frames[0] + 1

    @property
    def mean_score(self) -> float:
        return float(np.mean(self.scores))


def pairwise_iou(a_xyxy: Float32Array, b_xyxy: Float32Array) -> Float32Array:
    """Intersection over union of every box of one set with every box of another.

    Args:
        a_xyxy: float32 (N, 4), ``x1 < x2`` and ``y1 < y2``.
        b_xyxy: float32 (M, 4).

    Returns:
        float32 (N, M) in [0, 1].
    """
    a, b = a_xyxy[:, None], b_xyxy[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(min=0).prod(axis=2)
    areas_a, areas_b = ((boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (a, b))
    return np.asarray(intersection / (areas_a + areas_b - intersection), np.float32)


def associate(a_xyxy: Float32Array, b_xyxy: Float32Array, min_iou: float) -> list[tuple[int, int]]:
    """One-to-one pairs (row of a, row of b) of greatest total IoU, none of them below ``min_iou``.

    A pair below it counts nothing in the total, so it can't push a good pair aside.
    """
    iou = pairwise_iou(a_xyxy, b_xyxy)
    iou[iou < min_iou] = 0.0
    pairs = zip(*linear_sum_assignment(iou, maximize=True), strict=True)
    return [(int(i), int(j)) for i, j in pairs if iou[i, j] > 0]


def _link(
    frame_indices: Sequence[int],
    detections: Sequence[Detections],
    settings: TrackSettings,
    cuts: Mapping[int, SceneCut],
) -> list[_Chain]:
    """Follow every face through the sampled frames."""
    followed: list[_Chain] = []
    ended: list[_Chain] = []
    for frame_index, found in zip(frame_indices, detections, strict=True):
        cut = cuts.get(frame_index)
        still = [
            chain
            for chain in followed
            if frame_index - chain.frames[-1] <= settings.max_gap_frames
            and (cut is None or not cut.ends(chain.boxes[-1]))
        ]
        ended += [chain for chain in followed if chain not in still]
        last_boxes = np.array([chain.boxes[-1] for chain in still], np.float32).reshape(-1, 4)
        pairs = associate(last_boxes, found.boxes_xyxy, settings.min_iou)
        for i, j in pairs:
            chain = still[i]
            chain.frames.append(frame_index)
            chain.boxes.append(found.boxes_xyxy[j])
            chain.landmarks.append(found.landmarks[j])
            chain.scores.append(float(found.scores[j]))
        known = {j for _, j in pairs}
        new = [
            _Chain([frame_index], [found.boxes_xyxy[j]], [found.landmarks[j]], [float(found.scores[j])])
            for j in range(len(found))
            if j not in known
        ]
        followed = still + new
    return ended + followed


def interpolate(frames: Sequence[int], values: Float32Array) -> Float32Array:
    """Values at every frame from the first to the last given one, linear in between.

    Args:
        frames: N frame indices, ascending.
        values: float32 (N, ...) at those frames.

    Returns:
        float32 (T, ...), T = last - first + 1. At the given frames it is exactly the given value, elsewhere within the
        range of the two around it.
    """
    known = np.asarray(frames)
    wanted = np.arange(known[0], known[-1] + 1)
    before = np.searchsorted(known, wanted, side="right") - 1
    after = np.minimum(before + 1, len(known) - 1)
    span = np.maximum(known[after] - known[before], 1)
    weight = ((wanted - known[before]) / span).reshape(-1, *[1] * (values.ndim - 1))
    # In float64, so that rounding to float32 can't step over an end.
    low, high = values[before].astype(np.float64), values[after].astype(np.float64)
    return np.asarray(low + (high - low) * weight, np.float32)


def _dense(chain: _Chain, face_id: int) -> Track:
    observed = np.zeros(chain.num_frames, bool)
    observed[np.array(chain.frames) - chain.frames[0]] = True
    boxes, landmarks, scores = (
        interpolate(chain.frames, np.array(values, np.float32))
        for values in (chain.boxes, chain.landmarks, chain.scores)
    )
    return Track(face_id, 0, chain.frames[0], boxes, landmarks, scores, observed)


def cut_into_segments(track: Track, max_frames: int) -> list[Track]:
    """Consecutive pieces of at most ``max_frames`` that tile the track, equal in length to within one frame.

    Equal, not "full ones and a rest": a rest of a few frames is no clip.
    """
    num_segments = -(-len(track) // max_frames)
    edges = [len(track) * i // num_segments for i in range(num_segments + 1)]
    pieces = (track[start:stop] for start, stop in pairwise(edges))
    return [replace(piece, segment=segment) for segment, piece in enumerate(pieces)]


def build_tracks(
    frame_indices: Sequence[int],
    detections: Sequence[Detections],
    settings: TrackSettings,
    cuts: Mapping[int, SceneCut] = MappingProxyType({}),
) -> Tracks:
    """Tracks of all faces of one video.

    Args:
        frame_indices: the sampled frames, ascending.
        detections: the faces of each.
        settings: see :class:`TrackSettings`.
        cuts: by sampled frame that shows another scene than the sampled frame before it.

    Returns:
        Dense tracks from a face's first to its last detection, cut into segments.
    """
    chains = _link(frame_indices, detections, settings, cuts)
    long_enough = [chain for chain in chains if chain.num_frames >= settings.min_frames]
    # Ties by time and place, so that the order never depends on how chains were collected.
    long_enough.sort(key=lambda chain: (-chain.mean_score, chain.frames[0], *chain.boxes[0].tolist()))
    kept = long_enough[: settings.max_faces]
    segments = [
        segment
        for face_id, chain in enumerate(kept)
        for segment in cut_into_segments(_dense(chain, face_id), settings.segment_frames)
    ]
    return Tracks(segments, len(chains) - len(long_enough), len(long_enough) - len(kept))
