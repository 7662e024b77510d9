"""What a model expects of its input: the one place where frames are resized and normalised, in training and scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import InputError


@dataclass(frozen=True)
class ModelSpec:
    """Size, length and normalisation of a model's input, and where its published weights come from."""

    name: str
    input_size: int
    """Side in pixels of the square frames it is trained on."""
    clip_frames: int
    """Frames of a training clip; scoring may use any number from 8 on."""
    frame_step: int
    """Video frames from one frame of a clip to the next."""
    mean: tuple[float, float, float]
    """RGB, of values in [0, 1]."""
    std: tuple[float, float, float]
    """RGB, of values in [0, 1]."""
    weights_origin: Mapping[str, str] = field(hash=False)
    """Published name of weights -> where they come from."""

    def normalize(self, clips: Tensor) -> Tensor:
        """What the network takes, ``(value - mean) / std`` with channels before time.

        Args:
            clips: floating point (B, T, 3, H, W), RGB in [0, 1].

        Returns:
            The same floating type, (B, 3, T, H, W).

        Raises:
            ValueError: for integers (they'd be truncated silently) or another shape.
        """
        if not clips.is_floating_point() or clips.ndim != 5 or clips.shape[2] != 3:
            raise ValueError(f"clips must be floating point (B, T, 3, H, W), got {clips.dtype} {tuple(clips.shape)}")
        mean, std = (clips.new_tensor(values).view(3, 1, 1, 1) for values in (self.mean, self.std))
        return (clips.transpose(1, 2) - mean) / std

    def prepare(self, clips: Tensor) -> Tensor:
        """Frames as a store holds them become what the network takes: the whole frame is resized, nothing is cut off.

        Args:
            clips: uint8 (B, T, H, W, 3), RGB.

        Returns:
            float32 (B, 3, T, input_size, input_size), resized (bilinear, antialiased) where the size differs.

        Raises:
            ValueError: for another type or shape.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[4] != 3:
            raise ValueError(f"clips must be uint8 (B, T, H, W, 3), got {clips.dtype} {tuple(clips.shape)}")
        frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float() / 255  # (B * T, 3, H, W)
        size = (self.input_size, self.input_size)
        if frames.shape[2:] != size:
            frames = functional.interpolate(frames, size, mode="bilinear", antialias=True)
        return self.normalize(frames.view(*clips.shape[:2], *frames.shape[1:]))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` takes it back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"mean": [*self.mean], "std": [*self.std], "weights_origin": dict(self.weights_origin)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The spec that :meth:`to_dict` wrote.

        Raises:
            InputError: a key is missing or unknown, or its value can't be used.
        """
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            raise InputError(
                f"A model's spec has exactly the keys {', '.join(sorted(known))}; "
                f"missing here: {', '.join(sorted(known - set(values))) or 'none'}; "
                f"unknown: {', '.join(sorted(set(values) - known)) or 'none'}. "
                "It was written by another version: use that one, or build the model by its name."
            )
        try:
            return cls(
                name=str(values["name"]),
                input_size=int(values["input_size"]),
                clip_frames=int(values["clip_frames"]),
                frame_step=int(values["frame_step"]),
                mean=_rgb(values["mean"]),
                std=_rgb(values["std"]),
                weights_origin={str(name): str(origin) for name, origin in values["weights_origin"].items()},
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"A model's spec has a value that can't be used ({error}): {dict(values)}") from error


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
