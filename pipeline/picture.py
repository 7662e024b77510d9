"""Pictures of frames, in the form the decoder gives them, converted only where somebody looks.

Of most frames only the surroundings of faces are ever looked at, and converting a whole one to BGR takes a quarter of
the time of reading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.types import UInt8Array

GRAIN_PIXELS = 2
"""Windows of pictures begin and end at multiples of it, or at the border: colours may come one for so many pixels
squared."""

Window = tuple[int, int, int, int]
"""Pixels of a picture, xyxy, half-open."""


class Picture(Protocol):
    """A frame or a window of it, in one form or another."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""

    @property
    def num_bytes(self) -> int:
        """That a copy takes."""

    def window(self, window_xyxy: Window) -> Picture:
        """Part of it, without a copy. It lies in it, and begins and ends at multiples of ``GRAIN_PIXELS`` or at the
        border."""

    def copied(self, memory: UInt8Array) -> Picture:
        """A copy in somebody's memory: uint8 (num_bytes,)."""

    def bgr(self) -> UInt8Array:
        """uint8 (H, W, 3), BGR, contiguous; not to be written to."""


@dataclass(frozen=True)
class BgrPicture:
    """A picture that was converted already, or never had another form."""

    pixels: UInt8Array
    """uint8 (H, W, 3), BGR."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        height, width = self.pixels.shape[:2]
        return width, height

    @property
    def num_bytes(self) -> int:
        """That a copy takes."""
        return self.pixels.nbytes

    def window(self, window_xyxy: Window) -> BgrPicture:
        """See :meth:`Picture.window`."""
        left, top, right, bottom = window_xyxy
        return BgrPicture(self.pixels[top:bottom, left:right])

    def copied(self, memory: UInt8Array) -> BgrPicture:
        """See :meth:`Picture.copied`."""
        copy = memory.reshape(self.pixels.shape)
        copy[:] = self.pixels
        return BgrPicture(copy)

    def bgr(self) -> UInt8Array:
        """See :meth:`Picture.bgr`."""
        return np.ascontiguousarray(self.pixels)


def on_grain(window_xyxy: Sequence[int], size: tuple[int, int]) -> Window:
    """The least window around another one that pictures can be cut at; ``size``: width and height of the picture."""
    left, top, right, bottom = window_xyxy
    width, height = size
    return (
        left - left % GRAIN_PIXELS,
        top - top % GRAIN_PIXELS,
        min(right + right % GRAIN_PIXELS, width),
        min(bottom + bottom % GRAIN_PIXELS, height),
    )
