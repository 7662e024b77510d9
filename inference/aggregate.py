"""Windows -> tracks -> videos -> ensemble: pure functions on arrays of probabilities.

Every function here gives the same result, to the last bit, whatever order its rows come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from pipeline.types import BoolArray

Method = Literal["mean", "median", "max", "confident"]
Float64Array = NDArray[np.float64]

_SURE_FAKE, _SURE_REAL = 0.8, 0.2
_SHARE_OF_SURE_FAKE, _SHARE_OF_SURE_REAL = 0.4, 0.9


def confident(probabilities: Float64Array) -> float:
    """The mean of those that are sure where enough are, else of all.

    Where more than 40 % say FAKE with more than 0.8, the mean of these: a face is often faked in a part of a video
    only. Else, where more than 90 % say REAL with less than 0.2, the mean of these. Source: the DFDC's first place,
    https://github.com/selimsef/dfdc_deepfake_challenge, ``confident_strategy``, there over some 32 frames and with at
    least 12 of them sure; that count is left out here, since a video has few windows and tracks.

    Args:
        probabilities: (N,), of FAKE, N at least 1.
    """
    fakes, reals = probabilities > _SURE_FAKE, probabilities < _SURE_REAL
    if fakes.mean() > _SHARE_OF_SURE_FAKE:
        return float(probabilities[fakes].mean())
    if reals.mean() > _SHARE_OF_SURE_REAL:
        return float(probabilities[reals].mean())
    return float(probabilities.mean())


METHODS: Mapping[Method, Callable[[Float64Array], float]] = {
    "mean": lambda probabilities: float(probabilities.mean()),
    "median": lambda probabilities: float(np.median(probabilities)),
    "max": lambda probabilities: float(probabilities.max()),
    "confident": confident,
}
"""Functions of probabilities (N,), N at least 1; the order of these doesn't matter but for the last bit."""


@dataclass(frozen=True, eq=False)
class WindowScores:
    """N scored windows, as arrays of one length; none failed."""

    video: NDArray[np.int64]
    """int64 (N,), numbers of videos."""
    model: NDArray[np.int64]
    """int64 (N,), numbers of models."""
    track: NDArray[np.int64]
    """int64 (N,), numbers of tracks within their video."""
    probability: Float64Array
    """float64 (N,), of FAKE, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class VideoScores:
    """The scores of V videos by M models."""

    by_model: Float64Array
    """float64 (V, M), in [0, 1]; NaN where a model has scored no track of a video."""
    probability: Float64Array
    """float64 (V,), in [0, 1]: the ensemble's, or the fallback; not clipped."""
    is_fallback: BoolArray
    """bool (V,): no model has scored it."""


def score_videos(
    scores: WindowScores, num_videos: int, num_models: int, windows: Method = "mean", tracks: Method = "mean"
) -> Float64Array:
    """Windows to tracks, tracks to videos, each model by itself.

    Args:
        scores: of the windows, in any order.
        num_videos: V; the videos are numbered 0 to V - 1.
        num_models: M; likewise.
        windows: how a track's windows become its score.
        tracks: how a video's tracks become its score.

    Returns:
        float64 (V, M); NaN where a model has scored no track of a video.
    """
    # By probability, too: sums don't depend on the order of windows then.
    order = np.lexsort((scores.probability, scores.track, scores.model, scores.video))
    keys = np.stack([scores.video, scores.model, scores.track], axis=1)[order]
    track_keys, of_tracks = _reduce(keys, scores.probability[order], METHODS[windows])
    # Tracks of a video are in order of their numbers, which are part of the store: likewise.
    video_keys, of_videos = _reduce(track_keys[:, :2], of_tracks, METHODS[tracks])
    found = np.full((num_videos, num_models), np.nan)
    found[video_keys[:, 0], video_keys[:, 1]] = of_videos
    return found


def _reduce(
    keys: NDArray[np.int64], values: Float64Array, method: Callable[[Float64Array], float]
) -> tuple[NDArray[np.int64], Float64Array]:
    """One value for each run of equal keys."""
    if not len(keys):
        return keys, values
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    return keys[starts], np.array([method(part) for part in np.split(values, starts[1:])], np.float64)


def combine_models(by_model: Float64Array, method: Method, weights: Float64Array) -> Float64Array:
    """The ensemble of the models that have scored a video.

    Args:
        by_model: (V, M), NaN where a model has not.
        method: how; ``mean`` is weighted.
        weights: (M,), above 0.

    Returns:
        float64 (V,), NaN where no model has.
    """
    there = ~np.isnan(by_model)
    combined = np.full(len(by_model), np.nan)
    if method == "mean":
        some = there.any(axis=1)
        shares = np.where(there, weights, 0)[some]
        combined[some] = (np.where(there, by_model, 0)[some] * shares).sum(axis=1) / shares.sum(axis=1)
        return combined
    for row in np.flatnonzero(there.any(axis=1)):
        combined[row] = METHODS[method](by_model[row, there[row]])
    return combined


def rescale(probabilities: Float64Array, temperature: float) -> Float64Array:
    """Log-odds divided by the temperature: above 1 towards a half, below 1 away from it; 0, a half and 1 stay.

    Source: temperature scaling, Guo et al. 2017, https://arxiv.org/abs/1706.04599; for two classes the softmax of
    logits / T is the logistic function of their difference / T.
    """
    if temperature == 1:
        return probabilities
    rescaled: Float64Array = expit(logit(probabilities) / temperature)
    return rescaled


def clip(probabilities: Float64Array, distance: float) -> Float64Array:
    """Probabilities kept at least ``distance`` from 0 and 1: one wrong for certain costs -ln(distance)."""
    return probabilities.clip(distance, 1 - distance)


def combine(
    by_model: Float64Array,
    *,
    models: Method = "mean",
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    fallback: float = 0.5,
) -> VideoScores:
    """The ensemble of all models, with a fallback where none has scored.

    Args:
        by_model: float64 (V, M), as of :func:`score_videos`.
        models: how the models' scores become one.
        weights: M of them, for the mean; None: all alike.
        temperature: see :func:`rescale`; not applied to the fallback.
        fallback: score of a video that no model has scored.
    """
    weight_array = np.ones(by_model.shape[1]) if weights is None else np.array(weights, np.float64)
    combined = combine_models(by_model, models, weight_array)
    is_fallback = np.isnan(combined)
    probability = np.where(is_fallback, fallback, rescale(np.where(is_fallback, 0.5, combined), temperature))
    return VideoScores(by_model, probability, is_fallback)
