"""Tiny synthetic videos with real faces: committed portraits, shrunk and moved over a plain background.

MTCNN finds these faces as it finds any other, and a test knows where each of them is in every frame. The light
flickers, so that no frame can be taken for one of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.types import UInt8Array
from tests.videos import write_video

ASSETS = Path(__file__).resolve().parents[1] / "pipeline" / "assets"
WIDTH, HEIGHT = 160, 120
BACKGROUND = (70, 90, 110)

Position = tuple[float, float]


@dataclass(frozen=True)
class Face:
    """A portrait that moves in a straight line."""

    portrait: str = "hopper"
    """File name in the pipeline's assets, without its ending."""
    side: int = 80
    """Pixels of the square that the portrait is shrunk to; the face itself takes about a third of it."""
    start: Position = (4, 20)
    """Top left corner of the portrait in frame 0, xy."""
    speed: Position = (0.5, 0.25)
    """Pixels a frame, xy."""

    def corner(self, index: int) -> tuple[int, int]:
        """Top left corner of the portrait in one frame, xy."""
        return round(self.start[0] + self.speed[0] * index), round(self.start[1] + self.speed[1] * index)


@lru_cache
def portrait(name: str, side: int) -> UInt8Array:
    """uint8 RGB ``(side, side, 3)``: the upper square of a committed portrait."""
    bgr: Any = cv2.imread(str(ASSETS / f"{name}.jpg"))
    shorter = min(bgr.shape[:2])
    left = (bgr.shape[1] - shorter) // 2
    square = bgr[:shorter, left : left + shorter]
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)[:, :, ::-1], np.uint8)


def stretched_portrait(name: str, width: int, height: int) -> UInt8Array:
    """uint8 RGB ``(height, width, 3)``: a whole committed portrait, whatever that does to its shape."""
    rgb = cv2.cvtColor(cv2.imread(str(ASSETS / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def brightness(index: int) -> float:
    """Of one frame, 0.8..1: at least 0.05 from that of the frames up to two away."""
    return 0.8 + 0.05 * (2 * index % 5)


def face_frames(
    num_frames: int,
    faces: Sequence[Face] = (Face(),),
    width: int = WIDTH,
    height: int = HEIGHT,
    shown: Callable[[int], bool] = lambda _: True,
) -> Iterator[UInt8Array]:
    """uint8 RGB ``(height, width, 3)`` frames; the faces are there in those frames for which ``shown`` is true."""
    for index in range(num_frames):
        rgb = np.full((height, width, 3), BACKGROUND, np.uint8)
        for face in faces if shown(index) else ():
            x, y = face.corner(index)
            rgb[y : y + face.side, x : x + face.side] = portrait(face.portrait, face.side)
        yield (rgb * brightness(index)).astype(np.uint8)


def face_video(
    path: Path,
    num_frames: int = 64,
    faces: Sequence[Face] = (Face(),),
    width: int = WIDTH,
    height: int = HEIGHT,
    shown: Callable[[int], bool] = lambda _: True,
) -> Path:
    """A video of :func:`face_frames`. Each frame is coded on its own, so that one can be lost without the next."""
    return write_video(path, face_frames(num_frames, faces, width, height, shown), options={"g": "1", "crf": "12"})
