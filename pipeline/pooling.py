"""Area pooling of many rectangles at once, into pictures as MTCNN's networks want them. Torch only.

A mean over any rectangle is four look-ups in an integral image (Crow 1984). MTCNN's time goes into area pooling: of the
whole frame for each level of the pyramid, and of each candidate in a Python loop. Here one integral image a frame
serves all levels and, in one gather, all candidates; and sums of integers are exact.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

HALF_RANGE = 128
"""What the networks' input is divided by."""


def integral_images(images: Tensor) -> Tensor:
    """Sums over all pixels above and left of each corner.

    Args:
        images: uint8 (N, H, W, 3).

    Returns:
        int32 (N, H + 1, W + 1, 3). It may wrap around on enormous frames; differences stay exact modulo 2**32.
    """
    if images.device.type == "cpu":
        # 0.35 ms a 960x540 frame; torch.cumsum takes 13 ms for it.
        num_images, height, width, channels = images.shape
        integrals = np.empty((num_images, height + 1, width + 1, channels), np.int32)
        for image, integral in zip(images.numpy(), integrals, strict=True):
            cv2.integral(image, integral)
        return torch.from_numpy(integrals)
    sums = images.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return torch.nn.functional.pad(sums, (0, 0, 1, 0, 1, 0))


def bins(i: Tensor, num_bins: Tensor | int, num_pixels: Tensor | int) -> tuple[Tensor, Tensor]:
    """Bin ``i`` of adaptive average pooling, half-open: bins may overlap by one pixel."""
    return i * num_pixels // num_bins, -(-(i + 1) * num_pixels // num_bins)


def _normalised(sums: Tensor, divisors: Tensor) -> Tensor:
    """Sums (..., H, W, 3) of pixels in 0..255 -> means (..., 3, H, W) in [-1, 1], channels last in memory: so the
    networks are fast.

    Args:
        sums: int32; below 2**24.
        divisors: float32, for each sum: see :func:`_divisors`.
    """
    return sums.float().div_(divisors).sub_(127.5 / HALF_RANGE).movedim(-1, -3)


def _divisors(areas: Tensor) -> Tensor:
    """Float32 of areas in pixels. Divided by a power of two, a number keeps its digits: (sum / area - 127.5) / 128, the
    networks' way, is sum / (128 area) - 127.5 / 128, with a pass less."""
    return (areas * HALF_RANGE).float()


@lru_cache(maxsize=32)
def _grid(pixels: tuple[int, int], size: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
    """Of whole pictures with these numbers of rows and columns, to be resized: top, bottom, left, right of the bins,
    and the divisors of all channels, float32 (height, width, 3). A pyramid has ten: 4.5 MB for a frame of 960 x 540."""
    (top, bottom), (left, right) = (
        bins(torch.arange(n, device=device), n, of) for n, of in zip(size, pixels, strict=True)
    )
    # One for each channel, or the division would not be vectorised.
    divisors = _divisors((bottom - top)[:, None] * (right - left))[..., None].expand(-1, -1, 3).contiguous()
    return top, bottom, left, right, divisors


def resized(integrals: Tensor, height: int, width: int) -> Tensor:
    """Whole images by area pooling: float32 (N, 3, height, width) in [-1, 1]."""
    pixels = (integrals.shape[1] - 1, integrals.shape[2] - 1)
    top, bottom, left, right, divisors = _grid(pixels, (height, width), integrals.device)
    pictures = []
    # Image by image and in place: what one image needs stays in the cache, which is twice as fast.
    for integral in integrals:
        rows = integral.index_select(0, bottom).sub_(integral.index_select(0, top))
        sums = rows.index_select(1, right).sub_(rows.index_select(1, left))
        pictures.append(_normalised(sums, divisors))
    if len(pictures) == 1:
        return pictures[0][None]
    # Stacked as they lie in memory, channels last.
    return torch.stack([picture.movedim(0, -1) for picture in pictures]).movedim(-1, 1)


def cropped(integrals: Tensor, image_indices: Tensor, corners: Tensor, size: int) -> Tensor:
    """One square picture a box by area pooling: float32 (K, 3, size, size) in [-1, 1].

    Args:
        integrals: int32 (N, H + 1, W + 1, 3).
        image_indices: int64 (K,), the image of each box.
        corners: int64 (K, 4), xyxy, half-open, inside the image, not empty.
        size: side of the result, pixels.
    """
    i = torch.arange(size, device=integrals.device)
    starts, stops = bins(i, size, (corners[:, 2:] - corners[:, :2])[..., None])
    left, top = (starts + corners[:, :2, None]).unbind(1)
    right, bottom = (stops + corners[:, :2, None]).unbind(1)
    return pooled(integrals, image_indices, (top, bottom), (left, right))


def pooled(
    integrals: Tensor, image_indices: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Means over a grid of rectangles an image index: from rows [top, bottom), int64 (K, h) each, and columns alike.

    Returns:
        float32 (K, 3, h, w) in [-1, 1].
    """
    (top, bottom), (left, right) = rows, columns
    _, num_rows, num_columns, channels = integrals.shape
    table = integrals.reshape(-1, channels)
    first_row = (image_indices * num_rows)[:, None]

    def look_up(y: Tensor, x: Tensor) -> Tensor:
        places = ((first_row + y) * num_columns)[:, :, None] + x[:, None, :]
        return table.index_select(0, places.reshape(-1)).reshape(*places.shape, channels)

    sums = look_up(bottom, right).sub_(look_up(top, right)).sub_(look_up(bottom, left)).add_(look_up(top, left))
    return _normalised(sums, _divisors((bottom - top)[:, :, None] * (right - left)[:, None, :])[..., None])
