"""Augmentation of whole clips: torchvision's v2 transforms, drawn once a clip, so that all its frames change alike.

The only source of randomness is torch's global generator, since v2 knows no other: seed it with ``torch.manual_seed``,
and wrap the call in ``torch.random.fork_rng`` where its state must not move. The same seed gives the same result on the
same kind of device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from training.config import AugmentSettings

ClipTransform = Callable[[Tensor], Tensor]

_LEAST_RESCALE = 0.25
_BLUR_SIGMAS_PIXELS = (0.1, 2.0)
_BLUR_KERNEL_PIXELS = 13
"""Three of the widest sigmas to either side."""
_MOST_NOISE_SIGMA = 0.05
_JPEG_QUALITIES = (30, 95)


def _add_noise(clip: Tensor) -> Tensor:
    sigma = _MOST_NOISE_SIGMA * torch.rand(()).item()
    noisy: Tensor = functional.gaussian_noise(clip, sigma=sigma)
    return noisy


def _compress_as_jpeg(clip: Tensor) -> Tensor:
    # By way of PIL, since on tensors v2.JPEG calls codecs that torchvision deprecates from 0.29 on. One call for the
    # whole list is one quality for the whole clip.
    frames = [functional.to_pil_image(frame) for frame in functional.to_dtype(clip, torch.uint8, scale=True).cpu()]
    compressed = torch.stack([functional.pil_to_tensor(frame) for frame in v2.JPEG(_JPEG_QUALITIES)(frames)])
    restored: Tensor = functional.to_dtype(compressed.to(clip.device), torch.float32, scale=True)
    return restored


def clip_augmentation(input_size: int, augmentation: AugmentSettings) -> ClipTransform:
    """One transform of a whole clip; each call draws anew, and draws once for all frames.

    The crop comes first, so that all the rest costs the network's input size and not the store's. Then the way of a
    picture from the scene to the file: light, lens (blur), sensor (noise), upload (rescaling), compression.

    Args:
        input_size: S, the side of the network's input in pixels, at least 8.
        augmentation: how much to vary.

    Returns:
        A function from uint8 RGB (T, 3, H, W) to float32 RGB (T, 3, S, S) in [0, 1], on the clip's device. It leaves
        its argument unchanged.
    """
    size = (input_size, input_size)
    colour = v2.ColorJitter(brightness=augmentation.brightness, contrast=augmentation.contrast)
    blur = v2.GaussianBlur(_BLUR_KERNEL_PIXELS, _BLUR_SIGMAS_PIXELS)
    shrink = v2.RandomResize(round(_LEAST_RESCALE * input_size), input_size)
    transform: ClipTransform = v2.Compose(
        [
            # On uint8: 2.5 times as fast as on float32, on the CPU.
            v2.RandomResizedCrop(size, augmentation.crop_scale, augmentation.crop_ratio, antialias=True),
            v2.RandomHorizontalFlip(augmentation.flip_probability),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([colour], augmentation.colour_probability),
            v2.RandomApply([blur], augmentation.blur_probability),
            v2.RandomApply([_add_noise], augmentation.noise_probability),
            v2.RandomApply([shrink, v2.Resize(size)], augmentation.rescale_probability),
            v2.RandomApply([_compress_as_jpeg], augmentation.jpeg_probability),
            # Weights that sum up to 1 only nearly let blurring and resizing overshoot in the last bit.
            partial(torch.clamp, min=0, max=1),
        ]
    )
    return transform


def augment_batch(clips: Tensor, transform: ClipTransform, together: int = 1) -> Tensor:
    """Augment each clip of a batch with a draw of its own, on the device where the batch is.

    Args:
        clips: uint8 RGB (B, T, H, W, 3), channels last as a store gives them; left unchanged.
        transform: from :func:`clip_augmentation`.
        together: so many neighbours share one draw, and what was aligned stays so. B is a multiple of it.

    Returns:
        float32 RGB (B, T, 3, S, S) in [0, 1].
    """
    num_frames = clips.shape[1]
    long_clips = clips.reshape(-1, together * num_frames, *clips.shape[2:]).movedim(-1, 2)
    augmented = torch.stack([transform(clip) for clip in long_clips])
    return augmented.reshape(len(clips), num_frames, *augmented.shape[2:])
