"""A reliability diagram as points of a small drawing, with the videos of each bin below; pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.reporting.chart_scale import short_count
from pipeline.reporting.score_figures import Reliability

WIDTH, HEIGHT = 360, 356
LEFT, RIGHT, TOP = 46, 10, 10
PLOT_BOTTOM = 250
"""Of the diagram; the counts are below."""
COUNTS_TOP, COUNTS_BOTTOM = 276, 316
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Point:
    """What the videos of one bin turned out to be."""

    x: float
    y: float
    gap: float
    """y where it would be if probabilities meant what they say."""
    radius: float


@dataclass(frozen=True)
class CountBar:
    """Videos of one bin."""

    x: float
    y: float
    width: float
    height: float
    middle: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A number on both axes."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class ReliabilityChart:
    """Where to draw what, in units of the drawing."""

    points: tuple[Point, ...]
    counts: tuple[CountBar, ...]
    ticks: tuple[Tick, ...]
    description: str
    """For those who don't see it."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = PLOT_BOTTOM
    counts_bottom: int = COUNTS_BOTTOM


def reliability_chart(found: Reliability) -> ReliabilityChart:
    """A chart of bins, of which those without videos have no point."""
    total = sum(one.num_videos for one in found.bins)
    most = max(one.num_videos for one in found.bins)
    points, counts, said = [], [], []
    for one in found.bins:
        if one.mean_probability is not None and one.share_fake is not None:
            # Areas go with the number of videos.
            radius = 2.5 + 5.5 * (one.num_videos / most) ** 0.5
            points.append(
                Point(_x(one.mean_probability), _y(one.share_fake), _y(one.mean_probability), round(radius, 1))
            )
            said.append(
                f"{one.share_fake:.2f} of {one.num_videos:,} with a mean probability of {one.mean_probability:.2f}"
            )
        height = round(one.num_videos / most * (COUNTS_BOTTOM - COUNTS_TOP), 1)
        left, right = _x(one.low), _x(one.high)
        counts.append(
            CountBar(
                left + 1, round(COUNTS_BOTTOM - height, 1), round(right - left - 2, 1), height,
                round((left + right) / 2, 1), short_count(one.num_videos) if one.num_videos else "",
            )
        )  # fmt: skip
    return ReliabilityChart(
        points=tuple(points),
        counts=tuple(counts),
        ticks=tuple(Tick(_x(value), _y(value), f"{value:g}") for value in TICKS),
        description=(
            f"Reliability diagram of {total:,} videos; share of fakes by probability: {'; '.join(said)}; "
            f"expected calibration error {found.expected_calibration_error:.3f}"
        ),
    )


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(share: float) -> float:
    return round(PLOT_BOTTOM - share * (PLOT_BOTTOM - TOP), 1)
