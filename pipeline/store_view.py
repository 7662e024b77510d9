"""What a store is, and what failed in it: two sections of the report, from its tables alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import FaceStore
from pipeline.tally import LABEL_NAMES, LABELS, CountRow, Groups, count_by, grouped
from pipeline.types import STATUSES

FAILURES = ("decode_error", "failed")
"""Statuses that are errors; the others say what there is to see in a video."""


@dataclass(frozen=True)
class StoreView:
    """What a store is."""

    url: str
    fingerprint: str
    frame_size: int
    """Side of the stored frames, pixels."""
    num_partitions: int
    columns: tuple[str, ...]
    """Of the counts: names of labels."""
    outcomes: tuple[CountRow, ...]
    """Videos by status and label."""
    videos: CountRow
    tracks: CountRow
    frames: CountRow


def store_view(store: FaceStore, videos: pa.Table, tracks: pa.Table) -> StoreView:
    """What a store is.

    Args:
        store: whose tables these are.
        videos: with ``status`` and ``label``.
        tracks: with ``label``, ``row_start`` and ``row_stop``.
    """
    by_status = count_by(videos, ["status", "label"])
    statuses = [*STATUSES, *sorted({str(status) for status, _ in by_status} - set(STATUSES))]
    lengths = tracks.append_column("frames", pc.subtract(tracks["row_stop"], tracks["row_start"]))
    return StoreView(
        url=store.url,
        fingerprint=store.fingerprint,
        frame_size=int(store.manifest["settings"]["crop"]["size"]),
        num_partitions=len(store.partition_names),
        columns=tuple(LABEL_NAMES[label] for label in LABELS),
        outcomes=tuple(
            CountRow(status, tuple(by_status.get((status, label), 0) for label in LABELS)) for status in statuses
        ),
        videos=_by_label("videos", count_by(videos, ["label"])),
        tracks=_by_label("tracks", count_by(tracks, ["label"])),
        frames=_by_label("frames", count_by(lengths, ["label"], "frames")),
    )


def _by_label(name: str, counts: dict[tuple[int | None, ...], int]) -> CountRow:
    return CountRow(name, tuple(counts.get((label,), 0) for label in LABELS))


def failures(videos: pa.Table) -> Groups:
    """Videos that ended in an error, by what it says.

    Args:
        videos: with ``video_id``, ``path``, ``status``, ``error_type`` and ``message``.
    """
    return grouped(_errors(videos.filter(pc.is_in(videos["status"], pa.array(FAILURES)))))


def _errors(videos: pa.Table) -> Iterator[tuple[str, str]]:
    columns = (videos[name].to_pylist() for name in ("video_id", "path", "status", "error_type", "message"))
    for video_id, path, status, error_type, message in zip(*columns, strict=True):
        # Most messages name their video, and would be as many as there are videos.
        said = (message or "no message").replace(path or video_id, "VIDEO")
        yield f"{status}, {error_type}: {said}", video_id
