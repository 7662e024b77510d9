"""Clips as pictures in a page: frames side by side, and what differs between two clips; pure functions."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.frame import swap_red_and_blue
from pipeline.types import UInt8Array

FRAME_PIXELS = 96
"""Side of a frame in a page at most, pixels."""
JPEG_QUALITY = 85
AMPLIFICATION = 4
"""What compression does stays dark with it, what was done to a face doesn't."""


@dataclass(frozen=True)
class Picture:
    """A picture that needs no file."""

    uri: str
    """``data:image/jpeg;base64,...``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


def shrink(frames: UInt8Array, side: int = FRAME_PIXELS) -> UInt8Array:
    """Frames, uint8 (T, S, S, 3), of at most that side; smaller ones stay as they are."""
    if frames.shape[1] <= side:
        return frames
    return np.stack([np.asarray(cv2.resize(f, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for f in frames])


def amplified_difference(
    a: UInt8Array, b: UInt8Array, side: int = FRAME_PIXELS, amplification: float = AMPLIFICATION
) -> UInt8Array:
    """How far two clips differ, pixel by pixel and channel by channel, several times amplified.

    Args:
        a: uint8 (T, S, S, 3).
        b: likewise.
        side: at most, of the result.
        amplification: how many times the difference is shown.

    Returns:
        uint8 (T, side, side, 3), 255 where it would be more.
    """
    if a.shape != b.shape:
        raise ValueError(f"clips of one shape can be compared, not of {a.shape} and {b.shape}")
    # Shrunk before it is amplified: what is cut off at 255 would be missing from the means.
    different = shrink(np.asarray(cv2.absdiff(a, b), np.uint8), side)
    return np.asarray(np.minimum(different.astype(np.uint16) * amplification, 255), np.uint8)


def strip(frames: UInt8Array) -> Picture:
    """Frames, uint8 (T, S, S, 3) RGB with T at least 1, side by side as a JPEG."""
    row = np.ascontiguousarray(np.hstack(list(frames)))
    ok, data = cv2.imencode(".jpg", swap_red_and_blue(row), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise RuntimeError(f"OpenCV can't make a JPEG of {row.shape}")
    encoded = base64.b64encode(data.tobytes()).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{encoded}", row.shape[1], row.shape[0])
