"""Write down the keys and shapes of the published Kinetics weights, 400 classes, from the architectures' tables alone.

``python -m tests.published_keys.write_keys``; one line a tensor: its key and its sizes, none of a scalar.

Sources: Inception-v1's channels (https://arxiv.org/abs/1409.4842, table 1) with the names of
https://github.com/piergiaj/pytorch-i3d, and https://arxiv.org/abs/1711.09577, table 1, with the names of
https://github.com/kenshohara/video-classification-3d-cnn-pytorch.
"""

from __future__ import annotations

from tests.published_keys import FOLDER

I3D_STEM = """
Conv3d_1a_7x7   3  64 7
Conv3d_2b_1x1  64  64 1
Conv3d_2c_3x3  64 192 3
"""
I3D_MIXED = """
Mixed_3b 192  64  96 128 16  32  32
Mixed_3c 256 128 128 192 32  96  64
Mixed_4b 480 192  96 208 16  48  64
Mixed_4c 512 160 112 224 24  64  64
Mixed_4d 512 128 128 256 24  64  64
Mixed_4e 512 112 144 288 32  64  64
Mixed_4f 528 256 160 320 32 128 128
Mixed_5b 832 256 160 320 32 128 128
Mixed_5c 832 384 192 384 48 128 128
"""
RESNET34 = """
layer1 3  64
layer2 4 128
layer3 6 256
layer4 3 512
"""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def conv(key: str, inputs: int, outputs: int, kernel: int) -> list[str]:
    return [f"{key}.weight {outputs} {inputs} {kernel} {kernel} {kernel}"]


def batch_norm(key: str, channels: int) -> list[str]:
    named = [f"{key}.{name} {channels}" for name in ("weight", "bias", "running_mean", "running_var")]
    return [*named, f"{key}.num_batches_tracked"]


def i3d() -> list[str]:
    units = [(name, int(inputs), int(outputs), int(kernel)) for name, inputs, outputs, kernel in rows(I3D_STEM)]
    for name, *sizes in rows(I3D_MIXED):
        width, b0, b1a, b1b, b2a, b2b, b3b = map(int, sizes)
        units += [(f"{name}.b0", width, b0, 1), (f"{name}.b3b", width, b3b, 1)]
        units += [(f"{name}.b1a", width, b1a, 1), (f"{name}.b1b", b1a, b1b, 3)]
        units += [(f"{name}.b2a", width, b2a, 1), (f"{name}.b2b", b2a, b2b, 3)]
    lines = []
    for name, inputs, outputs, kernel in units:
        lines += conv(f"{name}.conv3d", inputs, outputs, kernel) + batch_norm(f"{name}.bn", outputs)
    return [*lines, *conv("logits.conv3d", 1024, 400, 1), "logits.conv3d.bias 400"]


def resnet3d_34() -> list[str]:
    """Shortcut A, so without ``downsample``."""
    lines = conv("conv1", 3, 64, 7) + batch_norm("bn1", 64)
    inputs = 64
    for layer, num_blocks, width in rows(RESNET34):
        channels = int(width)
        for i in range(int(num_blocks)):
            block = f"{layer}.{i}"
            lines += conv(f"{block}.conv1", inputs, channels, 3) + batch_norm(f"{block}.bn1", channels)
            lines += conv(f"{block}.conv2", channels, channels, 3) + batch_norm(f"{block}.bn2", channels)
            inputs = channels
    return [*lines, "fc.weight 400 512", "fc.bias 400"]


if __name__ == "__main__":
    for write in (i3d, resnet3d_34):
        (FOLDER / f"{write.__name__}.txt").write_text("\n".join(write()) + "\n", encoding="utf-8")
