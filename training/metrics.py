"""How good scores are: windows -> videos -> log loss, AUC and accuracies. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from pipeline.types import FAKE, REAL
from training.dataset import Int64Array

Float64Array = NDArray[np.float64]

CLIP = 1e-3
"""Probabilities are kept this far from 0 and 1, as in the submissions of the notebook this rebuilds: one video that is
wrong for certain costs 6.9, not infinity."""


def video_probabilities(
    video_ids: Sequence[str], labels: Int64Array, probabilities: Float64Array
) -> tuple[Int64Array, Float64Array]:
    """The mean over each video's windows, all of its faces together.

    Args:
        video_ids: of N windows.
        labels: int (N,), the same for all windows of a video.
        probabilities: (N,), of FAKE.

    Returns:
        int64 (V,) labels and float64 (V,) probabilities of the V videos, in order of their first window.
    """
    numbers: dict[str, int] = {}
    video_of = np.array([numbers.setdefault(video_id, len(numbers)) for video_id in video_ids])
    counts = np.bincount(video_of)
    return (
        np.rint(np.bincount(video_of, labels) / counts).astype(np.int64),
        np.bincount(video_of, probabilities) / counts,
    )


def score(labels: Int64Array, probabilities: Float64Array) -> dict[str, float]:
    """Metrics of V videos, both classes present.

    Args:
        labels: int (V,), 0 REAL, 1 FAKE.
        probabilities: (V,), of FAKE, in [0, 1].

    Returns:
        ``log_loss`` (natural log, at the ratio of classes there is), ``balanced_log_loss`` (the mean of both classes'
        log losses; 0.693 for one who always says a half), ``auc``, ``accuracy_real``, ``accuracy_fake`` (at 0.5).
    """
    clipped = probabilities.clip(CLIP, 1 - CLIP)
    weights = np.where(labels == FAKE, 1 / (labels == FAKE).sum(), 1 / (labels == REAL).sum())
    said_fake = (probabilities >= 0.5).astype(np.int64)
    return {
        "log_loss": float(log_loss(labels, clipped, labels=[REAL, FAKE])),
        "balanced_log_loss": float(log_loss(labels, clipped, labels=[REAL, FAKE], sample_weight=weights)),
        "auc": float(roc_auc_score(labels, probabilities)),
        "accuracy_real": float(accuracy_score(labels[labels == REAL], said_fake[labels == REAL])),
        "accuracy_fake": float(accuracy_score(labels[labels == FAKE], said_fake[labels == FAKE])),
    }
