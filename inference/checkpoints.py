"""Which checkpoints take part, and what they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.nearest import did_you_mean
from training.checkpoint import CheckpointInfo, read_info

BEST = "best.safetensors"
NUM_CLASSES = 2


@dataclass(frozen=True)
class Member:
    """One checkpoint of an ensemble."""

    name: str
    path: Path
    info: CheckpointInfo
    sha256: str
    """Of the file, hex."""


def find_checkpoints(given: Sequence[str], runs: Sequence[str] = ()) -> list[Path]:
    """The files that arguments stand for.

    Args:
        given: checkpoint files, folders of a training run, or folders of such folders. A run stands for its best
            checkpoint.
        runs: names; of a folder of runs only these, else all.

    Raises:
        InputError: there is nothing of that name, or a folder holds no run.
    """
    found: list[Path] = []
    uses_runs = False
    for path in map(Path, given):
        if not path.is_dir() or (path / BEST).is_file():
            found.append(path / BEST if path.is_dir() else path)
            continue
        there = sorted(checkpoint.parent.name for checkpoint in path.glob(f"*/{BEST}"))
        if missing := [name for name in runs if name not in there]:
            raise InputError(
                f"{path} has no finished epoch of the run {', '.join(missing)}; its runs with a {BEST}: "
                f"{', '.join(there) or 'none'}{did_you_mean(missing[0], there)}"
            )
        if not there:
            raise InputError(f"{path} is a folder without checkpoints; give RUN_DIR, or a folder with RUN_DIR/{BEST}")
        uses_runs = True
        found += [path / name / BEST for name in (runs or there)]
    if runs and not uses_runs:
        raise InputError(f"--run {runs[0]} picks from a folder of runs, but {', '.join(given)} is none")
    if twice := {path for path in found if found.count(path) > 1}:
        raise InputError(f"{', '.join(sorted(map(str, twice)))} is given twice; name each checkpoint once")
    return found


def member_names(paths: Sequence[Path]) -> list[str]:
    """A name for each checkpoint: its run's folder, or where these are alike its path without the ending."""
    folders = [path.absolute().parent.name for path in paths]
    return [
        folder if folders.count(folder) == 1 else path.with_suffix("").as_posix()
        for folder, path in zip(folders, paths, strict=True)
    ]


def open_members(paths: Sequence[Path]) -> list[Member]:
    """What scoring has to know of each checkpoint; their weights stay on disk.

    Raises:
        InputError: a file is no checkpoint, of another version, damaged, or not for two classes.
    """
    members = []
    for name, path in zip(member_names(paths), paths, strict=True):
        info = read_info(path)
        if info.num_classes != NUM_CLASSES:
            raise InputError(f"{path} tells {info.num_classes} classes apart; scoring needs REAL and FAKE")
        with path.open("rb") as file:
            members.append(Member(name, path, info, hashlib.file_digest(file, "sha256").hexdigest()))
    return members
