"""Channels in numbers that fill a processor's vectors: pooling and PReLU of 10 or 28 channels are several times slower
than of 16 or 32 on a CPU. Torch only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

VECTOR_CHANNELS = 16


@torch.no_grad()
def pad_first_channels(network: Any) -> None:
    """Give the first convolution further channels that are always zero and that the second one ignores, in place.

    What comes out stays the same.

    Args:
        network: a module with ``conv1``, ``prelu1`` and ``conv2``, and between them nothing but pooling.
    """
    conv1, prelu1, conv2 = network.conv1, network.prelu1, network.conv2
    used = conv1.out_channels
    num_channels = -(-used // VECTOR_CHANNELS) * VECTOR_CHANNELS
    extra = num_channels - used
    wide1 = nn.Conv2d(conv1.in_channels, num_channels, conv1.kernel_size)
    wide1.load_state_dict(
        {"weight": pad(conv1.weight, (0, 0, 0, 0, 0, 0, 0, extra)), "bias": pad(conv1.bias, (0, extra))}
    )
    wide_prelu1 = nn.PReLU(num_channels)
    wide_prelu1.load_state_dict({"weight": pad(prelu1.weight, (0, extra))})
    wide2 = nn.Conv2d(num_channels, conv2.out_channels, conv2.kernel_size)
    wide2.load_state_dict({"weight": pad(conv2.weight, (0, 0, 0, 0, 0, extra)), "bias": conv2.bias})
    network.conv1, network.prelu1, network.conv2 = wide1, wide_prelu1, wide2
