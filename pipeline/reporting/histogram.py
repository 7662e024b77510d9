"""How often which value comes, by label, as bars of a small drawing; pure functions.

Bars are stacked: REAL at the bottom, FAKE on it, videos without a label on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.reporting.chart_scale import round_step, round_ticks, short_count, tick_label
from pipeline.reporting.tally import LABEL_NAMES, LABELS
from pipeline.types import BoolArray

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 40
"""Left free around the bars."""
MOST_BARS, FEWEST_BARS = 24, 5
TAIL = 0.995
"""Share of the values that bars are drawn for; those beyond are in the last one."""

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bar:
    """One part of a bar, of one label."""

    x: float
    y: float
    width: float
    height: float
    series: int
    """Which of :data:`pipeline.reporting.tally.LABELS` it is of."""


@dataclass(frozen=True)
class AxisTick:
    """A number on an axis."""

    at: float
    label: str


@dataclass(frozen=True, eq=False)
class Bins:
    """Which values share a bar."""

    edges: Float64Array
    """float64 (B + 1,), ascending; bars are half-open."""
    is_whole: bool = False
    """Values are whole numbers, with edges half-way between them."""

    def __len__(self) -> int:
        return len(self.edges) - 1


@dataclass(frozen=True)
class Captions:
    """What is written on a drawing."""

    title: str
    unit: str
    """Below the axis of values."""
    counted: str
    """Beside the axis of counts."""


@dataclass(frozen=True)
class Histogram:
    """Where to draw what, in units of the drawing."""

    captions: Captions
    bars: tuple[Bar, ...]
    """Empty: there are no values."""
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    description: str
    """For those who don't see it."""
    note: str
    """What the bars leave out; empty: nothing."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def histogram(values: Float64Array, labels: Float64Array, of: Bins, captions: Captions) -> Histogram:
    """Bars of values by label.

    Args:
        values: float64 (N,), finite.
        labels: float64 (N,), of each: 0, 1, or NaN for unknown.
        of: which values share a bar; the outer ones have what lies beyond, too.
        captions: of the drawing.
    """
    edges = of.edges
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(of) - 1)
    of_label = [np.isnan(labels) if label is None else labels == label for label in LABELS]
    counts = np.stack([np.bincount(bins[chosen], minlength=len(of)) for chosen in of_label])
    most = int(counts.sum(axis=0).max(initial=0))
    y_values = [v for v in round_ticks(0, max(most, 1), 4) if v == int(v)]
    num_beyond = int((values > edges[-1]).sum())
    return Histogram(
        bars=_bars(counts, edges, most) if len(values) else (),
        x_ticks=tuple(AxisTick(_x(value, edges), tick_label(value)) for value in _x_ticks(of)),
        y_ticks=tuple(AxisTick(_y(value, most), short_count(value)) for value in y_values),
        description=_description(values, of_label, captions),
        note=f"the last bar has all beyond {_edge(of)}, too: {num_beyond:,}" if num_beyond else "",
        captions=captions,
    )


def whole_bins(values: Float64Array) -> Bins:
    """Bars of whole numbers, each with its number in the middle; of several numbers each where there are many.

    Args:
        values: float64 (N,), whole and at least 0.
    """
    if not len(values):
        return Bins(np.array([-0.5, 0.5]), is_whole=True)
    low, high = int(values.min()), int(np.quantile(values, TAIL, method="higher"))
    if high - low < FEWEST_BARS - 1:
        low = max(0, low - FEWEST_BARS // 2)
        high = max(high, low + FEWEST_BARS - 1)
    step = int(np.ceil(round_step(high - low + 1, MOST_BARS)))
    num_bars = -(-(high - low + 1) // step)
    return Bins(np.asarray(low - 0.5 + step * np.arange(num_bars + 1), np.float64), is_whole=True)


def even_bins(
    values: Float64Array, lowest: float | None = None, highest: float | None = None, least_span: float = 0.0
) -> Bins:
    """Bars of equal and round width over all values but a long tail.

    Args:
        values: float64 (N,), finite.
        lowest: that can be.
        highest: likewise.
        least_span: of the axis: where all values are alike, their last digits say nothing.
    """
    if not len(values):
        return Bins(np.array([0.0, 1.0]))
    low, high = float(values.min()), float(np.quantile(values, TAIL, method="higher"))
    span = max(high - low, least_span, abs(high) / 50) or 1.0
    low = min(low, high - span)
    step = round_step(span, MOST_BARS - 1)
    first, last = int(np.floor(low / step + 1e-9)), int(np.floor(high / step + 1e-9)) + 1
    if highest is not None:
        last = min(last, int(np.ceil(highest / step - 1e-9)))
    if lowest is not None:
        first = max(first, int(np.floor(lowest / step + 1e-9)))
    return Bins(np.asarray(np.arange(min(first, last - 1), last + 1) * step, np.float64))


def share_bins(bars: int = 20) -> Bins:
    """Bars over [0, 1]."""
    return Bins(np.asarray(np.arange(bars + 1) / bars, np.float64))


def _x(value: float, edges: Float64Array) -> float:
    share = float((value - edges[0]) / (edges[-1] - edges[0]))
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(count: float, most: int) -> float:
    return round(HEIGHT - BOTTOM - count / max(most, 1) * (HEIGHT - TOP - BOTTOM), 1)


def _edge(of: Bins) -> str:
    """The last value in place, of whole numbers the number itself."""
    return tick_label(of.edges[-1] - 0.5 if of.is_whole else of.edges[-1])


def _x_ticks(of: Bins) -> list[float]:
    ticks = round_ticks(float(of.edges[0]), float(of.edges[-1]), 6)
    return [tick for tick in ticks if not of.is_whole or tick == int(tick)]


def _bars(counts: NDArray[np.int64], edges: Float64Array, most: int) -> tuple[Bar, ...]:
    found = []
    tops = np.cumsum(counts, axis=0)
    for series, number in zip(*np.nonzero(counts), strict=True):
        left, right = _x(edges[number], edges), _x(edges[number + 1], edges)
        top, bottom = _y(tops[series, number], most), _y(tops[series, number] - counts[series, number], most)
        # A single video among thousands is to be seen, too.
        height = max(bottom - top, 1.0)
        found.append(
            Bar(left + 0.5, round(bottom - height, 1), round(right - left - 1, 1), round(height, 1), int(series))
        )
    return tuple(found)


def _description(values: Float64Array, of_label: Sequence[BoolArray], captions: Captions) -> str:
    said = f"{captions.title}, a histogram of {len(values):,} {captions.counted}"
    if not len(values):
        return said
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
    said += (
        f": from {tick_label(values.min())} to {tick_label(values.max())}, median {tick_label(median)}, "
        f"the middle half from {tick_label(lower)} to {tick_label(upper)}"
    )
    medians = [
        f"{LABEL_NAMES[label]} {tick_label(np.median(values[chosen]))}"
        for label, chosen in zip(LABELS, of_label, strict=True)
        if chosen.any()
    ]
    return said + (f"; medians: {', '.join(medians)}" if len(medians) > 1 else "")
