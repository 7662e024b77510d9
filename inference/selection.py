"""Which videos of a store are scored, and whether its clips are what a checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.settings import differences
from pipeline.types import BoolArray
from training.checkpoint import CheckpointInfo
from training.dataset import contents_digest
from training.split import group_of, split_tracks, validates_by_folder, validates_by_fraction

_MATTERS = {"union": ("mode", "size", "margin"), "follow": ("mode", "size", "follow_scale", "follow_percentile")}
"""Of ``crop``: what of a face a model sees, and how large. How faces were found matters little beside it."""


def extraction_mismatches(store_settings: Mapping[str, Any], info: CheckpointInfo) -> list[str]:
    """Where the extraction of a store differs in what matters from the one that a checkpoint was trained on."""
    theirs, ours = info.store["settings"]["crop"], store_settings["crop"]
    same_mode = theirs["mode"] == ours["mode"]
    keys = _MATTERS[ours["mode"]] if same_mode else ("mode", "size")
    theirs, ours = ({key: crop.get(key) for key in keys} for crop in (theirs, ours))
    return differences(theirs, ours, ("trained on", "store"), ".crop")


def _validates(table: pa.Table, info: CheckpointInfo) -> BoolArray:
    settings = info.train_settings
    if folders := settings["validation_folders"]:
        return validates_by_folder(table, folders)
    return validates_by_fraction(table, settings["validation_fraction"], settings["split_seed"])


def held_out_videos(videos: pa.Table, tracks: pa.Table, info: CheckpointInfo) -> set[str]:
    """The videos that the training of a checkpoint would have kept for validation, had it been on this store.

    Also those without a track or a label, where the rule that picks groups picks theirs; none of a group of which
    anything was trained on.

    Args:
        videos: with the columns ``video_id, group_id``.
        tracks: with these and ``label``.
        info: of the checkpoint, whose split it is.
    """
    labelled = tracks.filter(pc.is_valid(tracks["label"]))
    validates = _validates(labelled, info)
    validated, trained = ({*group_of(labelled.filter(mask))} for mask in (validates, ~validates))
    picked = _validates(videos, info)
    names = zip(videos["video_id"].to_pylist(), group_of(videos), picked, strict=True)
    return {name for name, group, by_rule in names if group in validated or (by_rule and group not in trained)}


def trained_on(tracks: pa.Table, store_fingerprint: str, info: CheckpointInfo) -> str | None:
    """How a checkpoint met these clips before: ``was trained on``, ``may have been trained on``, or None.

    Args:
        tracks: all of a store, as :func:`training.dataset.sort_tracks` gives them.
        store_fingerprint: of that store.
        info: of the checkpoint.
    """
    settings = info.train_settings
    labelled = tracks.filter(pc.is_valid(tracks["label"]))
    if store_fingerprint != info.store["fingerprint"] or not labelled.num_rows:
        return None
    try:
        sides = split_tracks(
            labelled, settings["validation_fraction"], settings["validation_folders"], settings["split_seed"]
        )
    except InputError:  # Whoever trained on it could split it.
        return None
    # A store that has grown since has other clips, too.
    is_the_same = contents_digest(pa.concat_tables(sides)) == info.store.get("clips")
    return "was trained on" if is_the_same else "may have been trained on"
