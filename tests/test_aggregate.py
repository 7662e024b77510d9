"""Aggregation: windows -> tracks -> videos -> ensemble, against tables worked out by hand and the seed's own rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference.aggregate import (
    METHODS,
    Float64Array,
    Method,
    WindowScores,
    clip,
    combine,
    combine_models,
    confident,
    rescale,
    score_videos,
)

Row = tuple[int, int, int, float]
"""video, model, track, probability."""

NAN = float("nan")


def scores(rows: Sequence[Row]) -> WindowScores:
    video, model, track = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    return WindowScores(video, model, track, np.array([row[3] for row in rows], np.float64))


# Of two models and four videos: one with two faces and two windows each, one that only the second model has scored,
# one that nobody has, one with a single window.
TABLE: list[Row] = [
    (0, 0, 0, 0.9), (0, 0, 0, 0.7), (0, 0, 1, 0.1), (0, 0, 1, 0.3),
    (0, 1, 0, 0.5), (0, 1, 0, 0.1), (0, 1, 1, 0.9), (0, 1, 1, 0.5),
    (1, 1, 0, 0.25),
    (3, 0, 0, 1.0), (3, 1, 0, 0.5),
]  # fmt: skip


@pytest.mark.parametrize(
    ("windows", "tracks", "expected"),
    [
        ("mean", "mean", [[0.5, 0.5], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]]),
        ("mean", "max", [[0.8, 0.7], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]]),
        ("max", "mean", [[0.6, 0.7], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]]),
        ("max", "max", [[0.9, 0.9], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]]),
        ("median", "median", [[0.5, 0.5], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]]),
        # Model 0, track 0: half of the windows say FAKE for sure, which is more than 40 %: 0.9; track 1: 0.2.
        ("confident", "mean", [[0.55, 0.6], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]]),
    ],
)
def test_windows_become_tracks_become_videos(windows: Method, tracks: Method, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(score_videos(scores(TABLE), 4, 2, windows, tracks), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("models", "weights", "expected"),
    [
        ("mean", [1, 1], [0.5, 0.25, NAN, 0.75]),
        ("mean", [3, 1], [0.5, 0.25, NAN, 0.875]),
        ("median", [1, 1], [0.5, 0.25, NAN, 0.75]),
        ("max", [1, 1], [0.5, 0.25, NAN, 1.0]),
        ("confident", [1, 1], [0.5, 0.25, NAN, 1.0]),
    ],
)
def test_models_become_an_ensemble(models: Method, weights: list[float], expected: list[float]) -> None:
    by_model = np.array([[0.5, 0.5], [NAN, 0.25], [NAN, NAN], [1.0, 0.5]])
    np.testing.assert_allclose(combine_models(by_model, models, np.array(weights, float)), expected)


def test_who_has_no_score_gets_the_fallback_and_is_told() -> None:
    found = combine(score_videos(scores(TABLE), 4, 2), fallback=0.83, temperature=2.0)
    assert found.is_fallback.tolist() == [False, False, True, False]
    assert found.probability[2] == 0.83  # The temperature isn't for it.
    np.testing.assert_allclose(found.probability[[0, 1]], [0.5, 1 / (1 + np.sqrt(3))])


def test_no_score_at_all_is_all_fallback() -> None:
    found = combine(score_videos(scores([]), 3, 2))
    assert found.probability.tolist() == [0.5] * 3
    assert found.is_fallback.all()


def test_the_seeds_rule_is_the_default() -> None:
    """Whole track and mirror image, softmax, mean of both, of the faces, of the models; else 0.5; clipped."""
    rng = np.random.default_rng(0)
    # (models, videos, faces, mirror, classes)
    logits = rng.normal(0, 6, (3, 5, 2, 2, 2))
    has_face = np.array([[1, 1], [1, 0], [0, 0], [1, 1], [1, 1]], bool)

    by_the_rule = []
    for video in range(5):
        of_models = []
        for model in range(3):
            exps = np.exp(logits[model, video, has_face[video]])
            fake = exps[..., 1] / exps.sum(-1)
            if fake.size:
                of_models.append(fake.mean(axis=1).mean())
        by_the_rule.append(np.clip(np.mean(of_models) if of_models else 0.5, 0.001, 0.999))

    # The mean over a pass and its mirror image is what a row of the table of scores holds: tests/test_predict.py.
    exps = np.exp(logits)
    passes = (exps[..., 1] / exps.sum(-1)).mean(axis=-1)
    rows = [(v, m, f, passes[m, v, f]) for m in range(3) for v in range(5) for f in range(2) if has_face[v, f]]
    found = combine(score_videos(scores(rows), 5, 3))
    np.testing.assert_allclose(clip(found.probability, 0.001), by_the_rule, rtol=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.9, 0.1, 0.1], 1.1 / 3),  # A third is sure it is fake: not enough.
        ([0.9, 0.9, 0.1, 0.1], 0.9),
        ([0.8, 0.8], 0.8),  # 0.8 isn't sure, but the mean says the same.
        ([0.1] * 10, 0.1),
        ([0.1] * 19 + [0.5], 0.1),  # 95 % are sure that it is real.
        ([0.1] * 9 + [0.5], 0.14),  # 90 % aren't more than 90 %.
        ([0.4, 0.6], 0.5),
    ],
)
def test_confident_leans_on_those_that_are_sure(probabilities: list[float], expected: float) -> None:
    assert confident(np.array(probabilities)) == pytest.approx(expected)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Row], int, int]:
    num_videos, num_models = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    row = st.tuples(st.integers(0, num_videos - 1), st.integers(0, num_models - 1), st.integers(0, 3), st.floats(0, 1))
    return draw(st.lists(row, max_size=30)), num_videos, num_models


@given(tables(), st.randoms(use_true_random=False), *[st.sampled_from(list(METHODS))] * 3)
def test_the_order_of_rows_never_matters(
    table: tuple[list[Row], int, int], random: object, windows: Method, tracks: Method, models: Method
) -> None:
    rows, num_videos, num_models = table
    shuffled = [*rows]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    of = [
        combine(score_videos(scores(some), num_videos, num_models, windows, tracks), models=models)
        for some in (rows, shuffled)
    ]
    np.testing.assert_array_equal(of[0].probability, of[1].probability)
    np.testing.assert_array_equal(of[0].by_model, of[1].by_model)


@given(tables(), *[st.sampled_from(list(METHODS))] * 3, st.floats(0.05, 20), st.floats(0, 0.49), st.floats(0, 1))
def test_scores_stay_inside_the_clip(
    table: tuple[list[Row], int, int],
    windows: Method,
    tracks: Method,
    models: Method,
    temperature: float,
    distance: float,
    fallback: float,
) -> None:
    rows, num_videos, num_models = table
    by_model = score_videos(scores(rows), num_videos, num_models, windows, tracks)
    found = combine(by_model, models=models, temperature=temperature, fallback=fallback)
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    clipped = clip(found.probability, distance)
    assert ((clipped >= distance) & (clipped <= 1 - distance)).all()


@given(hnp.arrays(np.float64, 5, elements=st.floats(0, 1)), st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_and_the_half(probabilities: Float64Array, temperature: float) -> None:
    rescaled = rescale(probabilities, temperature)
    order = np.argsort(probabilities)
    assert (np.diff(rescaled[order]) >= 0).all()
    assert rescale(np.array([0.0, 0.5, 1.0]), temperature).tolist() == [0.0, 0.5, 1.0]
    away = np.abs(rescaled - 0.5) - np.abs(probabilities - 0.5)
    assert (away <= 1e-12).all() if temperature >= 1 else (away >= -1e-12).all()
