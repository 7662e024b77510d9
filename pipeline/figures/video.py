"""A clip as a video inside of a notebook's page."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.encode import Mp4Writer
from pipeline.figures.figure import checked_frames
from pipeline.types import UInt8Array

_WIDTH_PIXELS = 320
"""On the page; a smaller clip is enlarged by the browser, a larger one keeps its pixels."""


@dataclass(frozen=True)
class InlineVideo:
    """A video that is in the page itself: showing it fetches nothing, and nothing lies beside the notebook."""

    mp4: bytes = field(repr=False)
    """H.264."""
    width: int
    """Pixels, as shown."""
    height: int
    """Pixels, as shown."""
    num_frames: int
    fps: int

    def _repr_html_(self) -> str:
        encoded = base64.b64encode(self.mp4).decode("ascii")
        return (
            f'<video controls loop muted playsinline width="{self.width}" height="{self.height}" '
            f'src="data:video/mp4;base64,{encoded}">{self.num_frames} frames at {self.fps} frames a second</video>'
        )


def video_html(frames: UInt8Array, fps: float = 30, crf: int = 18) -> InlineVideo:
    """A clip as a video with controls, which plays in a loop.

    It is encoded anew, with loss: for looking at motion, not at the traces of a forgery. Those are in the frames.

    Args:
        frames: uint8 (T, H, W, 3), RGB. An odd height or width gets one row or column more, as H.264 needs it.
        fps: frames a second; rounded to a whole number.
        crf: quality, from 0 to 51, the worst.

    Raises:
        ValueError: an array has another shape or type, or the rate is none.
    """
    frames = checked_frames("frames", frames)
    if not 0 < fps < 1000:
        raise ValueError(f"fps={fps} is no frame rate; a store says 0 where a video doesn't tell its own: take 30 then")
    rate = max(1, round(fps))
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    # The encoder writes files.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with Mp4Writer(path, even.shape[2], even.shape[1], fps=rate, crf=crf) as writer:
            for rgb in even:
                writer.write(np.ascontiguousarray(rgb))
        mp4 = path.read_bytes()
    shown = max(width, _WIDTH_PIXELS)
    return InlineVideo(mp4, shown, round(height * shown / width), len(frames), rate)
