"""Weights made elsewhere: reading or downloading them, and fitting them into a model or saying why they don't fit."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import InputError
from training.models.spec import ModelSpec

StateDict = dict[str, Tensor]
Fetch = Callable[[], Any]
"""Downloads weights, or takes them from the downloading library's own cache."""

_logger = logging.getLogger(__name__)
_MAX_LISTED = 5


def from_url(url: str) -> Any:
    """What the file at ``url`` holds."""
    return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)


def from_torchvision(model: str, name: str) -> Any:
    """torchvision's weights of that name, as its own weights API has them."""
    weights = torchvision.models.get_model_weights(model)[name]
    return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)


def from_hugging_face(repository: str) -> Any:
    """The weights in a repository of the Hugging Face Hub, where timm keeps its own."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  slow to import, and seldom needed

    return read_state_dict(hf_hub_download(repository, "model.safetensors"))


def find_state_dict(spec: ModelSpec, weights: str | Path, published: Mapping[str, Fetch]) -> StateDict:
    """Weights by their published name, else those in a local file.

    Args:
        spec: of the model they are for.
        weights: a key of ``published`` or a path.
        published: names of weights that can be downloaded.

    Raises:
        InputError: there is no such name or file, it can't be downloaded, or the file holds no weights.
    """
    if fetch := published.get(str(weights)):
        return _state_dict_in(_downloaded(spec, str(weights), fetch), weights)
    if Path(weights).is_file():
        return read_state_dict(weights)
    origins = "; ".join(f"{name!r} from {origin}" for name, origin in spec.weights_origin.items())
    how = "give that name" if published else "download the file by hand and give its path"
    raise InputError(
        f"{spec.name} has no weights {str(weights)!r}: there is no such file, nor can anything of that name be "
        f"downloaded. Published are {origins}: {how}; or give the path of a file of your own."
    )


def read_state_dict(path: str | Path) -> StateDict:
    """The tensors in a file: safetensors by its ending, else what ``torch.save`` wrote.

    Nothing but tensors and plain containers is ever unpickled, so a file can't run code.

    Raises:
        InputError: the file can't be read, is damaged, holds other objects, or holds no state dict.
    """
    try:
        if Path(path).suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"The weights file {path} can't be read: {error}") from error
    except Exception as error:  # A damaged file fails in whichever way its first wrong byte leads to.
        raise InputError(
            f"The weights file {path} is damaged or holds more than tensors ({_reason(error)}). Objects beyond "
            "tensors are refused, since loading them can run code. Get the file again, or write its state dict alone "
            "with safetensors.torch.save_file."
        ) from error
    return _state_dict_in(found, path)


def load_weights(model: nn.Module, found: Mapping[str, Tensor], *, classifier: str, published_part: str = "") -> None:
    """Fit weights into a model. Its classifier stays as it is if theirs is for another number of classes.

    Args:
        model: gets the weights.
        found: a state dict of the same model, or of ``published_part`` of it.
        classifier: prefix of the last layer's keys in the model.
        published_part: prefix in the model of the keys that published weights have.

    Raises:
        InputError: a key is missing or unexpected or its tensor has another shape; lists them.
    """
    wanted = model.state_dict()
    found = dict(found)
    if not any(key.startswith(published_part) for key in found):
        found = {f"{published_part}{key}": tensor for key, tensor in found.items()}
    for key in wanted.keys() - found.keys():
        # torch before 0.4.1 had no such counter, and batch norms of a fixed momentum don't use it.
        if key.endswith(".num_batches_tracked"):
            found[key] = wanted[key]
    last = {key: tensor for key, tensor in wanted.items() if key.startswith(classifier)}
    if all(key in found and _differ_in_classes_at_most(found[key], tensor) for key, tensor in last.items()):
        num_found, num_wanted = ([len(tensors[key]) for key in last] for tensors in (found, wanted))
        if num_found != num_wanted:
            _logger.info("classifier replaced: weights for %d classes, a model for %d", num_found[0], num_wanted[0])
            found |= last
    _refuse_misfits(wanted, found)
    model.load_state_dict(found)


def _differ_in_classes_at_most(a: Tensor, b: Tensor) -> bool:
    return a.ndim == b.ndim and a.shape[1:] == b.shape[1:]


def _refuse_misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    misfits = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} (expected {tuple(tensor.shape)}, found {tuple(found[key].shape)})"
            for key, tensor in wanted.items()
            if key in found and found[key].shape != tensor.shape
        ],
    }
    if any(misfits.values()):
        lists = "; ".join(f"{what}: {_listed(keys)}" for what, keys in misfits.items() if keys)
        raise InputError(
            f"These are the weights of another model. {lists}. Give a file made for this model, or name the model that "
            "the file was made for."
        )


def _listed(keys: list[str]) -> str:
    rest = len(keys) - _MAX_LISTED
    return ", ".join(keys[:_MAX_LISTED]) + (f" ... and {rest} more" if rest > 0 else "")


def _downloaded(spec: ModelSpec, name: str, fetch: Fetch) -> Any:
    try:
        return fetch()
    except Exception as error:  # Three libraries, each with its own for a lost connection, a wrong hash, a login page.
        raise InputError(
            f"The weights {name!r} of {spec.name} can't be downloaded ({_reason(error)}). Without a network, get "
            f"the file elsewhere from {spec.weights_origin[name]} and give its path instead of {name!r}."
        ) from error


def _state_dict_in(found: Any, source: str | Path) -> StateDict:
    """The state dict itself: out of a checkpoint's ``state_dict``, keys without DataParallel's ``module.``."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found or not _all_named_tensors(found.items()):
        raise InputError(
            f"{source} holds no state dict (tensors by name, at most wrapped in 'state_dict'), but {_described(found)}."
        )
    parallel = all(key.startswith("module.") for key in found)
    return {key.removeprefix("module.") if parallel else key: tensor for key, tensor in found.items()}


def _all_named_tensors(items: Iterable[tuple[Any, Any]]) -> bool:
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in items)


def _described(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a mapping of {_listed([repr(key) for key in found])}" if found else "an empty mapping"
    return f"a {type(found).__name__}"


def _reason(error: Exception) -> str:
    """In one line, and without torch's advice on a failed unpickling, which is to switch the protection off."""
    name = type(error).__name__
    return name if isinstance(error, pickle.UnpicklingError) else f"{name}: {error}".splitlines()[0]
