"""Every model is built by its name, is as large as published, and takes clips of any size; its spec prepares them."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from pipeline.errors import InputError
from training.models import ModelSpec, build_model, model_names, model_spec
from training.models.per_frame import PerFrame, median_of_frames

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TORCHVISION = ("mc3_18", "r2plus1d_18", "r3d_18")
SMALL = ModelSpec("small", 4, 8, 1, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0), {})


def test_the_models_by_name() -> None:
    assert set(model_names()) == {
        *("i3d", "resnet3d_18", "resnet3d_34", "resnet3d_50", "resnet3d_18b", "resnet3d_34b"),
        *("mc3_18", "r2plus1d_18", "r3d_18", "seresnext50_2d"),
    }
    assert all(model_spec(name).name == name for name in model_names())


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("i3d", 12_697_264),
        ("resnet3d_18", 33_409_104 - 173_824),  # shortcut A: B's without its convolutions and batch norms
        ("resnet3d_34", 63_544_912),
        ("resnet3d_50", 47_018_576),
        ("resnet3d_18b", 33_409_104),
        ("resnet3d_34b", 63_718_736),
        ("mc3_18", 11_695_440),
        ("r2plus1d_18", 31_505_325),
        ("r3d_18", 33_371_472),
    ],
)
def test_as_large_as_published(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=400)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize("name", model_names())
def test_any_clip_of_8_frames_and_64_pixels_or_more_is_scored(name: str) -> None:
    model = build_model(name, num_classes=3).eval()
    for batch, size in ((1, (8, 64, 64)), (2, (9, 67, 71)), (1, (13, 64, 101))):
        with torch.inference_mode():
            logits = model(torch.rand(batch, 3, *size))
        assert logits.shape == (batch, 3)
        assert logits.isfinite().all()


def test_an_unknown_name_is_answered_with_all_names_nearest_first() -> None:
    with pytest.raises(InputError, match=r"no model 'resnet3d_43'\. Choose one of: resnet3d_34, ") as failure:
        build_model("resnet3d_43")
    assert all(name in str(failure.value) for name in model_names())
    with pytest.raises(InputError, match=r"Choose one of: i3d, "):
        model_spec("I3D")


@pytest.mark.parametrize(
    ("name", "input_size", "clip_frames"),
    [
        ("i3d", 224, 64),
        ("resnet3d_34", 224, 32),
        *((name, 112, 32) for name in TORCHVISION),
        ("seresnext50_2d", 256, 32),
    ],
)
def test_inputs_are_those_of_the_recipe(name: str, input_size: int, clip_frames: int) -> None:
    spec = model_spec(name)
    assert (spec.input_size, spec.clip_frames, spec.frame_step) == (input_size, clip_frames, 1)


@pytest.mark.parametrize(("name", "black", "white"), [("i3d", -1, 1), ("resnet3d_34", 0, 255)])
def test_black_and_white_become_the_ends_of_the_range(name: str, black: float, white: float) -> None:
    spec = model_spec(name)
    ends = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
    torch.testing.assert_close(spec.normalize(ends)[0, :, :, 0, 0], torch.tensor([[black, white]] * 3).float())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_models_get_what_their_own_presets_give(name: str) -> None:
    weights = torchvision.models.get_model_weights(name)["KINETICS400_V1"]
    preset, spec = weights.transforms(), model_spec(name)
    assert ([*spec.mean], [*spec.std]) == (preset.mean, preset.std)
    assert preset.crop_size == [spec.input_size] * 2
    assert spec.weights_origin == {"KINETICS400_V1": weights.url}


def test_timm_knows_the_weights_and_normalises_alike() -> None:
    (tag,) = model_spec("seresnext50_2d").weights_origin
    published = timm.get_pretrained_cfg(f"seresnext50_32x4d.{tag}", allow_unregistered=False)
    assert published is not None
    assert f"/{published.hf_hub_id}/" in model_spec("seresnext50_2d").weights_origin[tag]
    assert (published.mean, published.std) == (model_spec("seresnext50_2d").mean, model_spec("seresnext50_2d").std)


def test_normalising_is_by_channel_and_puts_channels_before_time() -> None:
    clips = torch.full((2, 5, 3, 4, 6), 0.5, dtype=torch.float64)
    clips[1, 3, 2, 0, 5] = 1.0
    normalized = SMALL.normalize(clips)
    assert normalized.shape == (2, 3, 5, 4, 6)
    assert normalized.dtype == torch.float64
    assert normalized[0, :, 0, 0, 0].tolist() == [0.0, 1.0, 0.25]
    assert normalized[1, 2, 3, 0, 5] == 0.5
    assert clips[0, 0, 0, 0, 0] == 0.5


def test_frames_of_the_right_size_are_only_normalised() -> None:
    frames = torch.arange(2 * 8 * 4 * 4 * 3, dtype=torch.uint8).view(2, 8, 4, 4, 3)
    prepared = SMALL.prepare(frames)
    assert prepared.dtype == torch.float32
    assert torch.equal(prepared, SMALL.normalize(frames.permute(0, 1, 4, 2, 3) / 255))
    raw = model_spec("resnet3d_34")
    torch.testing.assert_close(
        dataclasses.replace(raw, input_size=4).prepare(frames), frames.permute(0, 4, 1, 2, 3).float(), rtol=1e-6, atol=0
    )


def test_other_frames_are_resized_whole_as_torchvision_resizes() -> None:
    frames = torch.randint(0, 256, (1, 2, 11, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = transforms.resize(frames.permute(0, 1, 4, 2, 3) / 255, [4, 4], antialias=True)
    torch.testing.assert_close(SMALL.prepare(frames), SMALL.normalize(pictures))


def test_a_small_picture_of_a_face_keeps_its_left_and_right() -> None:
    frames = torch.zeros(1, 1, 16, 32, 3, dtype=torch.uint8)
    frames[:, :, :, 16:, 0] = 255
    red = dataclasses.replace(SMALL, mean=(0, 0, 0), std=(1, 1, 1)).prepare(frames)[0, 0, 0]
    torch.testing.assert_close(red[:, [0, 3]], torch.tensor([[0.0, 1.0]] * 4))
    assert (red[:, 1] < red[:, 2]).all()


@pytest.mark.parametrize(
    "clips", [torch.zeros(1, 8, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 8, 4, 4), torch.zeros(8, 3, 4, 4)]
)
def test_clips_in_another_form_are_not_normalised_into_garbage(clips: Tensor) -> None:
    with pytest.raises(ValueError, match=re.escape("must be floating point (B, T, 3, H, W), got")):
        SMALL.normalize(clips)


@pytest.mark.parametrize("clips", [torch.zeros(1, 8, 4, 4, 3), torch.zeros(1, 8, 3, 4, 4, dtype=torch.uint8)])
def test_frames_in_another_form_are_not_prepared(clips: Tensor) -> None:
    with pytest.raises(ValueError, match=re.escape("must be uint8 (B, T, H, W, 3), got")):
        SMALL.prepare(clips)


@pytest.mark.parametrize("name", model_names())
def test_a_spec_survives_json(name: str) -> None:
    spec = model_spec(name)
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert isinstance(again.mean, tuple)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_rate": 30}, "unknown: frame_rate"),
        ({"mean": [0.5, 0.5]}, "can't be used"),
        ({"input_size": "large"}, "'large'"),
        ({"std": None}, "can't be used"),
        ({"weights_origin": ["rgb_imagenet"]}, "can't be used"),
    ],
)
def test_a_spec_of_another_kind_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelSpec.from_dict(SMALL.to_dict() | changes)


def test_a_spec_that_lacks_something_is_refused() -> None:
    values = SMALL.to_dict()
    del values["std"], values["mean"]
    with pytest.raises(InputError, match="missing here: mean, std; unknown: none"):
        ModelSpec.from_dict(values)


class FirstPixel(nn.Module):
    """A classifier whose logits are the red and the green of a frame's first pixel."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames[:, :2, 0, 0]


def test_frames_are_averaged_in_training_and_pooled_by_median_in_evaluation() -> None:
    clips = torch.zeros(2, 3, 4, 8, 8)
    clips[1, 1, :, 0, 0] = torch.tensor([-50.0, 0.0, 1.0, 2.0])
    model = PerFrame(FirstPixel())
    torch.testing.assert_close(model.train()(clips), torch.tensor([[0.0, 0.0], [0.0, -47 / 4]]))
    fake = torch.tensor([0.0, 1.0]).sigmoid().mean()
    pooled = torch.stack([torch.tensor([0.5, 0.5]), torch.stack([1 - fake, fake])])
    torch.testing.assert_close(model.eval()(clips).softmax(dim=1), pooled)
    torch.testing.assert_close(model(clips).exp(), pooled)


def test_the_median_of_an_odd_number_of_frames_is_the_middle_one() -> None:
    logits = torch.tensor([[-1.0, 0.0], [3.0, 0.0], [0.5, 0.0]]).unsqueeze(0)
    torch.testing.assert_close(median_of_frames(logits).exp(), torch.tensor([[0.5, 0.0]]).softmax(dim=1))


def test_medians_of_three_classes_are_made_to_sum_to_one() -> None:
    logits = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0)) * 3
    pooled = median_of_frames(logits).exp()
    torch.testing.assert_close(pooled.sum(dim=1), torch.ones(4))
    medians = logits.softmax(dim=2).median(dim=1).values
    torch.testing.assert_close(pooled, medians / medians.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_that_contradict_each_other_with_certainty_still_give_numbers(dtype: torch.dtype) -> None:
    one_each = (torch.eye(3, dtype=dtype) * 1000).unsqueeze(0)
    torch.testing.assert_close(median_of_frames(one_each).exp(), torch.full((1, 3), 1 / 3))
    certain = torch.tensor([[[1000.0, 0.0]]], dtype=dtype)
    assert median_of_frames(certain).isfinite().all()


@pytest.mark.parametrize("name", [name for name in model_names() if not name.endswith("_2d")])
def test_half_of_the_first_filters_over_time_see_nothing_but_change(name: str) -> None:
    fresh = next(
        module
        for module in build_model(name).modules()
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1
    )
    with torch.inference_mode():
        still = torch.rand(1, fresh.in_channels, 1, 20, 20).expand(-1, -1, 9, -1, -1)
        seen = torch.nn.functional.conv3d(still, fresh.weight).abs().amax(dim=(0, 2, 3, 4))
    half = fresh.out_channels // 2
    assert seen[:half].max() < 1e-5
    assert seen[half:].min() > 1e-3
