"""Channels in numbers that fill a processor's vectors: pooling and PReLU of 10 or 28 channels are several times slower
than of 16 or 32 on a CPU. Torch only."""

from __future__ import annotations

import torch
from torch import nn

VECTOR_CHANNELS = 16


@torch.no_grad()
def pad_first_channels(network: nn.Module) -> None:
    """Give the first convolution further channels that are always zero and that the second one ignores, in place.

    What comes out stays the same.

    Args:
        network: with ``conv1``, ``prelu1`` and ``conv2``, and between them nothing but pooling.
    """
    conv1, prelu1, conv2 = network.conv1, network.prelu1, network.conv2
    used = conv1.out_channels
    num_channels = -(-used // VECTOR_CHANNELS) * VECTOR_CHANNELS
    wide1 = nn.Conv2d(conv1.in_channels, num_channels, conv1.kernel_size)
    wide_prelu1 = nn.PReLU(num_channels)
    wide2 = nn.Conv2d(num_channels, conv2.out_channels, conv2.kernel_size)
    for parameter in (wide1.weight, wide1.bias, wide_prelu1.weight, wide2.weight):
        parameter.zero_()
    wide1.weight[:used], wide1.bias[:used] = conv1.weight, conv1.bias
    wide_prelu1.weight[:used] = prelu1.weight
    wide2.weight[:, :used] = conv2.weight
    wide2.bias.copy_(conv2.bias)
    network.conv1, network.prelu1, network.conv2 = wide1, wide_prelu1, wide2
