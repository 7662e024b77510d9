"""How good scores of videos are, and how sure that is. Pure functions on arrays.

Everywhere labels are int64 (V,), 0 REAL and 1 FAKE, probabilities float64 (V,), of FAKE, in [0, 1]. Logarithms are
natural. What isn't defined, such as the AUC of one class, is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from inference.aggregate import Float64Array, clip
from pipeline.types import FAKE, REAL
from training.dataset import Int64Array

WITH_INTERVALS = ("log_loss", "balanced_log_loss", "auc", "average_precision", "accuracy")
MAX_CURVE_POINTS = 1000


def log_losses(labels: Int64Array, probabilities: Float64Array) -> Float64Array:
    """What each video costs, float64 (V,): -ln of what its class was given; infinite where that is 0."""
    with np.errstate(divide="ignore"):
        losses: Float64Array = -np.log(np.where(labels == FAKE, probabilities, 1 - probabilities))
    return losses


def has_both_classes(labels: Int64Array) -> bool:
    """Whether ranking and balancing mean anything."""
    return len(np.unique(labels)) == 2


def score(labels: Int64Array, probabilities: Float64Array, distance: float) -> dict[str, float]:
    """Metrics of V videos, V at least 1.

    Args:
        labels: of the videos.
        probabilities: not clipped.
        distance: log losses are of probabilities kept this far from 0 and 1, but for ``log_loss_unclipped``, which may
            be infinite.

    Returns:
        ``log_loss``, ``log_loss_unclipped``, ``balanced_log_loss`` (the mean of both classes' log losses), ``auc``,
        ``average_precision``, ``accuracy`` (at 0.5), ``accuracy_real``, ``accuracy_fake``, ``log_loss_real``,
        ``log_loss_fake``, and ``wrong_for_certain``: videos whose class was given 0.
    """
    losses = log_losses(labels, clip(probabilities, distance))
    unclipped = log_losses(labels, probabilities)
    right = ((probabilities >= 0.5) == (labels == FAKE)).astype(np.float64)
    both = has_both_classes(labels)
    of_real, of_fake = _mean(losses[labels == REAL]), _mean(losses[labels == FAKE])
    return {
        "log_loss": _mean(losses),
        "log_loss_unclipped": _mean(unclipped),
        "balanced_log_loss": (of_real + of_fake) / 2,
        "auc": float(roc_auc_score(labels, probabilities)) if both else math.nan,
        "average_precision": float(average_precision_score(labels, probabilities)) if both else math.nan,
        "accuracy": _mean(right),
        "accuracy_real": _mean(right[labels == REAL]),
        "accuracy_fake": _mean(right[labels == FAKE]),
        "log_loss_real": of_real,
        "log_loss_fake": of_fake,
        "wrong_for_certain": int(np.isinf(unclipped).sum()),
    }


def _mean(values: Float64Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def bootstrap(
    labels: Int64Array,
    probabilities: Float64Array,
    groups: Sequence[str],
    distance: float,
    resamples: int,
    seed: int,
) -> dict[str, Float64Array]:
    """Metrics of resamples: as many groups as there are, drawn with replacement, each with all of its videos.

    Videos of a group show the same people, so that single videos, drawn by themselves, would make figures look surer
    than they are.

    Args:
        labels: of the videos.
        probabilities: not clipped.
        groups: of the videos, V names.
        distance: log losses are of probabilities kept this far from 0 and 1.
        resamples: R.
        seed: of the draws.

    Returns:
        float64 (R,) by the names of :data:`WITH_INTERVALS`; NaN where a resample has one class only.
    """
    numbers = {name: number for number, name in enumerate(sorted(set(groups)))}
    group, num_groups = np.array([numbers[name] for name in groups], np.int64), len(numbers)
    is_fake = labels == FAKE
    losses = log_losses(labels, clip(probabilities, distance))
    columns = (~is_fake, is_fake, np.where(is_fake, 0, losses), np.where(is_fake, losses, 0))
    right = (probabilities >= 0.5) == is_fake
    sums = np.stack([np.bincount(group, column, num_groups) for column in (*columns, right)], axis=1)
    rng = np.random.default_rng(seed)
    found = {name: np.full(resamples, np.nan) for name in WITH_INTERVALS}
    for i in range(resamples):
        times = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        with np.errstate(invalid="ignore"):  # An infinite loss, drawn no time.
            num_reals, num_fakes, loss_real, loss_fake, num_right = (float(total) for total in times @ sums)
        found["log_loss"][i] = (loss_real + loss_fake) / (num_reals + num_fakes)
        found["accuracy"][i] = num_right / (num_reals + num_fakes)
        if num_reals and num_fakes:
            found["balanced_log_loss"][i] = (loss_real / num_reals + loss_fake / num_fakes) / 2
            drawn = times[group] > 0
            ranked = (labels[drawn], probabilities[drawn])
            weights = times[group][drawn]
            found["auc"][i] = roc_auc_score(*ranked, sample_weight=weights)
            found["average_precision"][i] = average_precision_score(*ranked, sample_weight=weights)
    return found


def intervals(resampled: Mapping[str, Float64Array], confidence: float) -> dict[str, float]:
    """Percentile intervals: ``NAME_low`` and ``NAME_high``, between which the share ``confidence`` of resamples lies.

    NaN where there is no resample, or one that costs infinitely much.
    """
    found: dict[str, float] = {}
    for name, values in resampled.items():
        there = values[~np.isnan(values)]
        ends = [math.nan, math.nan]
        if len(there) and np.isfinite(there).all():
            ends = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
        found |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return found


class Curve(NamedTuple):
    """Points of a curve, each of one threshold."""

    x: Float64Array
    y: Float64Array
    thresholds: Float64Array
    """What is called FAKE scores at least so much; NaN at the end that no score belongs to."""


def roc(labels: Int64Array, probabilities: Float64Array) -> Curve:
    """x the false, y the true positive rate, from (0, 0) to (1, 1); without points where there is one class only."""
    if not has_both_classes(labels):
        return _no_curve()
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, probabilities)
    # scikit-learn says infinity for "nothing is called FAKE".
    return _thin(Curve(false_positive_rate, true_positive_rate, np.where(np.isinf(thresholds), np.nan, thresholds)))


def precision_recall(labels: Int64Array, probabilities: Float64Array) -> Curve:
    """x recall, y precision, from recall 1 to 0; without points where there is one class only."""
    if not has_both_classes(labels):
        return _no_curve()
    precision, recall, thresholds = precision_recall_curve(labels, probabilities, drop_intermediate=True)
    return _thin(Curve(recall, precision, np.r_[thresholds, np.nan]))


def _no_curve() -> Curve:
    return Curve(np.empty(0), np.empty(0), np.empty(0))


def _thin(curve: Curve) -> Curve:
    """At most :data:`MAX_CURVE_POINTS`, evenly taken, both ends among them."""
    rows = np.unique(np.linspace(0, len(curve.x) - 1, min(len(curve.x), MAX_CURVE_POINTS)).astype(np.int64))
    return Curve(curve.x[rows], curve.y[rows], curve.thresholds[rows])


def bin_edges(bins: int) -> Float64Array:
    """Edges of so many bins of equal width over [0, 1], float64 (bins + 1,): the numbers as one would write them."""
    return np.arange(bins + 1) / bins


def bin_numbers(probabilities: Float64Array, bins: int) -> Int64Array:
    """Which bin each lies in, int64 (V,): bins are half-open, the last one has 1, too."""
    return np.searchsorted(bin_edges(bins)[1:-1], probabilities, side="right").astype(np.int64)


def histogram(labels: Int64Array, probabilities: Float64Array, bins: int) -> tuple[Int64Array, Int64Array]:
    """REAL and FAKE videos a bin, each int64 (bins,)."""
    numbers = bin_numbers(probabilities, bins)
    real, fake = (np.bincount(numbers[labels == label], minlength=bins).astype(np.int64) for label in (REAL, FAKE))
    return real, fake
