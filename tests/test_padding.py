"""Further channels that change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from facenet_pytorch import MTCNN

from pipeline.padding import VECTOR_CHANNELS, pad_first_channels


@pytest.mark.parametrize(("name", "side"), [("pnet", 40), ("rnet", 24), ("onet", 48)])
def test_what_comes_out_stays_the_same(name: str, side: int) -> None:
    network = getattr(MTCNN().eval(), name)
    padded = copy.deepcopy(network)
    pad_first_channels(padded)
    assert padded.conv1.out_channels % VECTOR_CHANNELS == 0
    pictures = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        for plain, wide in zip(network(pictures), padded(pictures), strict=True):
            torch.testing.assert_close(wide, plain, rtol=1e-5, atol=1e-5)
