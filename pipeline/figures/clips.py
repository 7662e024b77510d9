"""A clip as a strip of pictures, by itself or beside its original."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from pipeline.figures.figure import (
    FAKE_COLOUR,
    INK,
    SMALL,
    WIDTH_INCHES,
    Float64Array,
    NotebookFigure,
    Timeline,
    checked,
    checked_frames,
    plain_axes,
    set_title,
)
from pipeline.figures.strip import (
    CHART,
    EDGE,
    NAMES,
    TIMES,
    TITLE,
    UNDER_CHART,
    draw_observed,
    draw_strip,
    mark_time,
    strip_inches,
)
from pipeline.pictures import AMPLIFICATION, amplified_difference
from pipeline.reporting.score_chart import LEAST
from pipeline.types import UInt8Array


def film_strip(
    frames: UInt8Array,
    timestamps_seconds: ArrayLike | None = None,
    num_shown: int = 8,
    title: str | None = None,
    observed: ArrayLike | None = None,
) -> NotebookFigure:
    """A clip as some of its frames side by side, each from the middle of an equally long part.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        timestamps_seconds: float (T,), ascending; without them frames are numbered.
        num_shown: pictures at most.
        title: above the strip.
        observed: bool (T,): in which frames the face was detected; drawn below the strip.

    Raises:
        ValueError: an array has another shape or type.
    """
    frames = checked_frames("frames", frames)
    timeline = Timeline.of(len(frames), timestamps_seconds)
    edges, shown = timeline.slices(num_shown)
    width = WIDTH_INCHES - 2 * EDGE
    height = strip_inches(frames, len(shown), width)
    top = EDGE if title is None and observed is None else TITLE
    figure = NotebookFigure(top + height + TIMES)
    axes = figure.place(EDGE, top, width, height)
    draw_strip(axes, frames[shown], edges)
    set_title(axes, title)
    mark_time(axes, timeline, edges, shown)
    if observed is not None:
        draw_observed(axes, timeline, checked("observed", observed, (len(frames),)).astype(bool))
    return figure


def side_by_side(
    real: UInt8Array,
    fake: UInt8Array,
    amplification: float = AMPLIFICATION,
    num_shown: int = 8,
    timestamps_seconds: ArrayLike | None = None,
    change_scores: ArrayLike | None = None,
    min_change: float | None = None,
    title: str | None = None,
) -> NotebookFigure:
    """An original, its fake, and how far they differ, at the same frames.

    Args:
        real: uint8 (T, H, W, 3), RGB.
        fake: likewise, the same frames and squares.
        amplification: how many times the difference of each channel is shown; cut off at 255.
        num_shown: pictures a row at most.
        timestamps_seconds: float (T,), ascending.
        change_scores: float (T,), in units of what compression does, NaN where unknown; drawn below as a curve.
        min_change: from which a face counts as changed; drawn beside the curve.
        title: above all.

    Raises:
        ValueError: an array has another shape or type.
    """
    real, fake = checked_frames("real", real), checked_frames("fake", fake)
    if real.shape != fake.shape:
        raise ValueError(
            f"real and fake must have one shape, not {real.shape} and {fake.shape}; cut both to the frames they share"
        )
    timeline = Timeline.of(len(real), timestamps_seconds)
    edges, shown = timeline.slices(num_shown)
    amplified = amplified_difference(real[shown], fake[shown], side=real.shape[1], amplification=amplification)
    has_chart = change_scores is not None
    width, rows = WIDTH_INCHES - NAMES - 2 * EDGE, list[Axes]()
    height = strip_inches(real, len(shown), width)
    below = CHART + UNDER_CHART if has_chart else TIMES
    first_top = EDGE if title is None else TITLE
    figure = NotebookFigure(first_top + 3 * (height + EDGE) + below)
    for number in range(3 + has_chart):
        top = first_top + number * (height + EDGE)
        rows.append(figure.place(NAMES, top, width, height if number < 3 else CHART, rows[0] if rows else None))
    for axes, pictures, name in zip(
        rows,
        (real[shown], fake[shown], amplified),
        ("original", "fake", f"{amplification:g} x difference"),
        strict=False,
    ):
        draw_strip(axes, pictures, edges)
        axes.set_ylabel(name, fontsize=SMALL, color=INK)
    set_title(rows[0], title)
    if change_scores is None:
        mark_time(rows[-1], timeline, edges, shown)
    else:
        _draw_change(rows[-1], timeline, checked("change_scores", change_scores, (len(real),)), min_change)
    return figure


def _draw_change(axes: Axes, timeline: Timeline, scores: Float64Array, min_change: float | None) -> None:
    """Scores of change on a logarithmic scale; compression alone gives about 1."""
    plain_axes(axes)
    axes.set_yscale("log")
    # A face that is its original to the bit has 0, which is no place on this scale; NaN stays NaN, a gap.
    drawn = np.maximum(scores, LEAST)
    axes.plot(timeline.starts, drawn, color=INK, linewidth=1.2)
    known = drawn[np.isfinite(drawn)]
    low, high = (known.min(), known.max()) if len(known) else (1.0, 1.0)
    axes.set(ylim=(min(0.5, low / 1.3), max(10.0, high * 1.3)), xlabel=timeline.label, ylabel="change score")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda _, __: "")
    if min_change is not None and math.isfinite(min_change):
        axes.axhline(min_change, color=FAKE_COLOUR, linewidth=0.9, linestyle="--")
        axes.annotate(
            f"from {min_change:g} on it counts as changed", (1, min_change), xycoords=("axes fraction", "data"),
            xytext=(0, 2), textcoords="offset points", ha="right", fontsize=SMALL, color=FAKE_COLOUR,
        )  # fmt: skip
