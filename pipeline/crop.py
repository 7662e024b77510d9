"""Tracks and frames -> face clips. Squares only: aspect is never distorted, only what lies beyond a frame is padded."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.config import CropSettings
from pipeline.types import Float32Array, UInt8Array


def union_squares(boxes_xyxy: Float32Array, margin: float) -> Float32Array:
    """One static square about all boxes, so that the motion of the head stays in the clip.

    Args:
        boxes_xyxy: float32 (T, 4), source pixels.
        margin: added on each side, as a share of the longer side of the union; above -0.5. Where a network is shown the
            middle m pixels of pictures that were resized to n, the same region is cut out with (m / n - 1) / 2.

    Returns:
        float32 (T, 4), the same whole-pixel square T times; it may reach beyond the frame.
    """
    low, high = boxes_xyxy[:, :2].min(axis=0), boxes_xyxy[:, 2:].max(axis=0)
    side = max(1.0, np.ceil((high - low).max() * (1 + 2 * margin)))
    corner = np.round((low + high - side) / 2)
    return np.tile(np.concatenate([corner, corner + side]).astype(np.float32), (len(boxes_xyxy), 1))


def follow_squares(boxes_xyxy: Float32Array, scale: float, percentile: float, size: int) -> Float32Array:
    """A square of fixed size whose centre moves with the boxes.

    Args:
        boxes_xyxy: float32 (T, 4), source pixels.
        scale: side of the square over the percentile of the boxes' longer sides.
        percentile: 0..100.
        size: side of the picture to be made of it. A square that will be shrunk lies on whole pixels, which moves it by
            less than half a pixel of the picture; one that will be enlarged doesn't, or the clip would shake.

    Returns:
        float32 (T, 4); it may reach beyond the frame.
    """
    longer_sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1)
    side = max(1.0, float(np.percentile(longer_sides, percentile)) * scale)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    if side >= size:
        side = np.ceil(side)
        corners = np.round(centres - side / 2)
    else:
        corners = centres - side / 2
    return np.concatenate([corners, corners + side], axis=1).astype(np.float32)


def crop_squares(boxes_xyxy: Float32Array, settings: CropSettings) -> Float32Array:
    """The square to cut out of each frame of a segment: float32 (T, 4), source pixels."""
    if settings.mode == "union":
        return union_squares(boxes_xyxy, settings.margin)
    return follow_squares(boxes_xyxy, settings.follow_scale, settings.follow_percentile, settings.size)


CUBIC_REACH_PIXELS = 3
"""Cubic interpolation takes from two pixels on either side, and rounding may add one."""


def window_of(square_xyxy: Float32Array, width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels of a frame that :func:`crop_square` looks at, xyxy, half-open; all zeros if there are none."""
    reach = 0 if _is_whole(square_xyxy) else CUBIC_REACH_PIXELS
    low, high = np.floor(square_xyxy[:2]) - reach, np.ceil(square_xyxy[2:]) + reach
    left, top = (max(0, int(v)) for v in low)
    right, bottom = (min(int(v), limit) for v, limit in zip(high, (width, height), strict=True))
    return (left, top, right, bottom) if left < right and top < bottom else (0, 0, 0, 0)


def _is_whole(square_xyxy: Float32Array) -> bool:
    return all(v.is_integer() for v in square_xyxy.tolist())


def crop_square(
    picture: UInt8Array, square_xyxy: Float32Array, size: int, corner_xy: tuple[int, int] = (0, 0)
) -> UInt8Array:
    """Cut a square out of a frame and scale it: averaged when it shrinks, cubic when it grows.

    Args:
        picture: uint8 (H, W, 3), channels in any order: a frame, or as much of it as :func:`window_of` says.
        square_xyxy: float32 (4,), source pixels; black where it reaches beyond the picture.
        size: side of the result, pixels.
        corner_xy: where the picture lies in the frame.

    Returns:
        uint8 (size, size, 3), channels in the same order.
    """
    x1, y1, x2, y2 = (square_xyxy.astype(np.float64) - np.tile(corner_xy, 2)).tolist()
    if not _is_whole(square_xyxy):
        # In pixels from a corner of its own, or rounding would depend on where the picture's lies.
        left, top = int(np.floor(x1)) - CUBIC_REACH_PIXELS, int(np.floor(y1)) - CUBIC_REACH_PIXELS
        right, bottom = int(np.ceil(x2)) + CUBIC_REACH_PIXELS, int(np.ceil(y2)) + CUBIC_REACH_PIXELS
        step = (x2 - x1) / size
        # Maps centres of pixels to centres of pixels, as cv2.resize does.
        to_source = np.array([[step, 0, x1 - left + step / 2 - 0.5], [0, step, y1 - top + step / 2 - 0.5]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        inside = _padded(picture, left, top, right, bottom)
        return np.asarray(cv2.warpAffine(inside, to_source, (size, size), flags=flags), np.uint8)
    inside = _padded(picture, int(x1), int(y1), int(x2), int(y2))
    if x2 - x1 > size:
        return _shrunk(inside, size)
    return np.asarray(cv2.resize(inside, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def _padded(picture: UInt8Array, left: int, top: int, right: int, bottom: int) -> UInt8Array:
    """A rectangle of the picture, black where it reaches beyond."""
    height, width = picture.shape[:2]
    inside = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not inside.size:
        return np.zeros((bottom - top, right - left, 3), np.uint8)
    beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if not any(beyond):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_CONSTANT, value=(0, 0, 0)), np.uint8)


def _shrunk(picture: UInt8Array, size: int) -> UInt8Array:
    """A square made smaller: linear to a whole multiple of the size, of which whole pixels are averaged.

    On frames at 1080p within 0.2 grey levels of cv2.INTER_AREA in the mean, in a sixth to two thirds of its time: that
    one is slow at fractions.
    """
    side = picture.shape[0]
    times = max(2, side // size) if side >= 1.5 * size else 1
    if side != times * size:
        picture = np.asarray(cv2.resize(picture, (times * size, times * size), interpolation=cv2.INTER_LINEAR))
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def sharpness(clip: UInt8Array, num_samples: int = 8) -> float:
    """Mean variance of the Laplacian of some evenly spaced grey frames of a clip; low is blurred.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy". Comparable only at one crop size.
    """
    samples = np.unique(np.linspace(0, len(clip) - 1, num_samples).astype(int))
    grey = (cv2.cvtColor(clip[i], cv2.COLOR_RGB2GRAY) for i in samples)
    return float(np.mean([cv2.Laplacian(picture, cv2.CV_32F).var() for picture in grey]))
