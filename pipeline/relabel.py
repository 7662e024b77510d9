"""Labels of a store's videos against those of the input: they may change after the pixels were extracted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.files import write_file
from pipeline.schema import face_label
from pipeline.store import FaceStore
from pipeline.types import VideoRef
from pipeline.writer import to_parquet

LABEL_COLUMNS = ("label", "source_id", "group_id")
"""What label files decide, in both tables of a store."""
PAIR_COLUMNS = ("pair_id", "change_score", "change_scores")
"""What only holds as long as the original is the one that a video was compared with."""
NOTE = "another original, or none, was named for it when it was extracted"

Row = dict[str, Any]


def relabel(store: FaceStore, refs: Sequence[VideoRef]) -> None:
    """Write the labels, originals and groups of these videos into both tables of the store, and what follows from them.

    Tracks stay as they are: one that was compared with another original than it has now is no longer compared.
    A partition's ``tracks`` file is replaced first, its ``videos`` file last: after a kill in between, the latter
    still shows what has to be done.

    Raises:
        WriteError: the disk is full, or gone.
    """
    new = {ref.video_id: ref for ref in refs}
    min_change = store.min_change
    for name in store.partition_names:
        videos = store.read_partition("videos", name)
        if new.keys().isdisjoint(videos["video_id"].to_pylist()):
            continue
        tracks = store.read_partition("tracks", name)
        tracks = _changed(tracks, new, lambda row, ref: _track(row, ref, min_change))
        for folder, table in (("tracks", tracks), ("videos", _changed(videos, new, _video))):
            write_file(store.files, f"{folder}/{name}.parquet", to_parquet(table))


def _labels(ref: VideoRef) -> Row:
    return {name: getattr(ref, name) for name in LABEL_COLUMNS}


def _video(row: Row, ref: VideoRef) -> Row:
    note = {} if row["source_id"] == ref.source_id else {"pairing_note": ref.source_id and NOTE}
    return _labels(ref) | note


def _track(row: Row, ref: VideoRef, min_change: float) -> Row:
    kept = {name: row[name] if row["source_id"] == ref.source_id else None for name in PAIR_COLUMNS}
    return _labels(ref) | kept | {"face_label": face_label(ref.label, kept["change_score"], min_change)}


def _changed(table: pa.Table, new: Mapping[str, VideoRef], change: Callable[[Row, VideoRef], Row]) -> pa.Table:
    """The table with what ``change`` says of the rows of these videos."""
    rows = [row | change(row, new[row["video_id"]]) if row["video_id"] in new else row for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=table.schema)
