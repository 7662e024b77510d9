"""Which tracks train and which validate. A group is never cut: no person, no original is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.nearest import did_you_mean
from pipeline.types import FAKE, REAL, BoolArray

_PURPOSES = ("train", "validate")
_TRIED_SEEDS = 100


def group_of(tracks: pa.Table) -> list[str]:
    """Each track's group; a video without one is a group of its own."""
    pairs = zip(tracks["group_id"].to_pylist(), tracks["video_id"].to_pylist(), strict=True)
    return [group or video for group, video in pairs]


def hash_fraction(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the name and the seed: new groups never move old ones."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def validates_by_fraction(tracks: pa.Table, fraction: float, seed: int) -> BoolArray:
    """Which tracks validate, bool (N,): those of the groups whose hash falls below ``fraction``."""
    return np.array([hash_fraction(group, seed) < fraction for group in group_of(tracks)], bool)


def validates_by_folder(tracks: pa.Table, folders: Collection[str]) -> BoolArray:
    """Which tracks validate, bool (N,): those in the folders, and whoever shares a group with them.

    Raises:
        InputError: a folder holds no track.
    """
    prefixes = {folder: folder.rstrip("/") + "/" for folder in folders}
    video_ids = tracks["video_id"].to_pylist()
    for folder, prefix in prefixes.items():
        if not any(video_id.startswith(prefix) for video_id in video_ids):
            such_as = f", such as {video_ids[0]!r}" if video_ids else ""
            raise InputError(
                f"train.validation_folders: no labelled track lies in {folder!r}; the store has {len(video_ids):,} "
                f"labelled tracks, and folders are written as in their video_id{such_as}"
                f"{did_you_mean(folder.rstrip('/'), _folders(video_ids))}"
            )
    groups = group_of(tracks)
    within = tuple(prefixes.values())
    chosen = {group for group, video_id in zip(groups, video_ids, strict=True) if video_id.startswith(within)}
    return np.array([group in chosen for group in groups], bool)


def _folders(video_ids: Iterable[str]) -> set[str]:
    """All folders that videos lie in, and those above them."""
    return {str(folder) for video_id in video_ids for folder in PurePosixPath(video_id).parents} - {"."}


def split_tracks(
    tracks: pa.Table, fraction: float, folders: Collection[str] = (), seed: int = 0
) -> tuple[pa.Table, pa.Table]:
    """Labelled tracks, cut into those to train on and those to validate on.

    Args:
        tracks: with the columns ``video_id, label, group_id``; label 0 or 1.
        fraction: share of the groups that validate, about.
        folders: of the videos that validate; overrides ``fraction``.
        seed: another seed, another choice by ``fraction``.

    Raises:
        InputError: a side lacks a class, so the groups don't allow for such a split.
    """
    validates = validates_by_folder(tracks, folders) if folders else validates_by_fraction(tracks, fraction, seed)
    sides = tracks.filter(~validates), tracks.filter(validates)
    lacks = [
        f"no {name} to {purpose} on" for side, purpose in zip(sides, _PURPOSES, strict=True) for name in _lacking(side)
    ]
    if not lacks:
        return sides
    remedy = "extract more videos, or choose other train.validation_folders"
    if not folders:
        remedy = "extract more videos, or choose another train.validation_fraction or train.split_seed"
        for other in range(_TRIED_SEEDS):
            validates = validates_by_fraction(tracks, fraction, other)
            if not _lacking(tracks.filter(validates)) and not _lacking(tracks.filter(~validates)):
                remedy += f" (the seed {other} would do)"
                break
    raise InputError(
        f"the split leaves {', '.join(lacks)}: the {tracks.num_rows} labelled tracks are in "
        f"{len(set(group_of(tracks)))} groups, which are never cut; {remedy}"
    )


def _lacking(side: pa.Table) -> list[str]:
    """Names of the classes that a side has no track of."""
    present = set(side["label"].to_pylist())
    return [name for label, name in ((REAL, "REAL"), (FAKE, "FAKE")) if label not in present]
