"""3D ResNets have the published names, and both shortcuts do what the paper says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.published_keys import published_shapes
from training.models.resnet3d import Depth, ResNet3D, Shortcut

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize(
    ("depth", "shortcut", "num_parameters", "num_entries"),
    [(34, "A", 63_544_912, 200), (34, "B", 63_718_736, 218), (18, "B", 33_409_104, 122), (50, "B", 47_018_576, 320)],
)
def test_as_large_as_published(depth: Depth, shortcut: Shortcut, num_parameters: int, num_entries: int) -> None:
    with torch.device("meta"):
        model = ResNet3D(depth, shortcut=shortcut)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert len(model.state_dict()) == num_entries


def test_keys_and_shapes_are_those_of_the_published_weights() -> None:
    with torch.device("meta"):
        state = ResNet3D(34).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == published_shapes("resnet3d_34")


def plain_resnet3d(state: dict[str, Tensor], clips: Tensor) -> Tensor:
    """The network as the paper has it, as a function of a state dict; the keys say how deep it is."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int | tuple[int, ...] = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = functional.conv3d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gamma, beta = (state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, gamma, beta)

    x = functional.max_pool3d(conv_bn(clips, "conv1", "bn1", (1, 2, 2)).relu(), 3, 2, 1)
    blocks = sorted({tuple(key.split(".")[:2]) for key in state if key.startswith("layer")})
    for layer, number in blocks:
        name = f"{layer}.{number}"
        stride = 2 if number == "0" and layer != "layer1" else 1
        num_convs = 3 if f"{name}.conv3.weight" in state else 2
        y = x
        for i in range(1, num_convs + 1):
            # The stride is on the first 3x3x3 convolution.
            y = conv_bn(y, f"{name}.conv{i}", f"{name}.bn{i}", stride if i == num_convs - 1 else 1)
            y = y.relu() if i < num_convs else y
        if f"{name}.downsample.0.weight" in state:
            x = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        elif y.shape != x.shape:
            x = functional.avg_pool3d(x, 1, stride)
            new = torch.zeros(x.shape[0], y.shape[1] - x.shape[1], *x.shape[2:], dtype=x.dtype)
            x = torch.cat([x, new], dim=1)
        x = (x + y).relu()
    return functional.linear(functional.adaptive_avg_pool3d(x, 1).flatten(1), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(("depth", "shortcut"), [(18, "A"), (18, "B"), (50, "A"), (50, "B")])
def test_outputs_are_those_of_the_plain_implementation(depth: Depth, shortcut: Shortcut) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet3D(depth, num_classes=5, shortcut=shortcut).double().eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            for tensor in (module.running_mean, module.bias.detach()):
                assert isinstance(tensor, Tensor), name
                tensor.uniform_(-0.5, 0.5, generator=generator)
    clips = torch.rand(2, 3, 9, 65, 70, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        outputs, expected = model(clips), plain_resnet3d(model.state_dict(), clips)
    assert expected.std() > 0.01
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
