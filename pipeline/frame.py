"""A decoded frame, converted when somebody wants to see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from pipeline.picture import Picture, Window
from pipeline.types import UInt8Array


def swap_red_and_blue(picture: UInt8Array) -> UInt8Array:
    """BGR to RGB or back: uint8 ``(H, W, 3)``, contiguous, a new array."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    index: int
    """Position in the stream, counting frames that failed to decode."""
    timestamp_seconds: float
    """Presentation time from the stream's start."""
    picture: Picture
    """As the decoder gave it."""

    @cached_property
    def bgr(self) -> UInt8Array:
        """uint8 ``(H, W, 3)``, BGR, made when it is first asked for. Scaling and cutting don't care about the order of
        channels, so it is changed in what comes out of them, which costs a fraction of changing it in a whole frame."""
        return self.picture.bgr()

    def bgr_of(self, window_xyxy: Window) -> UInt8Array:
        """A window of it, see :meth:`Picture.window`: uint8 ``(h, w, 3)``, BGR, not to be written to."""
        if "bgr" in self.__dict__:
            left, top, right, bottom = window_xyxy
            return self.bgr[top:bottom, left:right]
        return self.picture.window(window_xyxy).bgr()

    @cached_property
    def rgb(self) -> UInt8Array:
        """uint8 ``(H, W, 3)``, RGB: one more array, made when it is first asked for."""
        return swap_red_and_blue(self.bgr)

    def __repr__(self) -> str:
        return f"Frame(index={self.index}, timestamp_seconds={self.timestamp_seconds:.3f}, size={self.picture.size})"
