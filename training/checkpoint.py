"""A checkpoint: weights and all that is needed to score with them, in one safetensors file. No pickle.

The file's header has one entry, ``face_clip_checkpoint``: JSON with the model's spec, the settings it was trained with,
the store they saw, the metrics and the versions. So weights and description can't part, and reading the description
costs no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.files import StoreFiles, write_file
from pipeline.nearest import did_you_mean_path
from pipeline.versions import installed_versions
from training.models import ModelSpec, build_model

HEADER_KEY = "face_clip_checkpoint"
FORMAT_VERSION = 1
_LIBRARIES = ("faceclips", "torch", "torchvision", "timm", "numpy")


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything about a checkpoint but its weights."""

    spec: ModelSpec
    """The model, and the input it was trained with."""
    num_classes: int
    train_settings: dict[str, Any]
    """The section ``train`` of the settings."""
    store: dict[str, Any]
    """``fingerprint`` and ``settings`` of the extraction whose clips it was trained on, and ``clips``, a digest of
    what these are."""
    train_prior: float
    """Share of FAKE among the tracks of the training side, before they were balanced; by the label of their videos
    also where faces' labels were trained on, since it stands in for the score of a video."""
    epoch: int
    """Epochs done."""
    metrics: dict[str, float]
    """Of the validation after that epoch."""
    versions: dict[str, str]
    """Of this code and of the libraries that have a hand in the weights."""


def library_versions() -> dict[str, str]:
    """Versions of this code and of the libraries that have a hand in training."""
    return installed_versions(_LIBRARIES)


def save_checkpoint(folder: StoreFiles, name: str, state_dict: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        WriteError: the disk is full, or gone.
    """
    description = asdict(info) | {"format_version": FORMAT_VERSION, "spec": info.spec.to_dict()}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
    write_file(folder, name, safetensors.torch.save(tensors, {HEADER_KEY: json.dumps(description)}))


def read_info(path: str | Path) -> CheckpointInfo:
    """The description of a checkpoint.

    Raises:
        InputError: there is no such file, it is no checkpoint, or one of another format version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(
            f"{path} can't be read as a checkpoint: {reason}; give a file such as RUN_DIR/best.safetensors"
            f"{did_you_mean_path(str(path))}"
        ) from error
    if HEADER_KEY not in header:
        raise InputError(
            f"{path} holds weights, but not what is needed to score with them; give a checkpoint written by "
            "training.train, or start a training from it with train.weights"
        )
    description = json.loads(header[HEADER_KEY])
    found = description.pop("format_version", None)
    if found != FORMAT_VERSION:
        written_by = description.get("versions", {}).get("faceclips", "another version")
        raise InputError(
            f"{path} has checkpoint format version {found}, this code reads {FORMAT_VERSION}; it was written by "
            f"faceclips {written_by}: use that version"
        )
    try:
        return CheckpointInfo(**description | {"spec": ModelSpec.from_dict(description["spec"])})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no whole checkpoint ({error}); write it again") from error


def load_checkpoint(path: str | Path) -> tuple[nn.Module, CheckpointInfo]:
    """The model with its weights, on the CPU and in evaluation mode, and the checkpoint's description.

    Raises:
        InputError: as :func:`read_info`, or the weights don't fit the model it names.
    """
    info = read_info(path)
    model = build_model(info.spec.name, info.num_classes, weights=str(path))
    return model.eval(), info
