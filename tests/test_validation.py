"""The validation pass: probabilities of windows, with or without their mirror images, become metrics of videos."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.stores import SIZE, make_video, write_store
from training.dataset import ClipDataset, Sample, even_windows, read_tracks
from training.models import ModelSpec
from training.validation import fake_probabilities, validate

pytestmark = pytest.mark.usefixtures("one_torch_thread", "fresh_accelerator")

SPEC = ModelSpec("left", SIZE, 8, 1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), {})


class LeftHalf(nn.Module):
    """Says FAKE as far as the left half of the first frame is bright."""

    def forward(self, clips: Tensor) -> Tensor:
        bright = clips[:, :, 0, :, : clips.shape[-1] // 2].mean((1, 2, 3)).clamp(0.01, 0.99)
        return torch.stack([(1 - bright).log(), bright.log()], dim=1)


def frames(left: int, right: int, length: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    clip = np.full((length, SIZE, SIZE, 3), right, np.uint8)
    clip[:, :, : SIZE // 2] = left
    return clip


def test_the_mirror_image_counts_as_much() -> None:
    clips = torch.zeros(1, 3, 8, 4, 4)
    clips[..., :2] = 0.8
    clips[..., 2:] = 0.4
    assert fake_probabilities(LeftHalf(), clips, mirror=False).tolist() == pytest.approx([0.8])
    assert fake_probabilities(LeftHalf(), clips, mirror=True).tolist() == pytest.approx([0.6])


def test_a_video_is_the_mean_of_its_faces_and_windows(tmp_path: Path) -> None:
    half = 255 // 2
    real = make_video("real.mp4", [8, 8], label=0, frames=frames(51, 0))
    fake = make_video("fake.mp4", [8], label=1, frames=frames(half, 255))
    store = write_store(tmp_path / "store", [[real, fake]])
    tracks: pa.Table = read_tracks(store)
    clips = ClipDataset(store, tracks, SPEC.clip_frames)
    windows = even_windows(len(clips), 2)
    loader = DataLoader[Sample](clips, batch_sampler=[windows[:4], windows[4:]])
    model = LeftHalf().train()
    metrics = validate(Accelerator(cpu=True), model, SPEC, loader, tracks, mirror=False)
    assert metrics["log_loss"] == pytest.approx((-math.log(1 - 51 / 255) - math.log(half / 255)) / 2, abs=1e-5)
    assert metrics["auc"] == 1
    assert (metrics["accuracy_real"], metrics["accuracy_fake"]) == (1, 0)
    assert model.training
