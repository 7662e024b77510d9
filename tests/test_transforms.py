"""Augmentation: all frames of a clip change alike, no two clips do, and nothing happens that wasn't asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from training.config import AugmentSettings
from training.transforms import augment_batch, clip_augmentation

STILL = AugmentSettings(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0, colour_probability=0.0)
"""Nothing but resizing."""
EVERYTHING = AugmentSettings(
    colour_probability=1.0, blur_probability=1.0, noise_probability=1.0, rescale_probability=1.0, jpeg_probability=1.0
)
OPTIONAL = ("colour_probability", "blur_probability", "noise_probability", "rescale_probability", "jpeg_probability")
SIZE = 32


def augmented(
    clips: Tensor, augmentation: AugmentSettings, *, size: int = SIZE, seed: int = 0, together: int = 1
) -> Tensor:
    """``clips`` after one draw from ``seed``; the generator of the other tests isn't moved."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return augment_batch(clips, clip_augmentation(size, augmentation), together)


def only(name: str, probability: float = 1.0) -> AugmentSettings:
    """Nothing but resizing and one thing more."""
    change: dict[str, Any] = {name: probability}
    return STILL.model_copy(update=change)


def resized(clips: Tensor, size: int = SIZE) -> Tensor:
    """What the network sees without augmentation, (B, T, 3, S, S)."""
    resize = v2.Compose([v2.Resize((size, size)), v2.ToDtype(torch.float32, scale=True)])
    return torch.stack([resize(clip) for clip in clips.movedim(-1, 2)])


def noise_clips(batch_size: int = 2, num_frames: int = 3, side: int = SIZE) -> Tensor:
    """Clips that show one picture of coarse noise in all their frames, the same picture in all clips."""
    coarse = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 3), np.uint8)
    picture = torch.from_numpy(coarse.repeat(4, axis=0).repeat(4, axis=1))
    return picture.expand(batch_size, num_frames, -1, -1, -1).clone()


def ramp_clips(batch_size: int, side: int = 200) -> Tensor:
    """Red is the column, green the row, blue 100: a pixel says where it came from."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    picture = torch.stack([columns, rows, torch.full_like(rows, 100)], dim=-1).to(torch.uint8)
    return picture.expand(batch_size, 2, -1, -1, -1).clone()


def test_a_batch_becomes_float_pictures_of_the_input_size() -> None:
    out = augmented(noise_clips(2, 3, side=48), EVERYTHING)
    assert out.shape == (2, 3, 3, SIZE, SIZE)
    assert out.dtype == torch.float32


def test_nothing_asked_for_is_nothing_but_a_resize() -> None:
    for side in (20, SIZE, 64):
        clips = noise_clips(side=side)
        assert torch.equal(augmented(clips, STILL), resized(clips))


def test_what_hides_the_traces_of_a_fake_is_off_by_default() -> None:
    assert {name for name in OPTIONAL if getattr(AugmentSettings(), name) > 0} == {"colour_probability"}


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_is_off_at_0_and_changes_every_clip_at_1(name: str) -> None:
    clips = noise_clips(batch_size=4)
    off = [augmented(clips, only(name, 0.0), seed=seed) for seed in range(3)]
    assert all(torch.equal(out, off[0]) for out in off)
    changed = augmented(clips, only(name))
    assert all(not torch.equal(out, plain) for out, plain in zip(changed, off[0], strict=True))
    assert (changed - off[0]).abs().mean() < 0.2, "the picture can still be told"


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_clip_is_changed_with_the_given_probability(name: str) -> None:
    clips = noise_clips(batch_size=200, num_frames=1)
    out = augmented(clips, only(name, 0.25))
    share = (out != resized(clips)).flatten(1).any(dim=1).float().mean().item()
    assert 0.15 < share < 0.35


@pytest.mark.parametrize(
    "augmentation",
    [AugmentSettings(), EVERYTHING.model_copy(update={"noise_probability": 0.0})]
    + [only(name) for name in OPTIONAL if name != "noise_probability"],
    ids=lambda a: "".join(name[0] for name in OPTIONAL if getattr(a, name) == 1) or "default",
)
def test_all_frames_of_a_clip_change_alike_and_two_clips_do_not(augmentation: AugmentSettings) -> None:
    """The clips show the same picture in every frame, so any difference is one of the draws."""
    out = augmented(noise_clips(batch_size=4, num_frames=5, side=48), augmentation)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert len({clip.numpy().tobytes() for clip in out}) == 4


@pytest.mark.parametrize("augmentation", [AugmentSettings(), EVERYTHING.model_copy(update={"noise_probability": 0.0})])
def test_clips_that_are_augmented_together_stay_aligned_and_others_do_not(augmentation: AugmentSettings) -> None:
    """All clips show one picture, so those that share their draws come out alike."""
    out = augmented(noise_clips(batch_size=6, num_frames=3, side=48), augmentation, together=2)
    assert out.shape == (6, 3, 3, SIZE, SIZE)
    assert torch.equal(out[0::2], out[1::2])
    assert len({clip.numpy().tobytes() for clip in out[0::2]}) == 3


def test_clips_that_are_augmented_together_keep_their_order_and_frames() -> None:
    clips = torch.arange(4 * 3, dtype=torch.uint8).reshape(4, 3, 1, 1, 1).expand(4, 3, SIZE, SIZE, 3)
    assert torch.equal(augmented(clips, STILL, together=2), resized(clips))


def test_noise_is_another_in_every_pixel_of_every_frame() -> None:
    grey = torch.full((8, 4, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    noise = augmented(grey, only("noise_probability")) - 128 / 255
    sigmas = noise.flatten(1).std(dim=1)
    assert sigmas.max() < 0.051
    assert sigmas.max() > 2 * sigmas.min(), "a sigma for each clip"
    torch.testing.assert_close(noise.flatten(2).std(dim=2), sigmas[:, None].expand(8, 4), rtol=0.1, atol=0)
    of_frames = torch.corrcoef(noise[0].flatten(1)) - torch.eye(4)
    assert of_frames.abs().max() < 0.1


def test_the_same_seed_gives_the_same_clips_and_another_seed_others() -> None:
    clips = noise_clips(side=48)
    a, b, other = (augmented(clips, EVERYTHING, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


def test_a_forked_generator_does_not_move_the_callers() -> None:
    before = torch.get_rng_state()
    augmented(noise_clips(), EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_clips_that_come_in_stay_as_they_were() -> None:
    for side in (SIZE, 48):
        clips = noise_clips(side=side)
        before = clips.clone()
        for augmentation in (STILL, EVERYTHING, only("flip_probability")):
            augmented(clips, augmentation).zero_()
            assert torch.equal(clips, before)


@pytest.mark.parametrize("grey", [0, 255])
def test_values_stay_within_0_and_1(grey: int) -> None:
    black_or_white = torch.full((6, 2, 48, 48, 3), grey, dtype=torch.uint8)
    for clips in (black_or_white, noise_clips(6, 2, side=48)):
        for seed in range(3):
            out = augmented(clips, EVERYTHING, seed=seed)
            assert out.min() >= 0
            assert out.max() <= 1


def test_a_flip_is_a_mirror_image_exactly() -> None:
    clips = noise_clips()
    out = augmented(clips, only("flip_probability"))
    assert torch.equal(out, resized(clips).flip(-1))


def test_half_of_the_clips_are_flipped() -> None:
    clips = ramp_clips(200, side=16)
    out = augmented(clips, only("flip_probability", 0.5), size=16)
    flipped = out[:, 0, 0, 0, 0] > out[:, 0, 0, 0, -1]
    assert 80 < flipped.sum() < 120


def test_a_crop_is_a_part_of_the_picture_of_the_size_and_shape_asked_for() -> None:
    """Positions are read off a ramp: both ramps stay straight, and their slopes give the crop's width and height."""
    side = 200
    out = (
        augmented(ramp_clips(40, side), STILL.model_copy(update={"crop_scale": (0.5, 1.0), "crop_ratio": (0.9, 1.1)}))
        * 255
    )
    columns, rows = out[:, 0, 0], out[:, 0, 1]
    assert (columns - columns[:, :1]).abs().max() < 1.01
    assert (rows - rows[:, :, :1]).abs().max() < 1.01
    # From the centre of the second pixel to that of the last but one: the outermost lack neighbours to average over.
    pixels = SIZE - 3
    widths = (columns[:, 0, -2] - columns[:, 0, 1]) / pixels * SIZE
    heights = (rows[:, -2, 0] - rows[:, 1, 0]) / pixels * SIZE
    shares, ratios = widths * heights / side**2, widths / heights
    assert 0.47 < shares.min() < 0.6
    assert 0.85 < shares.max() < 1.03
    assert 0.87 < ratios.min() < 0.95
    assert 1.05 < ratios.max() < 1.13
    assert columns[:, 0, 0].std() > 5, "crops lie in different places"


def test_colour_goes_as_far_as_it_is_allowed_to() -> None:
    grey = torch.full((60, 1, 8, 8, 3), 100, dtype=torch.uint8)
    brightness = STILL.model_copy(update={"colour_probability": 1.0, "brightness": 0.3, "contrast": 0.0})
    factors = augmented(grey, brightness, size=8)[:, 0, 0, 0, 0] * 255 / 100
    assert 0.7 <= factors.min() < 0.75
    assert 1.25 < factors.max() <= 1.3
    assert torch.equal(augmented(grey, brightness.model_copy(update={"brightness": 0.0}), size=8), resized(grey, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
def test_cuda_draws_what_the_cpu_draws() -> None:
    """All but noise, whose numbers come from the device."""
    clips, augmentation = noise_clips(4, side=48), EVERYTHING.model_copy(update={"noise_probability": 0.0})
    on_cuda = augmented(clips.cuda(), augmentation)
    assert on_cuda.is_cuda
    assert (on_cuda.cpu() - augmented(clips, augmentation)).abs().mean() < 0.01
