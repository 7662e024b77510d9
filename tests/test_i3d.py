"""I3D pads as TensorFlow does: shown against a plain implementation of the padding's formula, on the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.published_keys import FOLDER, published_shapes, write_keys
from training.models.i3d import I3D, HeadPool, SameMaxPool3d, same_padding

# Small tensors: more threads would wait for each other longer than they work.
pytestmark = pytest.mark.usefixtures("one_torch_thread")

State = dict[str, Tensor]
Front = Callable[[int], int]
"""How much of an axis' padding goes in front."""


def floor_in_front(total: int) -> int:
    return total // 2


def ceil_in_front(total: int) -> int:
    return total - total // 2


def padded(x: Tensor, kernel: int | tuple[int, ...], stride: int | tuple[int, ...], in_front: Front) -> Tensor:
    """Zeros around time, height and width, written as the formula says it, an axis at a time."""
    for axis in range(3):
        k = kernel if isinstance(kernel, int) else kernel[axis]
        s = stride if isinstance(stride, int) else stride[axis]
        size = x.shape[2 + axis]
        total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
        sizes = list(x.shape)
        sizes[2 + axis] = size + total
        wider = torch.zeros(sizes, dtype=x.dtype)
        wider.narrow(2 + axis, in_front(total), size).copy_(x)
        x = wider
    return x


class PlainI3D:
    """The network as functions of a state dict."""

    def __init__(self, state: State, in_front: Front = floor_in_front) -> None:
        self.state = state
        self.in_front = in_front

    def unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.conv3d.weight"]
        x = functional.conv3d(padded(x, weight.shape[-1], stride, self.in_front), weight, stride=stride)
        mean, var, gamma, beta = (
            self.state[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-3).sqrt() * gamma + beta).clamp(min=0)

    def pool(self, x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        x = padded(x, kernel, stride, self.in_front)
        for axis in range(3):
            x = x.unfold(2 + axis, kernel[axis], stride[axis])
        return x.amax(dim=(5, 6, 7))

    def mixed(self, x: Tensor, name: str) -> Tensor:
        b1 = self.unit(self.unit(x, f"{name}.b1a"), f"{name}.b1b")
        b2 = self.unit(self.unit(x, f"{name}.b2a"), f"{name}.b2b")
        b3 = self.unit(self.pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")
        return torch.cat([self.unit(x, f"{name}.b0"), b1, b2, b3], dim=1)

    def __call__(self, clips: Tensor) -> Tensor:
        x = self.unit(clips, "Conv3d_1a_7x7", stride=2)
        x = self.unit(self.pool(x, (1, 3, 3), (1, 2, 2)), "Conv3d_2b_1x1")
        x = self.pool(self.unit(x, "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
        x = self.mixed(self.mixed(x, "Mixed_3b"), "Mixed_3c")
        x = self.pool(x, (3, 3, 3), (2, 2, 2))
        for block in "bcdef":
            x = self.mixed(x, f"Mixed_4{block}")
        x = self.pool(x, (2, 2, 2), (2, 2, 2))
        x = self.mixed(self.mixed(x, "Mixed_5b"), "Mixed_5c")
        x = functional.avg_pool3d(x, (min(2, x.shape[2]), *x.shape[3:]), stride=1)
        x = functional.conv3d(x, self.state["logits.conv3d.weight"], self.state["logits.conv3d.bias"])
        return x.mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def lived_in(one_torch_thread: None) -> I3D:
    """With batch norms that know their inputs and do something, as after training; in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = I3D(num_classes=5)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
        for norm in norms:
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
        model.double()
        with torch.no_grad():
            model(random_clips(16, 96, 96))
    return model.eval()


def random_clips(*size: int) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def test_keys_and_shapes_are_those_of_the_published_weights() -> None:
    with torch.device("meta"):
        model = I3D(num_classes=400)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == published_shapes("i3d")
    assert len(shapes) == 344
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_697_264


def test_the_keys_are_written_down_as_the_tables_give_them() -> None:
    for name, lines in (("i3d", write_keys.i3d()), ("resnet3d_34", write_keys.resnet3d_34())):
        assert (FOLDER / f"{name}.txt").read_text().splitlines() == lines


@pytest.mark.parametrize("size", [(9, 65, 70), (8, 64, 64), (17, 66, 97), (24, 100, 66)])
def test_outputs_are_those_of_the_plain_implementation(lived_in: I3D, size: tuple[int, int, int]) -> None:
    clips = random_clips(*size)
    with torch.inference_mode():
        outputs, expected = lived_in(clips), PlainI3D(lived_in.state_dict())(clips)
    assert expected.std() > 0.01
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


def test_an_odd_padding_behind_is_not_one_in_front(lived_in: I3D) -> None:
    """Else the test above would show nothing."""
    clips = random_clips(8, 64, 64)
    with torch.inference_mode():
        outputs, shifted = lived_in(clips), PlainI3D(lived_in.state_dict(), ceil_in_front)(clips)
    assert (outputs - shifted).abs().max() > 1e-3


def test_tensorflow_puts_the_odd_zero_behind() -> None:
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(225, 7, 2) == (3, 3)
    assert same_padding(112, 3, 2) == (0, 1)
    assert same_padding(7, 2, 2) == (0, 1)
    assert same_padding(8, 2, 2) == (0, 0)
    assert same_padding(5, 1, 1) == (0, 0)


@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    window=st.sampled_from(
        [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3,) * 3, (1,) * 3)]
    ),
    seed=st.integers(0, 100),
)
@settings(deadline=None)
def test_a_pool_of_what_is_not_negative_is_one_with_zeros_around_it(
    size: tuple[int, int, int], window: tuple[tuple[int, int, int], tuple[int, int, int]], seed: int
) -> None:
    x = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(SameMaxPool3d(*window)(x), PlainI3D({}).pool(x, *window), rtol=0, atol=0)


def test_the_head_pools_two_frames_at_a_time_so_the_ends_weigh_half() -> None:
    x = torch.tensor([0.0, 0.0, 0.0, 6.0]).view(1, 1, 4, 1, 1).expand(1, 1, 4, 7, 7)
    assert HeadPool()(x).flatten().tolist() == pytest.approx([0, 0, 3])
    assert HeadPool()(x[:, :, 3:]).flatten().tolist() == pytest.approx([6])
    y = torch.rand(2, 4, 8, 7, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(HeadPool()(y), functional.avg_pool3d(y, (2, 7, 7), stride=1))


def test_fresh_weights_keep_the_signal_alive_and_the_logits_small() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logits = I3D(num_classes=2).double()(random_clips(9, 64, 64))
    assert 1e-3 < logits.abs().max() < 3
