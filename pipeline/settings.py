"""``params.yaml`` -> typed, frozen settings, for every stage. An unknown or bad key is an error that names it.

Each stage reads its own sections into a model of its own and leaves those of the others alone.
Only what changes results lives there. Paths are arguments; facts about machines (workers, scheduler, device) are flags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import InputError
from pipeline.nearest import did_you_mean_path, nearest

SECTIONS = (
    *("data", "models", "ensemble"),
    *("detect", "track", "crop", "pair", "store", "extract", "train", "predict", "aggregate", "evaluate"),
)
"""The sections of all stages; the first three are for ``dvc.yaml``."""
DEFAULT_FILE = "params.yaml"


class ConfigError(InputError):
    """The settings can't be used; the message names the key, its value and what is allowed."""


class Section(BaseModel):
    """A mapping in the file."""

    # Strict: YAML reads `yes` as true, which would otherwise pass for the number 1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Sections = TypeVar("Sections", bound=Section)


def differences(theirs: Any, ours: Any, names: tuple[str, str], prefix: str = "") -> list[str]:
    """Where two trees of settings differ, with a name for either side: ``crop.size: store 256, now 224``."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(theirs.keys() | ours.keys())
        return [line for key in keys for line in differences(theirs.get(key), ours.get(key), names, f"{prefix}.{key}")]
    return [] if theirs == ours else [f"{prefix[1:]}: {names[0]} {json.dumps(theirs)}, {names[1]} {json.dumps(ours)}"]


def _allowed_keys(model: type[Section], location: tuple[int | str, ...]) -> list[str]:
    """The keys beside a bad one; beside a section, all sections there are."""
    here: type[BaseModel] = model
    for name in location[:-1]:
        below = here.model_fields[str(name)].annotation
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            break
        here = below
    return [*(SECTIONS if here is model else here.model_fields)]


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """``crop``, ``crop.size`` and so on."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")


def _unknown_key(model: type[Section], location: tuple[int | str, ...]) -> str:
    """What is said of a key that there isn't: mistyped, or of another section."""
    name, allowed = str(location[-1]), _allowed_keys(model, location)
    elsewhere = (key for key in _all_keys(model) if key.rpartition(".")[2] == name)
    # The very name in another section is meant more likely than one that is like it here.
    meant = next(elsewhere, None) or nearest(name, allowed)
    hint = f"did you mean '{meant}'? " if meant else ""
    return f"unknown key '{'.'.join(map(str, location))}'; {hint}allowed here: {', '.join(allowed)}"


def _number_hint(value: Any) -> str:
    """YAML 1.1 reads 3e-4 as text, since it has no dot."""
    if not isinstance(value, str):
        return ""
    try:
        return f"; write {float(value)!r} or {float(value):.1e}" if "e" in value.lower() else ""
    except ValueError:
        return ""


def parse_settings(document: Any, source: str, model: type[Sections]) -> Sections:
    """Settings from parsed YAML; missing sections and keys get their defaults.

    Raises:
        ConfigError: an unknown key, a value of a wrong type or out of range; all of them are named.
    """
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected sections such as 'detect:', got {type(document).__name__}")
    own = {key: value for key, value in document.items() if key in model.model_fields or key not in SECTIONS}
    own = {key: {} if value is None and key in model.model_fields else value for key, value in own.items()}
    try:
        return model.model_validate(own)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"])) or "settings"
            if problem["type"] == "extra_forbidden":
                lines.append(_unknown_key(model, problem["loc"]))
            else:
                lines.append(f"'{key}' is {problem['input']!r}: {problem['msg']}{_number_hint(problem['input'])}")
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None


def load_settings(path: str | Path | None, model: type[Sections]) -> Sections:
    """Settings from a YAML file; without one from ``params.yaml`` in the working folder, or the defaults.

    Raises:
        ConfigError: as :func:`parse_settings`, or the file can't be read or isn't YAML.
    """
    if path is None:
        path = DEFAULT_FILE
        if not Path(path).is_file():
            return model()
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"settings can't be read from {path}: {reason}; give another file with --params"
            f"{did_you_mean_path(str(path))}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_settings(document, str(path), model)
