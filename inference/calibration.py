"""Whether scores mean what they say: of videos scored 0.8, are 80 % fakes? Pure functions on arrays.

Labels are int64 (V,), 0 REAL and 1 FAKE, probabilities float64 (V,), of FAKE, in [0, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logit

from inference.aggregate import Float64Array, rescale
from inference.metrics import bin_edges, bin_numbers, has_both_classes
from pipeline.types import FAKE, BoolArray
from training.dataset import Int64Array

MAX_TEMPERATURE = 20.0
"""Temperatures are looked for between one over this and this."""
MAX_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Reliability:
    """B bins of equal width over [0, 1], in order."""

    edges: Float64Array
    """float64 (B + 1,)."""
    num_videos: Int64Array
    """int64 (B,)."""
    mean_probability: Float64Array
    """float64 (B,); NaN where a bin is empty."""
    share_fake: Float64Array
    """float64 (B,); NaN where a bin is empty."""

    @property
    def expected_calibration_error(self) -> float:
        """Sum over bins of (videos of the bin / all videos) x |share of FAKE - mean probability|.

        Empty bins add nothing. Source: ECE, Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 2; there of the
        probability of the class that was chosen, here of FAKE.
        """
        some = self.num_videos > 0
        distances = np.abs(self.share_fake[some] - self.mean_probability[some])
        return float((self.num_videos[some] * distances).sum() / self.num_videos.sum())


def reliability(labels: Int64Array, probabilities: Float64Array, bins: int) -> Reliability:
    """What videos of each bin of scores turned out to be."""
    numbers = bin_numbers(probabilities, bins)
    num_videos = np.bincount(numbers, minlength=bins).astype(np.int64)
    divisor = np.where(num_videos > 0, num_videos, np.nan)
    return Reliability(
        edges=bin_edges(bins),
        num_videos=num_videos,
        mean_probability=np.bincount(numbers, probabilities, bins) / divisor,
        share_fake=np.bincount(numbers, labels == FAKE, bins) / divisor,
    )


def fit_temperature(labels: Int64Array, probabilities: Float64Array) -> float | None:
    """The temperature with which :func:`inference.aggregate.rescale` gives the least log loss.

    Args:
        labels: of the videos.
        probabilities: not clipped, not rescaled.

    Returns:
        A number from 1 / :data:`MAX_TEMPERATURE` to that; None where there is one class only, or one score.
    """
    # Scores of exactly 0 and 1 stay there, whatever the temperature.
    moves = (probabilities > 0) & (probabilities < 1)
    if not has_both_classes(labels[moves]) or len(np.unique(probabilities[moves])) < 2:
        return None
    log_odds = logit(probabilities[moves]) * np.where(labels[moves] == FAKE, 1, -1)

    def loss(log_temperature: float) -> float:
        # -ln of the logistic function; rescaling first would round to 0 and 1, and cost infinitely much.
        return float(np.logaddexp(0, -log_odds / np.exp(log_temperature)).mean())

    # The loss is convex in 1 / T, so it has one minimum.
    limit = np.log(MAX_TEMPERATURE)
    found = float(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x)
    return float(np.exp(found)) if loss(found) < loss(0.0) else 1.0


def apply_temperature(probabilities: Float64Array, is_fallback: BoolArray, temperature: float) -> Float64Array:
    """The ensemble at another temperature, as :func:`inference.aggregate.combine` gives it: fallbacks stay."""
    return np.where(is_fallback, probabilities, rescale(probabilities, temperature))


def fold_numbers(groups: Sequence[str]) -> Int64Array:
    """Each video's fold, int64 (V,): videos of a group share one; as many folds as groups, at most :data:`MAX_FOLDS`.

    Groups are dealt out in order of a hash of their names, so that no fold is empty and chance stays outside.
    """
    hashed = sorted(set(groups), key=lambda group: (hashlib.sha256(group.encode()).digest(), group))
    fold_of = {group: number % MAX_FOLDS for number, group in enumerate(hashed)}
    return np.array([fold_of[group] for group in groups], np.int64)


def cross_fitted(
    labels: Int64Array, probabilities: Float64Array, is_fallback: BoolArray, groups: Sequence[str]
) -> Float64Array | None:
    """The ensemble, each fold of groups at the temperature that was fitted on the others.

    Args:
        labels: of the videos.
        probabilities: not clipped, not rescaled.
        is_fallback: bool (V,), whose score no temperature changes.
        groups: of the videos, V names.

    Returns:
        float64 (V,); None where there is one group only, or a fit isn't possible.
    """
    folds = fold_numbers(groups)
    found = probabilities.copy()
    for fold in np.unique(folds):
        rest, here = (folds != fold) & ~is_fallback, folds == fold
        temperature = fit_temperature(labels[rest], probabilities[rest])
        if temperature is None:
            return None
        found[here] = apply_temperature(probabilities[here], is_fallback[here], temperature)
    return found
