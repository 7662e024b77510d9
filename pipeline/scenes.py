"""Scene cuts between sampled frames. A face on one side of a cut is not the face on the other, wherever its box is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from pipeline.types import Float32Array, Frame, UInt8Array

THUMBNAIL_SIZE = (32, 32)


def thumbnail(rgb: UInt8Array) -> Float32Array:
    """float32 (32, 32, 3) of a uint8 (H, W, 3) frame: what is left is the layout of the scene."""
    return np.asarray(cv2.resize(rgb, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA), np.float32)


def similarity(a: Float32Array, b: Float32Array) -> float:
    """Pearson correlation of two thumbnails, -1..1: not moved by a change of light. Two flat pictures are alike (1)."""
    a, b = a - a.mean(axis=(0, 1)), b - b.mean(axis=(0, 1))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 0 else float(np.array_equal(a, b))


class CutFinder:
    """Passes frames through and remembers which of them began a new scene."""

    def __init__(self, min_similarity: float) -> None:
        self._min_similarity = min_similarity
        self.cuts: set[int] = set()
        """Indices of frames that are less alike than that to the frame before them."""

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        last: Float32Array | None = None
        for frame in frames:
            current = thumbnail(frame.rgb)
            if last is not None and similarity(last, current) < self._min_similarity:
                self.cuts.add(frame.index)
            last = current
            yield frame
