"""A clip, and what models say of its windows, as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from pipeline.figures.figure import (
    FAINT,
    LINE_COLOURS,
    SMALL,
    WIDTH_INCHES,
    Float64Array,
    Int64Array,
    NotebookFigure,
    Timeline,
    checked,
    checked_frames,
    legend_above,
    plain_axes,
    set_title,
    shortened,
)
from pipeline.figures.strip import (
    CHART,
    EDGE,
    NAMES,
    TITLE,
    UNDER_CHART,
    draw_strip,
    strip_inches,
)
from pipeline.types import UInt8Array

_MAX_NAME = 32
_MOST_VALUES = 12
"""Windows whose probabilities are written beside them."""


def scores_on_clip(
    frames: UInt8Array,
    timestamps_seconds: ArrayLike | None,
    window_ranges: ArrayLike,
    probabilities: ArrayLike,
    models: Sequence[str] | None = None,
    num_shown: int = 8,
    title: str | None = None,
) -> NotebookFigure:
    """A clip as a strip, and below it, on the same axis of time, how sure models are in each window that it is FAKE.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        timestamps_seconds: float (T,), ascending; None: frames are numbered.
        window_ranges: int (W, 2): first frame of each window and one past its last, of the clip's frames.
        probabilities: float (W,) in [0, 1], of FAKE; NaN where there is none.
        models: whose window each is, W names; by default all of one.
        num_shown: pictures at most.
        title: above the strip.

    Raises:
        ValueError: an array has another shape or type, or a window lies outside of the clip.
    """
    frames = checked_frames("frames", frames)
    timeline = Timeline.of(len(frames), timestamps_seconds)
    windows = checked("window_ranges", window_ranges, (None, 2)).astype(int)
    values = checked("probabilities", probabilities, (len(windows),)).astype(float)
    if models is not None:
        checked("models", list(models), (len(windows),))
    beyond = (windows[:, 0] < 0) | (windows[:, 0] >= windows[:, 1]) | (windows[:, 1] > len(frames))
    if beyond.any():
        raise ValueError(f"windows must lie in the clip's {len(frames)} frames, not {windows[beyond].tolist()}")
    edges, shown = timeline.slices(num_shown)
    width = WIDTH_INCHES - NAMES - 2 * EDGE
    height = strip_inches(frames, len(shown), width)
    top = EDGE if title is None else TITLE
    chart_top = top + height + (EDGE if models is None else TITLE)
    figure = NotebookFigure(chart_top + CHART + UNDER_CHART)
    strip = figure.place(NAMES, top, width, height)
    chart = figure.place(NAMES, chart_top, width, CHART, strip)
    draw_strip(strip, frames[shown], edges)
    set_title(strip, title)
    names = ["probability"] * len(windows) if models is None else list(models)
    colours = {name: LINE_COLOURS[i % len(LINE_COLOURS)] for i, name in enumerate(dict.fromkeys(names))}
    _draw_probabilities(chart, timeline, windows, values, [colours[name] for name in names])
    if models is not None:
        lines = [
            Line2D([], [], color=c, linewidth=2.2, label=shortened(name, _MAX_NAME)) for name, c in colours.items()
        ]
        legend_above(chart, lines)
    return figure


def _draw_probabilities(
    axes: Axes, timeline: Timeline, windows: Int64Array, probabilities: Float64Array, colours: Sequence[str]
) -> None:
    plain_axes(axes)
    axes.axhline(0.5, color=FAINT, linewidth=0.8, zorder=0)
    ends = np.append(timeline.starts, timeline.stop)
    for (start, stop), value, colour in zip(windows, probabilities, colours, strict=True):
        axes.hlines(value, ends[start], ends[stop], color=colour, linewidth=2.2)
        axes.plot([ends[start], ends[stop]], [value] * 2, "|", color=colour, markersize=7, clip_on=False)
    if len(np.unique(windows, axis=0)) <= _MOST_VALUES:
        _write_extremes(axes, ends, windows, probabilities, colours)
    axes.set(ylim=(-0.16, 1.16), xlabel=timeline.label, ylabel="probability of FAKE")
    axes.set_yticks([0, 0.5, 1], ["0 REAL", "0.5", "1 FAKE"])


def _write_extremes(
    axes: Axes, ends: Float64Array, windows: Int64Array, probabilities: Float64Array, colours: Sequence[str]
) -> None:
    """Of each window the highest probability above its line and the lowest below, where they can't cover each other."""
    for start, stop in np.unique(windows, axis=0):
        here = np.flatnonzero((windows == (start, stop)).all(axis=1) & np.isfinite(probabilities))
        if not len(here):
            continue
        lowest, highest = here[probabilities[here].argmin()], here[probabilities[here].argmax()]
        for row, is_above in {lowest: False, highest: True}.items():
            axes.annotate(
                f"{probabilities[row]:.2f}", ((ends[start] + ends[stop]) / 2, probabilities[row]),
                xytext=(0, 2.5 if is_above else -3), textcoords="offset points", ha="center",
                va="bottom" if is_above else "top", fontsize=SMALL, color=colours[row],
            )  # fmt: skip
