"""The settings of the training: the section ``train`` of ``params.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.device import Precision
from pipeline.settings import Section
from training.cutmix import CutMixDonor, CutMixMode
from training.dataset import LabelColumn

Sampler = Literal["balanced", "paired"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
# YAML's only sequence is a list.
Range = Annotated[tuple[float, float], Field(strict=False)]


class AugmentSettings(Section):
    """How clips are varied: one draw a clip, the same for all its frames."""

    crop_scale: Range = (0.5, 1.0)
    """Share of the picture's area that the crop keeps, least and most."""
    crop_ratio: Range = (0.9, 1.1)
    """Width over height of the crop, least and most; the crop is then stretched to a square."""
    flip_probability: Probability = 0.5
    """Of mirroring left and right."""
    colour_probability: Probability = 0.25
    """Of changing brightness and contrast."""
    brightness: Probability = 0.2
    """The picture is multiplied by a factor from 1 - brightness to 1 + brightness."""
    contrast: Probability = 0.2
    """A frame's distance from its mean grey is multiplied by a factor from 1 - contrast to 1 + contrast."""
    blur_probability: Probability = 0.0
    """Of a Gaussian blur with a sigma of 0.1 to 2 pixels."""
    noise_probability: Probability = 0.0
    """Of Gaussian noise, another one in each pixel of each frame, with a sigma of 0 to 0.05 (white is 1)."""
    rescale_probability: Probability = 0.0
    """Of shrinking to a side of 0.25 to 1 times what it was, and back."""
    jpeg_probability: Probability = 0.0
    """Of JPEG compression at a quality of 30 to 95."""

    def model_post_init(self, _context: object) -> None:
        for name, (low, high), limit in (("crop_scale", self.crop_scale, 1.0), ("crop_ratio", self.crop_ratio, 10.0)):
            if not 0 < low <= high <= limit:
                raise ValueError(f"{name} must be [least, most], above 0 and up to {limit:g}; got {[low, high]}")


class CutMixSettings(Section):
    """How a piece of another clip is pasted in."""

    probability: Probability = 0.5
    """Of a batch to be mixed; 0: never."""
    mode: CutMixMode = "cuboid"
    """spatial: a rectangle through all frames; temporal: a span of frames; cuboid: a rectangle through some frames."""
    alpha: float = Field(1.0, gt=0.0)
    """The share to paste is drawn with Beta(alpha, alpha)."""
    donor: CutMixDonor = "any"
    """Whose box is pasted: that of any clip of the batch, or of the other clip of its pair."""


class TrainSettings(Section):
    """How a model is fitted."""

    input_size: int | None = Field(None, ge=64, le=1024)
    """Side of the clips, pixels; null: as the model's published weights have it."""
    clip_frames: int | None = Field(None, ge=8, le=512)
    """Frames of a clip; null: likewise."""
    frame_step: int | None = Field(None, ge=1, le=64)
    """Every n-th frame of a track is taken; null: likewise."""
    weights: str | None = None
    """What to start from: null for random weights, the name of published ones, or a file."""
    validation_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of the groups that validate, by a hash of their names."""
    validation_folders: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Folders whose videos validate, and all that belong to their groups; instead of the fraction."""
    split_seed: int = Field(0, ge=0)
    """Another seed, another choice of groups by the fraction."""
    validation_windows: int = Field(1, ge=1)
    """Clips taken of each track to validate, evenly spaced."""
    validate_every_epochs: int = Field(1, ge=1)
    """Epochs from one validation, with its checkpoint, to the next; the last is always validated."""
    validation_mirror: bool = False
    """Each of them is scored with its mirror image, too."""
    label_column: LabelColumn = "label"
    """The class of a track to train on: its video's label, or its face's. Those whose class is unknown are left out."""
    sampler: Sampler = "balanced"
    """An epoch is made of as many clips of either class, or of pairs: a real clip and a fake of the same frames."""
    epochs: int = Field(20, ge=1)
    """An epoch takes each track of the rarer class once, and as many of the other class."""
    batch_size: int = Field(16, ge=2)
    """Clips a batch, over all processes, at most; of an odd number pairs leave one unused."""
    accumulate_batches: int = Field(1, ge=1)
    """Batches whose gradients make one step of the optimizer."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    max_learning_rate: float = Field(3e-4, gt=0.0)
    """Top of the one cycle."""
    warmup_fraction: float = Field(0.3, gt=0.0, lt=1.0)
    """Share of the steps on the way to the top."""
    weight_decay: float = Field(0.01, ge=0.0)
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each label that is spread evenly over the classes: keeps a model from being too sure."""
    max_gradient_norm: float | None = Field(1.0, gt=0.0)
    """Longer gradients are shortened to this; null: never."""
    ema_decay: float | None = Field(None, gt=0.0, lt=1.0)
    """The weights that are validated and kept are a moving average with this decay a step; null: the latest."""
    precision: Precision = "auto"
    """Of the arithmetic; none is float32. auto: bf16 where the hardware is made for it, else float32."""
    seed: int = Field(0, ge=0)
    augment: AugmentSettings = AugmentSettings()
    cutmix: CutMixSettings = CutMixSettings()

    def model_post_init(self, _context: object) -> None:
        if self.cutmix.donor == "pair" and self.sampler != "paired":
            raise ValueError("cutmix.donor: pair needs pairs in a batch: set sampler: paired, or cutmix.donor: any")


class Settings(Section):
    """What the training reads of ``params.yaml``."""

    train: TrainSettings = TrainSettings()
