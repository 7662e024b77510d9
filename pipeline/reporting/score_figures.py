"""How good scores of labelled videos are; pure functions.

Labels are 0 REAL and 1 FAKE, float64 (V,), probabilities float64 (V,), of FAKE, in [0, 1]. Logarithms are natural.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.types import FAKE

CLIP = 0.001
"""Probabilities are kept this far from 0 and 1 for the log loss: one wrong for certain would cost infinitely much."""
BINS = 10
"""Of the reliability diagram."""

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Of V videos, V at least 1."""

    num_videos: int
    log_loss: float
    """Of clipped probabilities."""
    accuracy: float
    """At a half."""
    auc: float | None
    """None: there is one class only."""


def log_losses(labels: Float64Array, probabilities: Float64Array) -> Float64Array:
    """What each video costs, float64 (V,): -ln of what its class was given, clipped."""
    clipped = probabilities.clip(CLIP, 1 - CLIP)
    losses: Float64Array = -np.log(np.where(labels == FAKE, clipped, 1 - clipped))
    return losses


def figures(labels: Float64Array, probabilities: Float64Array) -> Figures | None:
    """Log loss, accuracy and AUC; None where there is no video."""
    if not len(labels):
        return None
    auc = None
    if len(np.unique(labels)) == 2:
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415  takes longer than a page without scores

        auc = float(roc_auc_score(labels, probabilities))
    right = (probabilities >= 0.5) == (labels == FAKE)
    return Figures(len(labels), float(log_losses(labels, probabilities).mean()), float(right.mean()), auc)


@dataclass(frozen=True)
class ReliabilityBin:
    """Videos whose probabilities are alike."""

    low: float
    high: float
    num_videos: int
    mean_probability: float | None
    """None: there is no video."""
    share_fake: float | None


@dataclass(frozen=True)
class Reliability:
    """Whether probabilities mean what they say: of videos given 0.8, are 80 % fakes?"""

    bins: tuple[ReliabilityBin, ...]
    """Of equal width over [0, 1]; half-open, the last one has 1, too."""
    expected_calibration_error: float
    """Sum over bins of (videos of the bin / all) x |share of FAKE - mean probability|. Source: Guo et al. 2017,
    https://arxiv.org/abs/1706.04599, section 2; there of the class that was chosen, here of FAKE."""


def reliability(labels: Float64Array, probabilities: Float64Array) -> Reliability | None:
    """What videos of each bin turned out to be; None where there is no video."""
    if not len(labels):
        return None
    edges = np.arange(BINS + 1) / BINS
    numbers = np.searchsorted(edges[1:-1], probabilities, side="right")
    counts = np.bincount(numbers, minlength=BINS)
    sums = np.bincount(numbers, probabilities, BINS)
    fakes = np.bincount(numbers, labels == FAKE, BINS)
    bins = tuple(
        ReliabilityBin(
            float(edges[i]), float(edges[i + 1]), int(counts[i]),
            float(sums[i] / counts[i]) if counts[i] else None, float(fakes[i] / counts[i]) if counts[i] else None,
        )
        for i in range(BINS)
    )  # fmt: skip
    # A count times a distance of means is a distance of sums.
    return Reliability(bins, float(np.abs(fakes - sums).sum() / len(labels)))
