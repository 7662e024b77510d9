"""Metrics: by hand where it is easy, by definition where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.metrics import score, video_probabilities


def test_windows_and_faces_of_a_video_are_averaged() -> None:
    labels, probabilities = video_probabilities(
        ["b", "a", "b", "b"], np.array([1, 0, 1, 1]), np.array([0.9, 0.2, 0.6, 0.3])
    )
    assert labels.tolist() == [1, 0]
    assert probabilities.tolist() == pytest.approx([0.6, 0.2])


def test_log_loss_at_the_ratio_there_is_and_at_even_classes() -> None:
    metrics = score(np.array([0, 1, 1, 1]), np.array([0.4, 0.5, 0.8, 0.9]))
    real, fakes = -math.log(0.6), -(math.log(0.5) + math.log(0.8) + math.log(0.9)) / 3
    assert metrics["log_loss"] == pytest.approx((real + 3 * fakes) / 4)
    assert metrics["balanced_log_loss"] == pytest.approx((real + fakes) / 2)
    assert metrics["auc"] == 1
    assert (metrics["accuracy_real"], metrics["accuracy_fake"]) == (1, 1)


def test_who_always_says_a_half_gets_the_prior() -> None:
    metrics = score(np.array([0, 1, 1, 1, 1]), np.full(5, 0.5))
    assert metrics["log_loss"] == pytest.approx(math.log(2))
    assert metrics["balanced_log_loss"] == pytest.approx(math.log(2))
    assert metrics["auc"] == 0.5


def test_accuracy_is_of_each_class() -> None:
    metrics = score(np.array([0, 0, 0, 1]), np.array([0.1, 0.6, 0.7, 0.2]))
    assert metrics["accuracy_real"] == pytest.approx(1 / 3)
    assert metrics["accuracy_fake"] == 0


def test_to_be_wrong_for_certain_costs_what_a_submission_would() -> None:
    metrics = score(np.array([0, 1]), np.array([1.0, 0.0]))
    assert metrics["log_loss"] == pytest.approx(-math.log(0.001))
