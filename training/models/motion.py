"""A start for models without trained weights: half of the first filters over time see nothing but change."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def sense_motion(model: nn.Module) -> None:
    """Take the mean over time from half of the filters of the first convolution that spans several frames.

    Such a filter gives zero for a picture that stands still. What betrays a fake over time (flicker, jumps, seams that
    swim) is faint beside the picture itself; batch norm then lifts it to the same strength, where a network without
    trained weights would take long to find it. ``benchmarks/learning.py`` measures the difference.

    Args:
        model: changed in place; one without a convolution over time stays as it is.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            filters = module.weight[: module.out_channels // 2]  # (N, C, T, H, W)
            filters -= filters.mean(dim=2, keepdim=True)
            return
