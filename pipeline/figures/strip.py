"""A strip: frames of a clip side by side along an axis of time, each at the middle of its part."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from pipeline.figures.figure import (
    INK,
    INTERPOLATED_COLOUR,
    INTERPOLATED_DASHES,
    OBSERVED_COLOUR,
    SMALL,
    Float64Array,
    Int64Array,
    Timeline,
    legend_above,
    no_axes,
)
from pipeline.types import BoolArray, UInt8Array

_GAP = 0.025
"""Of a picture's width, left white beside it."""
_MOST_TIMES = 16
"""That fit below a strip."""

EDGE, TITLE, TIMES = 0.06, 0.26, 0.24
"""Inches: left around pictures, above them for a title, below them for times."""
NAMES = 0.72
"""Inches left of a strip, for the name of its row or of the values of a chart."""
CHART, UNDER_CHART = 1.4, 0.5
"""Inches: a chart, and what stands below it."""


def strip_inches(frames: UInt8Array, num_shown: int, width_inches: float) -> float:
    """Height of a strip of that width whose pictures aren't distorted."""
    return width_inches * (1 - _GAP) / num_shown * float(frames.shape[1] / frames.shape[2])


def tile(edges: Float64Array, number: int) -> tuple[float, float]:
    """Where a picture of a strip begins and ends."""
    gap = _GAP * float(edges[number + 1] - edges[number]) / 2
    return float(edges[number]) + gap, float(edges[number + 1]) - gap


def draw_strip(axes: Axes, pictures: UInt8Array, edges: Float64Array) -> None:
    """Pictures (N, H, W, 3) side by side between edges (N + 1,) along x, from 0 to 1 along y, filling the axes."""
    no_axes(axes)
    for number, picture in enumerate(pictures):
        axes.imshow(picture, extent=(*tile(edges, number), 0, 1), aspect="auto")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1))


def mark_time(axes: Axes, timeline: Timeline, edges: Float64Array, shown: Int64Array) -> None:
    """Say below each picture of a strip when it is shown; of many, below every few."""
    every = math.ceil(len(shown) / _MOST_TIMES)
    axes.set_xticks((edges[:-1] + edges[1:])[::every] / 2, [timeline.text(int(row)) for row in shown[::every]])
    axes.tick_params(labelbottom=True, labelsize=SMALL, labelcolor=INK, pad=1)


def draw_observed(axes: Axes, timeline: Timeline, observed: BoolArray) -> None:
    """Below a strip: a dashed line, and on it a mark for each frame in which the face was detected."""
    y = -0.05
    axes.hlines(
        y, timeline.starts[0], timeline.stop, color=INTERPOLATED_COLOUR, linewidth=1.2, linestyle=INTERPOLATED_DASHES,
        label=f"interpolated ({(~observed).sum()})", clip_on=False,
    )  # fmt: skip
    axes.plot(
        timeline.starts[observed], np.full(observed.sum(), y), "o", color=OBSERVED_COLOUR, markersize=3.5,
        label=f"observed ({observed.sum()})", clip_on=False, zorder=3,
    )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.tick_params(pad=7)
    legend_above(axes)
