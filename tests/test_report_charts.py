"""Drawings of the report: bars, points and lines are where the numbers say, and stay inside."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting.chart_scale import round_step, round_ticks, short_count, tick_label
from pipeline.reporting.histogram import (
    HEIGHT,
    LEFT,
    MOST_BARS,
    WIDTH,
    Bins,
    Captions,
    Histogram,
    even_bins,
    histogram,
    share_bins,
    whole_bins,
)
from pipeline.reporting.probability_chart import MOST_WINDOWS, probability_chart
from pipeline.reporting.probability_chart import WIDTH as CHART_WIDTH
from pipeline.reporting.reliability_chart import PLOT_BOTTOM, reliability_chart
from pipeline.reporting.reliability_chart import TOP as PLOT_TOP
from pipeline.reporting.score_figures import reliability

NAN = float("nan")


def drawn(values: list[float], labels: list[float], bins: Bins) -> Histogram:
    return histogram(np.array(values, float), np.array(labels, float), bins, Captions("T", "u", "tracks"))


# Scales


@pytest.mark.parametrize(("span", "most", "step"), [(1, 10, 0.1), (0.3, 3, 0.1), (7, 5, 2), (100, 24, 5), (9, 4, 2.5)])
def test_steps_are_round(span: float, most: int, step: float) -> None:
    assert round_step(span, most) == pytest.approx(step)


def test_ticks_lie_between_both_ends() -> None:
    assert round_ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert round_ticks(3, 19, 4) == [5, 10, 15]


@pytest.mark.parametrize(
    ("value", "label"), [(0, "0"), (-0.0, "0"), (0.3, "0.3"), (1500, "1,500"), (0.12345, "0.1235")]
)
def test_ticks_are_labelled_as_one_would_write_them(value: float, label: str) -> None:
    assert tick_label(value) == label


def test_counts_are_short() -> None:
    assert [short_count(count) for count in (0, 9_999, 10_000, 123_456, 1_234_567)] == [
        "0",
        "9,999",
        "10k",
        "123k",
        "1.23M",
    ]


# Histograms


def test_bars_are_stacked_by_label_and_as_high_as_counts() -> None:
    chart = drawn([0.05, 0.05, 0.05, 0.55], [0, 1, NAN, 1], share_bins(10))
    first = sorted((bar for bar in chart.bars if bar.x < LEFT + 10), key=lambda bar: -bar.y)
    assert [bar.series for bar in first] == [0, 1, 2]
    for lower, upper in pairwise(first):
        assert upper.y + upper.height == pytest.approx(lower.y, abs=0.2)
    (other,) = (bar for bar in chart.bars if bar.x > LEFT + 10)
    assert other.height == pytest.approx(first[0].height, abs=0.2)
    assert first[0].y + first[0].height == chart.bottom
    assert first[-1].y == chart.top


def test_a_histogram_says_in_words_what_it_shows() -> None:
    chart = drawn([1, 2, 3, 10], [0, 0, 1, 1], whole_bins(np.array([1.0, 2, 3, 10])))
    assert chart.description == (
        "T, a histogram of 4 tracks: from 1 to 10, median 2.5, the middle half from 1.75 to 4.75; "
        "medians: REAL 1.5, FAKE 6.5"
    )
    assert chart.note == ""


def test_without_values_there_are_no_bars() -> None:
    for bins in (whole_bins(np.empty(0)), even_bins(np.empty(0)), share_bins()):
        chart = drawn([], [], bins)
        assert chart.bars == ()
        assert chart.description == "T, a histogram of 0 tracks"


def test_a_long_tail_is_in_the_last_bar_and_said() -> None:
    values = np.r_[np.arange(1000) % 10, 5000.0]
    bins = whole_bins(values)
    assert bins.edges.tolist() == [i - 0.5 for i in range(11)]
    chart = drawn(values.tolist(), [0] * 1001, bins)
    assert chart.note == "the last bar has all beyond 9, too: 1"


def test_even_bars_that_begin_at_a_half_are_not_taken_for_whole_numbers() -> None:
    scores = np.r_[0.51, np.linspace(0.9, 0.999, 200)]
    bins = even_bins(scores, highest=1.0, least_span=0.1)
    assert bins.edges[0] == 0.5
    assert len(drawn(scores.tolist(), [0] * len(scores), bins).x_ticks) >= 3

    sizes = np.r_[np.linspace(38, 89, 300), 500.0]
    bins = even_bins(sizes, lowest=0.0, least_span=20.0)
    assert bins.edges[0] % 1 == 0.5
    assert drawn(sizes.tolist(), [0] * 301, bins).note == f"the last bar has all beyond {bins.edges[-1]:g}, too: 1"


def test_no_face_has_a_size_below_zero() -> None:
    assert even_bins(np.full(9, 13.0), lowest=0.0, least_span=20.0).edges[0] == 0


def test_whole_numbers_are_in_the_middle_of_their_bars() -> None:
    bins = whole_bins(np.array([90.0] * 5))
    assert 90 in (bins.edges[:-1] + 0.5)
    assert len(bins) >= 5
    chart = drawn([90.0] * 5, [0] * 5, bins)
    (bar,) = chart.bars
    (tick,) = (tick for tick in chart.x_ticks if tick.label == "90")
    assert tick.at == pytest.approx(bar.x + bar.width / 2, abs=0.2)
    assert all("." not in tick.label for tick in chart.x_ticks)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from(["even", "whole", "capped"]))
def test_every_value_has_its_bar_and_bars_stay_inside(values: list[float], kind: str) -> None:
    array = np.array(values)
    if kind == "whole":
        array = array.round()
    if kind == "capped":
        array = array / 1e6
    bins = {
        "whole": lambda: whole_bins(array), "even": lambda: even_bins(array, lowest=0.0),
        "capped": lambda: even_bins(array, highest=1.0, least_span=0.1),
    }[kind]()  # fmt: skip
    assert 1 <= len(bins) <= MOST_BARS + 2
    assert (np.diff(bins.edges) > 0).all()
    assert bins.edges[0] <= array.min()
    chart = drawn(array.tolist(), [0] * len(array), bins)
    assert chart.bars
    assert chart.x_ticks
    for bar in chart.bars:
        assert bar.x >= LEFT
        assert bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= bar.y + bar.height <= HEIGHT
        assert bar.width > 0


# Probabilities over time


def window(
    start: int, probability: float | None, model: str = "m", frames: int = 10, number: int = 0
) -> dict[str, Any]:
    return {
        "model": model, "window": number, "frame_start": start, "num_frames": frames, "frame_step": 1,
        "probability": probability,
    }  # fmt: skip


TRACK = {"row_start": 40, "row_stop": 140, "frame_start": 500, "frame_stop": 600, "frame_step": 1}


def test_windows_lie_where_their_frames_are_and_as_high_as_their_probability() -> None:
    windows = [window(0, 0.0), window(90, 1.0), window(40, 0.5, "other"), window(50, None)]
    chart = probability_chart(TRACK, windows, {"m": 0, "other": 7}, (550,))
    assert [(one.name, one.style) for one in chart.series] == [("m", 0), ("other", 1)]
    low, high = chart.series[0].windows
    assert (low.x_start, low.x_stop) == (0, CHART_WIDTH / 10)
    assert (high.x_start, high.x_stop) == (CHART_WIDTH * 0.9, CHART_WIDTH)
    assert low.y == chart.levels[2].y
    assert high.y == chart.levels[0].y
    assert chart.series[1].windows[0].y == chart.levels[1].y
    assert chart.marks == pytest.approx([CHART_WIDTH * 0.505], abs=0.1)
    assert (chart.first_frame, chart.last_frame) == (500, 599)
    assert chart.description == (
        "Probability of FAKE over the frames 500 to 599: m from 0.00 to 1.00 in 2 windows; other 0.50 in one window"
    )


def test_a_window_longer_than_its_track_ends_with_it() -> None:
    (only,) = probability_chart(TRACK, [window(90, 0.5, frames=64)], {}, ()).series[0].windows
    assert only.x_stop == CHART_WIDTH


def test_many_windows_are_thinned_and_none_is_said() -> None:
    windows = [window(0, i / 999, number=i) for i in range(1000)]
    chart = probability_chart(TRACK, windows, {}, ())
    assert len(chart.series[0].windows) == MOST_WINDOWS
    assert "in 1000 windows" in chart.description
    assert "no window is scored" in probability_chart(TRACK, [window(0, None)], {}, ()).description


# Reliability


def test_points_of_true_probabilities_lie_on_the_diagonal() -> None:
    labels = np.array([0.0, 0, 0, 1, 1, 1, 1, 1, 1, 0])
    probabilities = np.array([0.25] * 4 + [5 / 6] * 6)
    found = reliability(labels, probabilities)
    assert found is not None
    chart = reliability_chart(found)
    assert found.expected_calibration_error == pytest.approx(0, abs=1e-9)
    assert [point.y for point in chart.points] == pytest.approx([point.gap for point in chart.points], abs=0.2)
    assert chart.points[0].radius < chart.points[1].radius
    assert [bar.label for bar in chart.counts if bar.height] == ["4", "6"]
    assert "10 videos" in chart.description


def test_wrong_for_certain_is_in_the_corner_and_costs_all() -> None:
    found = reliability(np.array([0.0]), np.array([1.0]))
    assert found is not None
    (point,) = reliability_chart(found).points
    assert (point.y, point.gap) == (PLOT_BOTTOM, PLOT_TOP)
    assert found.expected_calibration_error == 1
    assert found.bins[-1].num_videos == 1
    assert reliability(np.empty(0), np.empty(0)) is None
