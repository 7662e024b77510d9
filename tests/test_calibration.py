"""Calibration: errors by hand, temperatures that are known, groups that stay together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from inference import calibration
from inference.aggregate import Float64Array, combine, rescale
from inference.calibration import (
    MAX_FOLDS,
    MAX_TEMPERATURE,
    apply_temperature,
    cross_fitted,
    fit_temperature,
    fold_numbers,
    reliability,
)
from inference.metrics import log_losses
from training.dataset import Int64Array


def well_calibrated(count: int, seed: int = 0) -> tuple[Int64Array, Float64Array]:
    """Labels and the probabilities that they were drawn with."""
    rng = np.random.default_rng(seed)
    probabilities = expit(rng.normal(0, 2, count))
    return (rng.random(count) < probabilities).astype(np.int64), probabilities


def test_reliability_and_its_error_by_hand() -> None:
    table = reliability(np.array([0, 1, 1, 0, 1]), np.array([0.1, 0.2, 0.75, 0.95, 1.0]), 4)
    assert table.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert table.num_videos.tolist() == [2, 0, 0, 3]
    np.testing.assert_allclose(table.mean_probability, [0.15, np.nan, np.nan, 0.9])
    np.testing.assert_allclose(table.share_fake, [0.5, np.nan, np.nan, 2 / 3])
    expected = 2 / 5 * (0.5 - 0.15) + 3 / 5 * (0.9 - 2 / 3)
    assert table.expected_calibration_error == pytest.approx(expected)


def test_the_error_of_scores_that_mean_what_they_say_is_small() -> None:
    labels, probabilities = well_calibrated(20_000)
    assert reliability(labels, probabilities, 10).expected_calibration_error < 0.02
    assert reliability(labels, rescale(probabilities, 0.3), 10).expected_calibration_error > 0.05


@pytest.mark.parametrize("temperature", [0.25, 0.8, 1.0, 2.0, 7.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    labels, probabilities = well_calibrated(20_000)
    found = fit_temperature(labels, rescale(probabilities, 1 / temperature))
    assert found == pytest.approx(temperature, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_fitted_temperature_never_costs_more_than_none(rows: list[tuple[int, float]]) -> None:
    labels, probabilities = (np.array(column) for column in zip(*rows, strict=True))
    temperature = fit_temperature(labels, probabilities)
    if temperature is None:
        return
    assert 1 / MAX_TEMPERATURE <= temperature <= MAX_TEMPERATURE
    # Those at 0 and 1 stay there, and cost the same.
    moves = (probabilities > 0) & (probabilities < 1)
    before = log_losses(labels[moves], probabilities[moves]).mean()
    after = log_losses(labels[moves], rescale(probabilities[moves], temperature)).mean()
    assert after <= before + 1e-9 or math.isclose(after, before)


def test_scores_that_say_the_contrary_go_to_a_half_and_perfect_ones_to_the_ends() -> None:
    labels = np.array([0, 0, 1, 1])
    contrary, perfect = (
        fit_temperature(labels, np.array(scores)) for scores in ([0.8, 0.9, 0.1, 0.2], [0.3, 0.4, 0.6, 0.7])
    )
    assert contrary == pytest.approx(MAX_TEMPERATURE, rel=0.01)
    assert perfect == pytest.approx(1 / MAX_TEMPERATURE, rel=0.01)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [([], []), ([1, 1], [0.2, 0.4]), ([0, 1], [0.5, 0.5]), ([0, 1, 1], [1.0, 0.0, 0.4])],
    ids=["nothing", "one class", "one score", "one that moves"],
)
def test_where_no_fit_is_possible_there_is_none(labels: list[int], probabilities: list[float]) -> None:
    assert fit_temperature(np.array(labels, np.int64), np.array(probabilities)) is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_applied_later_is_one_applied_at_once(temperature: float) -> None:
    by_model = np.array([[0.2, 0.6], [np.nan, 0.9], [np.nan, np.nan], [0.0, 0.0]])
    raw = combine(by_model, fallback=0.7)
    at_once = combine(by_model, fallback=0.7, temperature=temperature)
    later = apply_temperature(raw.probability, raw.is_fallback, temperature)
    np.testing.assert_array_equal(later, at_once.probability)


# Cross-fitting


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30))
def test_folds_keep_groups_together_and_none_is_empty(groups: list[str]) -> None:
    folds = fold_numbers(groups)
    of_group = {
        group: {int(fold) for fold, name in zip(folds, groups, strict=True) if name == group} for group in groups
    }
    assert all(len(found) == 1 for found in of_group.values())
    assert sorted(set(folds.tolist())) == list(range(min(MAX_FOLDS, len(of_group))))


def test_folds_depend_on_names_alone() -> None:
    groups = [f"g{number}" for number in range(12)]
    assert fold_numbers(groups[::-1]).tolist() == fold_numbers(groups)[::-1].tolist()


def test_each_fold_gets_the_temperature_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, truth = well_calibrated(900)
    probabilities = rescale(truth, 0.5)
    is_fallback = np.arange(900) % 9 == 0
    groups = [f"g{number // 3}" for number in range(900)]
    seen: list[float] = []

    def spy(fit_labels: Int64Array, fit_probabilities: Float64Array) -> float | None:
        assert not {*fit_probabilities.tolist()} & {*probabilities[is_fallback].tolist()}
        seen.append(len(fit_labels))
        return 1.0 + len(seen)

    monkeypatch.setattr(calibration, "fit_temperature", spy)
    found = cross_fitted(labels, probabilities, is_fallback, groups)
    assert found is not None
    folds = fold_numbers(groups)
    for fold in range(MAX_FOLDS):
        here = folds == fold
        assert seen[fold] == (~here & ~is_fallback).sum()
        np.testing.assert_array_equal(
            found[here], np.where(is_fallback[here], probabilities[here], rescale(probabilities[here], 2.0 + fold))
        )


def test_cross_fitted_scores_of_the_overconfident_are_better_than_none() -> None:
    labels, truth = well_calibrated(600)
    probabilities = rescale(truth, 0.3)
    groups = [f"g{number // 3}" for number in range(600)]
    found = cross_fitted(labels, probabilities, np.zeros(600, bool), groups)
    assert found is not None
    assert log_losses(labels, found).mean() < log_losses(labels, probabilities).mean()


def test_without_others_to_fit_on_nothing_is_cross_fitted() -> None:
    labels, probabilities, scored = np.array([0, 1]), np.array([0.2, 0.7]), np.zeros(2, bool)
    assert cross_fitted(labels, probabilities, scored, ["a", "a"]) is None
    assert cross_fitted(labels, probabilities, scored, ["a", "b"]) is None
    assert cross_fitted(labels, probabilities, ~scored, ["a", "b"]) is None
