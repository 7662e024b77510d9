"""Detections of sampled frames become tracks: association, bridging, linear interpolation, segments. Pure numpy."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.config import TrackSettings
from pipeline.scenes import SceneCut
from pipeline.types import Detections, Float32Array, Track


@dataclass(eq=False)
class Chain:
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

    def box_at(self, frame_index: int) -> Float32Array:
        """float32 (4,): interpolated, or the last one there is."""
        after = bisect.bisect_left(self.frames, frame_index)
        if after == len(self.frames):
            return self.boxes[-1]
        first = max(after - 1, 0)
        boxes_xyxy = interpolate(self.frames[first : after + 1], np.array(self.boxes[first : after + 1]))
        return np.asarray(boxes_xyxy[frame_index - self.frames[first]], np.float32)


@dataclass(frozen=True)
class Tracks:
    """The faces of a video, and how many were left out and why."""

    tracks: list[Track] = field(repr=False)
    """Segments by face and time; faces by descending mean score."""
    num_too_short: int
    """Faces seen for less than ``min_frames``."""
    num_over_max_faces: int
    """Faces long enough, but beyond ``max_faces``."""
    chains: list[Chain] = field(repr=False, default_factory=list)
    """What was seen of each face, by ``face_id``."""


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


class Linker:
    """Follows every face through the sampled frames, as these are searched."""

    def __init__(self, settings: TrackSettings) -> None:
        self._settings = settings
        self.followed: list[Chain] = []
        """Faces that may be seen again."""
        self.ended: list[Chain] = []

    def add(self, frame_index: int, found: Detections, cut: SceneCut | None = None) -> None:
        """Take the next sampled frame.

        Args:
            frame_index: after all those before.
            found: its faces.
            cut: if it shows another scene than the sampled frame before it.
        """
        settings = self._settings
        still = [
            chain
            for chain in self.followed
            if frame_index - chain.frames[-1] <= settings.max_gap_frames
            and (cut is None or not cut.ends(chain.boxes[-1]))
        ]
        self.ended += [chain for chain in self.followed if chain not in still]
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
            Chain([frame_index], [found.boxes_xyxy[j]], [found.landmarks[j]], [float(found.scores[j])])
            for j in range(len(found))
            if j not in known
        ]
        self.followed = still + new

    def faces(self) -> list[Chain]:
        """What has been seen for long enough so far, by descending mean score."""
        chains = self.ended + self.followed
        long_enough = [chain for chain in chains if chain.num_frames >= self._settings.min_frames]
        # Ties by time and place, so that the order never depends on how chains were collected.
        return sorted(long_enough, key=lambda chain: (-chain.mean_score, chain.frames[0], *chain.boxes[0].tolist()))

    def tracks(self) -> Tracks:
        """The faces, when all frames were taken."""
        settings = self._settings
        faces = self.faces()
        kept = faces[: settings.max_faces]
        num_chains = len(self.ended) + len(self.followed)
        segments = [segment for face_id, chain in enumerate(kept) for segment in segments_of(chain, face_id, settings)]
        return Tracks(segments, num_chains - len(faces), len(faces) - len(kept), kept)


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


def _piece(chain: Chain, start: int, stop: int, face_id: int, segment: int) -> Track:
    """Frames [start, stop) of a face, counted from its first."""
    first, last = chain.frames[0] + start, chain.frames[0] + stop - 1
    # The detections at and around these frames are all that decides them.
    low, high = bisect.bisect_right(chain.frames, first) - 1, bisect.bisect_left(chain.frames, last) + 1
    frames = chain.frames[low:high]
    rows = slice(first - frames[0], last - frames[0] + 1)
    observed = np.zeros(frames[-1] - frames[0] + 1, bool)
    observed[np.array(frames) - frames[0]] = True
    boxes, landmarks, scores = (
        interpolate(frames, np.array(values[low:high], np.float32))[rows]
        for values in (chain.boxes, chain.landmarks, chain.scores)
    )
    return Track(face_id, segment, first, boxes, landmarks, scores, observed[rows])


def segment_edges(num_frames: int, max_frames: int, min_frames: int) -> list[int]:
    """Where a track is cut: full segments, but a rest that is too short for a clip is shared with the last of them.

    Returns:
        From 0 to ``num_frames``, ascending; no two further apart than ``max_frames``.
    """
    num_full, rest = divmod(num_frames, max_frames)
    edges = [i * max_frames for i in range(num_full + 1)]
    if 0 < rest < min_frames and num_full:
        edges[-1] = edges[-2] + (max_frames + rest) // 2
    return edges if edges[-1] == num_frames else [*edges, num_frames]


def segments_of(chain: Chain, face_id: int, settings: TrackSettings) -> list[Track]:
    """A face's track from its first to its last detection, in pieces that tile it."""
    edges = segment_edges(chain.num_frames, settings.segment_frames, settings.min_frames)
    return [_piece(chain, start, stop, face_id, i) for i, (start, stop) in enumerate(pairwise(edges))]


def decided_segments(chain: Chain, face_id: int, settings: TrackSettings, first: int) -> list[Track]:
    """Those of :func:`segments_of` from number ``first`` on that stay as they are, wherever else the face is seen."""
    length = settings.segment_frames
    num_decided = max(0, (chain.num_frames - settings.min_frames) // length)
    return [_piece(chain, i * length, (i + 1) * length, face_id, i) for i in range(first, num_decided)]


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
    linker = Linker(settings)
    for frame_index, found in zip(frame_indices, detections, strict=True):
        linker.add(frame_index, found, cuts.get(frame_index))
    return linker.tracks()
