"""Metrics of scored videos: by hand where it is easy, by scikit-learn where it is not; and how sure they are."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from inference.calibration import reliability
from inference.metrics import (
    MAX_CURVE_POINTS,
    WITH_INTERVALS,
    Curve,
    bin_edges,
    bin_numbers,
    bootstrap,
    histogram,
    intervals,
    log_losses,
    precision_recall,
    roc,
    score,
)
from inference.plots import plot_histogram, plot_precision_recall, plot_reliability, plot_roc
from training import metrics as training_metrics

LABELS = np.array([0, 0, 1, 1, 1])
PROBABILITIES = np.array([0.2, 1.0, 0.0, 0.5, 0.9])
"""One of each class is wrong for certain."""


def test_log_loss_is_clipped_at_both_ends() -> None:
    metrics = score(LABELS, PROBABILITIES, 0.01)
    real = (-math.log(0.8) - math.log(0.01)) / 2
    fake = (-math.log(0.01) - math.log(0.5) - math.log(0.9)) / 3
    assert metrics["log_loss_real"] == pytest.approx(real)
    assert metrics["log_loss_fake"] == pytest.approx(fake)
    assert metrics["log_loss"] == pytest.approx((2 * real + 3 * fake) / 5)
    assert metrics["balanced_log_loss"] == pytest.approx((real + fake) / 2)


def test_to_be_right_for_certain_is_clipped_too() -> None:
    assert score(np.array([0, 1]), np.array([0.0, 1.0]), 0.001)["log_loss"] == pytest.approx(-math.log(0.999))


def test_unclipped_it_is_infinite_and_says_of_how_many() -> None:
    metrics = score(LABELS, PROBABILITIES, 0.01)
    assert metrics["log_loss_unclipped"] == math.inf
    assert metrics["wrong_for_certain"] == 2
    kept = np.array([0, 3, 4])
    metrics = score(LABELS[kept], PROBABILITIES[kept], 0.3)
    assert metrics["log_loss_unclipped"] == pytest.approx(-(math.log(0.8) + math.log(0.5) + math.log(0.9)) / 3)
    assert metrics["wrong_for_certain"] == 0


def test_accuracies_are_at_a_half_which_is_fake() -> None:
    metrics = score(LABELS, PROBABILITIES, 0.01)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["accuracy_real"] == pytest.approx(1 / 2)
    assert metrics["accuracy_fake"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("label", [0, 1])
def test_of_one_class_what_compares_classes_is_not_defined(label: int) -> None:
    metrics = score(np.full(3, label), np.array([0.2, 0.5, 0.9]), 0.001)
    undefined = {name for name, value in metrics.items() if math.isnan(value)}
    other = ("fake", "real")[label]
    assert undefined == {"balanced_log_loss", "auc", "average_precision", f"accuracy_{other}", f"log_loss_{other}"}
    assert metrics["log_loss"] == metrics[f"log_loss_{('real', 'fake')[label]}"]


def test_training_and_evaluation_measure_alike() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 50), rng.random(50).round(1)
    ours = score(labels, probabilities, training_metrics.CLIP)
    for name, value in training_metrics.score(labels, probabilities).items():
        assert ours[name] == pytest.approx(value), name


# Intervals


def test_a_group_is_drawn_whole_or_not_at_all() -> None:
    """A group of three that are right, one of two that are wrong: any split would show in the accuracy."""
    labels, probabilities = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.9, 0.9, 0.8, 0.2])
    found = bootstrap(labels, probabilities, ["a", "a", "b", "a", "b"], 0.001, 200, 0)["accuracy"]
    assert set(found.tolist()) == {1.0, 0.6, 0.0}


def test_resamples_of_one_class_are_left_out_of_what_needs_both() -> None:
    labels, probabilities = np.array([0, 1]), np.array([0.3, 0.8])
    found = bootstrap(labels, probabilities, ["a", "b"], 0.001, 100, 0)
    one_class = np.isnan(found["auc"])
    assert 0 < one_class.sum() < 100
    np.testing.assert_array_equal(np.isnan(found["average_precision"]), one_class)
    np.testing.assert_array_equal(np.isnan(found["balanced_log_loss"]), one_class)
    assert not np.isnan(found["log_loss"]).any()
    assert set(found["auc"][~one_class].tolist()) == {1.0}
    ends = intervals(found, 0.95)
    assert (ends["auc_low"], ends["auc_high"]) == (1.0, 1.0)
    assert ends["log_loss_low"] == pytest.approx(-math.log(0.8))
    assert ends["log_loss_high"] == pytest.approx(-math.log(0.7))


def test_resamples_are_those_of_the_seed_whatever_the_order_of_videos() -> None:
    rng = np.random.default_rng(1)
    labels, probabilities = rng.integers(0, 2, 30), rng.random(30)
    groups = [f"g{i % 7}" for i in range(30)]
    first = bootstrap(labels, probabilities, groups, 0.001, 50, 3)
    again = bootstrap(labels, probabilities, groups, 0.001, 50, 3)
    order = rng.permutation(30)
    shuffled = bootstrap(labels[order], probabilities[order], [groups[i] for i in order], 0.001, 50, 3)
    other = bootstrap(labels, probabilities, groups, 0.001, 50, 4)
    for name in WITH_INTERVALS:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_allclose(first[name], shuffled[name], rtol=1e-12)
        assert (first[name] != other[name]).any()


def test_intervals_hold_the_share_they_are_asked_for() -> None:
    resampled = {"log_loss": np.arange(101) / 100}
    assert intervals(resampled, 0.9) == pytest.approx({"log_loss_low": 0.05, "log_loss_high": 0.95})


def test_without_resamples_or_with_infinite_ones_there_is_no_interval() -> None:
    none = intervals(bootstrap(LABELS, PROBABILITIES, list("abcde"), 0.0, 0, 0), 0.95)
    assert all(math.isnan(end) for end in none.values())
    infinite = intervals(bootstrap(LABELS, PROBABILITIES, list("abcde"), 0.0, 20, 0), 0.95)
    assert math.isnan(infinite["log_loss_high"])
    assert not math.isnan(infinite["auc_high"])


# Curves and bins


def test_a_small_roc_curve() -> None:
    curve = roc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.8]))
    assert curve.x.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.y.tolist() == [0, 0.5, 0.5, 1, 1]
    np.testing.assert_array_equal(curve.thresholds, [math.nan, 0.8, 0.6, 0.4, 0.1])


def test_a_small_precision_recall_curve() -> None:
    curve = precision_recall(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.8]))
    assert curve.x.tolist() == [1, 1, 0.5, 0.5, 0]
    assert curve.y.tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1, 1])
    np.testing.assert_array_equal(curve.thresholds, [0.1, 0.4, 0.6, 0.8, math.nan])


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 5000), rng.random(5000)
    for curve, first, last in (
        (roc(labels, probabilities), (0, 0), (1, 1)),
        (precision_recall(labels, probabilities), (1, labels.mean()), (0, 1)),
    ):
        assert len(curve.x) == len(curve.y) == len(curve.thresholds) == MAX_CURVE_POINTS
        assert (curve.x[0], curve.y[0]) == pytest.approx(first)
        assert (curve.x[-1], curve.y[-1]) == pytest.approx(last)
        assert (np.diff(curve.x) >= 0).all() or (np.diff(curve.x) <= 0).all()


def test_of_one_class_curves_have_no_points() -> None:
    for curve in (roc(np.zeros(3, int), np.arange(3) / 3), precision_recall(np.ones(3, int), np.arange(3) / 3)):
        assert [len(column) for column in curve] == [0, 0, 0]


@pytest.mark.parametrize("bins", [2, 10, 20, 100])
def test_an_edge_belongs_to_the_bin_above_it_and_one_to_the_last(bins: int) -> None:
    edges = np.array([number / bins for number in range(bins + 1)])
    assert bin_edges(bins).tolist() == edges.tolist()
    assert bin_numbers(edges, bins).tolist() == [*range(bins), bins - 1]
    assert bin_numbers(np.nextafter(edges[1:], 0), bins).tolist() == [*range(bins)]


def test_a_small_histogram() -> None:
    real, fake = histogram(LABELS, PROBABILITIES, 4)
    assert real.tolist() == [1, 0, 0, 1]
    assert fake.tolist() == [1, 0, 1, 1]


def test_losses_are_of_each_video() -> None:
    assert log_losses(np.array([0, 1]), np.array([0.25, 0.25])).tolist() == pytest.approx(
        [-math.log(0.75), -math.log(0.25)]
    )


# Pictures


def size_of_png(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def pictures(labels: np.ndarray[tuple[int], np.dtype[np.int64]], seed: int, name: str = "mc3_18") -> list[bytes]:
    scores = np.random.default_rng(seed).random(len(labels))
    curve, recall = roc(labels, scores), precision_recall(labels, scores)
    return [
        plot_roc([(name, curve, 0.5), ("ensemble", curve, 0.5)], len(labels)),
        plot_precision_recall([(name, recall, 0.5), ("ensemble", recall, 0.5)], 0.5, len(labels)),
        plot_reliability(reliability(labels, scores, 10)),
        plot_histogram(bin_edges(20), *histogram(labels, scores, 20)),
    ]


def test_pictures_are_of_their_data_and_of_nothing_else() -> None:
    labels = np.arange(40) % 2
    first, again, other = pictures(labels, 0), pictures(labels, 0), pictures(labels, 1)
    for one, same, different in zip(first, again, other, strict=True):
        width, height = size_of_png(one)
        assert 400 < width < 1200
        assert 400 < height < 1200
        assert one == same
        assert one != different
        assert b"Software" not in one


@pytest.mark.parametrize("name", ["$\\frac", "_hidden", "a\x1b[2Jb\n", "模型", "x" * 300])
def test_any_name_can_be_drawn(name: str) -> None:
    labels = np.arange(8) % 2
    for odd, plain in zip(pictures(labels, 0, name)[:2], pictures(labels, 0)[:2], strict=True):
        assert size_of_png(odd) == size_of_png(plain)
        assert odd != plain


def test_pictures_of_one_class_say_why_they_are_empty() -> None:
    for data in pictures(np.ones(5, np.int64), 0):
        size_of_png(data)
    nothing = Curve(np.empty(0), np.empty(0), np.empty(0))
    point = Curve(np.zeros(1), np.zeros(1), np.zeros(1))
    assert plot_roc([("a", nothing, math.nan)], 5) != plot_roc([("a", point, math.nan)], 5)
