"""Scores of change over time as the points of a small drawing; pure functions.

All charts have the same scale, a logarithmic one: compression alone gives about 1, a changed face up to some dozens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.reporting.chart_scale import Tick
from pipeline.types import Float32Array

WIDTH, HEIGHT = 576, 120
TOP, BOTTOM = 8, 22
"""Left free above and below the scores."""
LEFT, RIGHT = 28, 4
LEAST, MOST = 0.1, 100.0
"""Scores beyond are drawn at the edge."""
TICKS = (0.1, 1.0, 10.0, 100.0)
MAX_POINTS = WIDTH


@dataclass(frozen=True)
class ScoreChart:
    """Where to draw what, in units of the drawing."""

    lines: tuple[str, ...]
    """``x,y x,y ...``, one for each stretch of frames whose score is known."""
    threshold: Tick | None
    """None: there is none."""
    ticks: tuple[Tick, ...]
    marks: tuple[float, ...]
    """x of the frames that are shown as pictures."""
    first_frame: int
    last_frame: int
    description: str
    """For those who don't see it."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def score_chart(scores: Float32Array, frames: range, threshold: float, marked: tuple[int, ...]) -> ScoreChart:
    """A chart of the scores of a track.

    Args:
        scores: float32 (T,), NaN where unknown; T is at least 1.
        frames: of the video, T of them.
        threshold: from which a face counts as changed; infinite where nobody said.
        marked: some of the frames.
    """
    if len(scores) != len(frames):
        raise ValueError(f"{len(scores)} scores of {len(frames)} frames")
    step = -(-len(scores) // MAX_POINTS)
    # Of very long tracks the highest of every few.
    heights = np.fmax.reduceat(scores, np.arange(0, len(scores), step))
    points = [(_x(frames, frames[i * step]), _y(float(score))) for i, score in enumerate(heights)]
    has_threshold = math.isfinite(threshold)
    known = scores[np.isfinite(scores)]
    described = (
        f"from {known.min():.2f} to {known.max():.2f}, median {np.median(known):.2f}" if known.size else "all unknown"
    )
    return ScoreChart(
        lines=_lines(points),
        threshold=Tick(_y(threshold), f"{threshold:g}") if has_threshold else None,
        ticks=tuple(Tick(_y(value), f"{value:g}") for value in TICKS),
        marks=tuple(_x(frames, frame) for frame in marked),
        first_frame=frames[0],
        last_frame=frames[-1],
        description=f"Scores of change of the frames {frames[0]} to {frames[-1]}: {described}"
        + (f"; {threshold:g} and more counts as changed" if has_threshold else ""),
    )


def _x(frames: range, frame: int) -> float:
    share = (frame - frames[0]) / ((frames[-1] - frames[0]) or 1)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(score: float) -> float:
    """NaN stays NaN."""
    if math.isnan(score):
        return score
    share = math.log(min(max(score, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _lines(points: list[tuple[float, float]]) -> tuple[str, ...]:
    lines: list[list[str]] = [[]]
    for x, y in points:
        if math.isnan(y):
            lines.append([])
        else:
            lines[-1].append(f"{x},{y}")
    # A line of one point would not be seen.
    return tuple(" ".join(line if len(line) > 1 else line * 2) for line in lines if line)
