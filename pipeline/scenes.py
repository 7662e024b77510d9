"""Scene cuts between sampled frames. A face on one side of a cut is not the face on the other, wherever its box is.

Unless the cut is elsewhere in the picture: behind an inset, beside a split screen. So a cut is judged twice, over the
whole frame and around each face.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

import cv2
import numpy as np

from pipeline.frame import Frame
from pipeline.types import Float32Array, UInt8Array

THUMBNAIL_PIXELS = 64
MIN_CHANGE = 12.0
"""Mean change of a thumbnail's values, of 255, below which there is no cut: before a plain wall a small face that moves
is all there is to correlate. Cuts in our clips change it by 30 to 130, motion by up to 25."""
MIN_REGION_PIXELS = 6
"""Of a thumbnail: a smaller region has no layout to compare."""
SURROUNDINGS = 1.5
"""Side of the region that is compared around a face, over the side of its box."""


def thumbnail(picture: UInt8Array) -> UInt8Array:
    """uint8 (64, 64, 3) of a uint8 (H, W, 3) frame, channels as they come: what is left is the layout of the scene."""
    # Four samples a pixel and axis say enough; averaging all of a 1080p frame takes ten times as long.
    step = max(1, min(picture.shape[:2]) // (4 * THUMBNAIL_PIXELS))
    height, width = (side // step for side in picture.shape[:2])
    # As slices of numpy would give them, in a ninth of the time. Less than a step at the far borders is left out.
    inside = picture[: height * step, : width * step]
    samples = cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST) if step > 1 else inside
    size = (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
    return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_AREA), np.uint8)


def similarity(a: UInt8Array, b: UInt8Array) -> float:
    """Pearson correlation of two thumbnails, -1..1: not moved by a change of light. Two flat pictures are alike (1)."""
    x, y = (picture.astype(np.float64) - picture.mean(axis=(0, 1)) for picture in (a, b))
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm > 0 else float(np.array_equal(x, y))


@dataclass(frozen=True)
class SceneCut:
    """Two successive sampled frames that show different scenes."""

    before: UInt8Array
    """Thumbnail of the last frame of one scene."""
    after: UInt8Array
    """Thumbnail of the first frame of the next."""
    frame_size: tuple[int, int]
    """Width and height of the video, pixels."""
    min_face_similarity: float

    def ends(self, box_xyxy: Float32Array) -> bool:
        """Whether the picture around a face, float32 (4,) in source pixels, changed with the scene."""
        to_thumbnail = THUMBNAIL_PIXELS / np.tile(self.frame_size, 2)
        x1, y1, x2, y2 = (float(v) for v in box_xyxy * to_thumbnail)
        columns = _span((x1 + x2) / 2, x2 - x1)
        rows = _span((y1 + y2) / 2, y2 - y1)
        return similarity(self.before[rows, columns], self.after[rows, columns]) < self.min_face_similarity


def _span(centre: float, length: float) -> slice:
    """Pixels of a thumbnail around a face, along one axis."""
    half = max(length * SURROUNDINGS, MIN_REGION_PIXELS) / 2
    start = min(max(int(np.floor(centre - half)), 0), THUMBNAIL_PIXELS - MIN_REGION_PIXELS)
    return slice(start, max(int(np.ceil(centre + half)), start + MIN_REGION_PIXELS))


class CutFinder:
    """Passes frames through and remembers which of them began a new scene."""

    def __init__(self, min_similarity: float, min_face_similarity: float) -> None:
        self._min_similarity = min_similarity
        self._min_face_similarity = min_face_similarity
        self.cuts: dict[int, SceneCut] = {}
        """By index of the frame that is less alike than that to the frame before it; 25 KB a cut."""
        self.seconds = 0.0
        """Spent so far, with converting the frames."""

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames."""
        last: UInt8Array | None = None
        for frame in frames:
            started = perf_counter()
            current = thumbnail(frame.bgr)
            if last is not None and self._is_cut(last, current):
                size = (frame.bgr.shape[1], frame.bgr.shape[0])
                self.cuts[frame.index] = SceneCut(last, current, size, self._min_face_similarity)
            last = current
            self.seconds += perf_counter() - started
            yield frame

    def _is_cut(self, before: UInt8Array, after: UInt8Array) -> bool:
        change = float(np.abs(after.astype(np.int16) - before).mean())
        return change >= MIN_CHANGE and similarity(before, after) < self._min_similarity
