"""3D residual networks of Hara, Kataoka and Satoh (https://arxiv.org/abs/1711.09577).

Names and shapes of the parameters are those of https://github.com/kenshohara/video-classification-3d-cnn-pytorch, so
that its published weights fit.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Depth = Literal[18, 34, 50]
Shortcut = Literal["A", "B"]

_NUM_BLOCKS: dict[Depth, tuple[int, int, int, int]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int | tuple[int, int, int] = 1) -> nn.Conv3d:
    conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class ZeroPadShortcut(nn.Module):
    """Shortcut A: every ``stride``-th position, and zeros for the new channels. It has no parameters."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        strided = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return functional.pad(strided, (0, 0, 0, 0, 0, 0, 0, self.new_channels))


def _downsample(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Module | None:
    """What brings a block's input to the shape of its output; None where it has that shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    if shortcut == "A":
        return ZeroPadShortcut(out_channels - in_channels, stride)
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm3d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm3d(channels)
        self.downsample = _downsample(in_channels, channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + residual)


class Bottleneck(nn.Module):
    """A 3x3x3 convolution between two of 1x1x1 around a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = _conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + residual)


def _layer(
    block: type[BasicBlock | Bottleneck],
    in_channels: int,
    channels: int,
    num_blocks: int,
    stride: int,
    shortcut: Shortcut,
) -> nn.Sequential:
    first = block(in_channels, channels, stride, shortcut)
    rest = (block(channels * block.expansion, channels, 1, shortcut) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *rest)


class ResNet3D(nn.Module):
    """Takes float (B, 3, T, H, W), T >= 8, H and W >= 64; gives logits (B, num_classes).

    The published Kinetics weights have shortcut A at depths 18 and 34, B at 50.
    """

    def __init__(self, depth: Depth, num_classes: int = 400, shortcut: Shortcut = "A") -> None:
        super().__init__()
        block = Bottleneck if depth == 50 else BasicBlock
        self.conv1 = _conv(3, 64, 7, (1, 2, 2))
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        counts, wider = _NUM_BLOCKS[depth], block.expansion
        self.layer1 = _layer(block, 64, 64, counts[0], 1, shortcut)
        self.layer2 = _layer(block, 64 * wider, 128, counts[1], 2, shortcut)
        self.layer3 = _layer(block, 128 * wider, 256, counts[2], 2, shortcut)
        self.layer4 = _layer(block, 256 * wider, 512, counts[3], 2, shortcut)
        self.fc = nn.Linear(512 * wider, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(clips))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3, 4)))
        return logits
