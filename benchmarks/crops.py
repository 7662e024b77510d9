"""Which crops there are, whoever made them: squares by video and frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from benchmarks.seed_recipe import Clip
from pipeline.store import FaceStore
from pipeline.track import pairwise_iou

Crops = Mapping[tuple[str, int], list[tuple[float, ...]]]
"""By ``video_id`` and frame, xyxy in pixels of the video."""

SAME_IOU = 0.5
"""Two squares that overlap so much show the same face: they differ in margin, and in how long their clips are."""


def crops_of_store(store: FaceStore) -> Crops:
    crops: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for row in store.tracks.to_pylist():
        for frame, square in enumerate(row["crop_xyxy"], row["frame_start"]):
            crops.setdefault((row["video_id"], frame), []).append(tuple(square))
    return crops


def crops_of_recipe(clips: Iterable[Clip]) -> Crops:
    crops: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for clip in clips:
        for frame in range(clip.frame_start, clip.frame_stop):
            crops.setdefault((clip.video_id, frame), []).append(clip.square)
    return crops


def num_crops(crops: Crops) -> int:
    return sum(map(len, crops.values()))


def share_also_in(crops: Crops, others: Crops) -> float:
    """How many of the crops the others have, too: a square about there in the same frame. 1 where there are none."""
    found = 0
    for where, squares in crops.items():
        if where in others:
            iou = pairwise_iou(np.array(squares, np.float32), np.array(others[where], np.float32))
            found += int((iou.max(axis=1) >= SAME_IOU).sum())
    return found / max(1, num_crops(crops)) if crops else 1.0
