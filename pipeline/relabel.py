"""Labels of a store's videos against those of the input: they may change after the pixels were extracted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.files import write_file
from pipeline.store import FaceStore
from pipeline.types import VideoRef
from pipeline.writer import to_parquet

LABEL_COLUMNS = ("label", "source_id", "group_id")
"""What label files decide, in both tables of a store."""


def relabel(store: FaceStore, refs: Sequence[VideoRef]) -> None:
    """Write the labels, originals and groups of these videos into both tables of the store.

    A partition's ``tracks`` file is replaced first, its ``videos`` file last: after a kill in between, the latter
    still shows what has to be done.

    Raises:
        WriteError: the disk is full, or gone.
    """
    new = {ref.video_id: ref for ref in refs}
    for name in store.partition_names:
        videos = store.read_partition("videos", name)
        if new.keys().isdisjoint(videos["video_id"].to_pylist()):
            continue
        tracks = store.read_partition("tracks", name)
        for folder, table in (("tracks", tracks), ("videos", videos)):
            write_file(store.files, f"{folder}/{name}.parquet", to_parquet(_relabelled(table, new)))


def _relabelled(table: pa.Table, new: Mapping[str, VideoRef]) -> pa.Table:
    video_ids = table["video_id"].to_pylist()
    for name in LABEL_COLUMNS:
        old = table[name].to_pylist()
        values = [getattr(new[v], name) if v in new else value for v, value in zip(video_ids, old, strict=True)]
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table
