"""Scoring the tracks that validate, with the model as it is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.dataset import Sample
from training.metrics import score, video_probabilities
from training.models import ModelSpec


def fake_probabilities(model: nn.Module, clips: Tensor, mirror: bool) -> Tensor:
    """Probability of FAKE, float32 (B,).

    Args:
        model: in evaluation mode.
        clips: (B, 3, T, S, S), normalised.
        mirror: average with the probabilities of the mirror images.
    """
    probabilities: Tensor = model(clips).float().softmax(1)[:, 1]
    if mirror:
        probabilities = (probabilities + model(clips.flip(-1)).float().softmax(1)[:, 1]) / 2
    return probabilities


def validate(
    accelerator: Accelerator,
    model: nn.Module,
    spec: ModelSpec,
    loader: DataLoader[Sample],
    tracks: pa.Table,
    mirror: bool,
) -> dict[str, float]:
    """Metrics of the videos that ``loader``, this process's share of the windows, and those of all others show.

    Returns:
        As :func:`training.metrics.score`, the same in every process.
    """
    model.eval()
    found: list[tuple[int, float]] = []
    with torch.inference_mode(), accelerator.autocast():
        for sample in loader:
            clips = spec.prepare(sample.frames.to(accelerator.device, non_blocking=True))
            probabilities = fake_probabilities(model, clips, mirror)
            found += zip(sample.row.tolist(), probabilities.tolist(), strict=True)
    model.train()
    # In order of tracks, so that sums don't depend on how many processes there are.
    rows, scores = zip(*sorted(gather_object(found)), strict=True)
    shown = tracks.take(rows)
    labels, video_scores = video_probabilities(
        shown["video_id"].to_pylist(), shown["label"].to_numpy(), np.array(scores, np.float64)
    )
    return score(labels, video_scores)
