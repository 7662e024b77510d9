"""What a store is, what became of its videos, and what went wrong: sections of the report, from its tables alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reporting.folders import Folders, counts_by_folder, folder_numbers
from pipeline.reporting.tally import (
    LABEL_NAMES,
    LABELS,
    CountRow,
    Groups,
    count_by,
    grouped,
    statuses_of,
    without_numbers,
)
from pipeline.runs import latest_run
from pipeline.store import FaceStore

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
    written: str | None
    """When the last run wrote to it, UTC; None where that isn't known."""
    versions: tuple[tuple[str, str], ...]
    """Of code and libraries, by name."""
    settings: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Sections, each with its keys and values."""
    columns: tuple[str, ...]
    """Of the counts: names of labels."""
    outcomes: tuple[CountRow, ...]
    """Videos by status and label."""
    videos: CountRow
    tracks: CountRow
    frames: CountRow

    @property
    def labels_there(self) -> tuple[tuple[str, int], ...]:
        """Labels that videos have, and how many have them."""
        return tuple((name, count) for name, count in zip(self.columns, self.videos.counts, strict=True) if count)

    @property
    def num_failed(self) -> int:
        return sum(row.total for row in self.outcomes if row.name in FAILURES)

    def num_with(self, status: str) -> int:
        """Videos that ended so."""
        return sum(row.total for row in self.outcomes if row.name == status)


def store_view(store: FaceStore, videos: pa.Table, tracks: pa.Table) -> StoreView:
    """What a store is.

    Args:
        store: whose tables these are.
        videos: with ``status`` and ``label``.
        tracks: with ``label``, ``row_start`` and ``row_stop``.
    """
    by_status = count_by(videos, ["status", "label"])
    lengths = tracks.append_column("frames", pc.subtract(tracks["row_stop"], tracks["row_start"]))
    return StoreView(
        url=store.url,
        fingerprint=store.fingerprint,
        frame_size=int(store.manifest["settings"]["crop"]["size"]),
        num_partitions=len(store.partition_names),
        written=written(store),
        versions=_texts(store.manifest.get("versions")),
        settings=tuple((name, _texts(values)) for name, values in store.manifest["settings"].items()),
        columns=tuple(LABEL_NAMES[label] for label in LABELS),
        outcomes=tuple(
            CountRow(status, tuple(by_status.get((status, label), 0) for label in LABELS))
            for status in statuses_of(videos)
        ),
        videos=_by_label("videos", count_by(videos, ["label"])),
        tracks=_by_label("tracks", count_by(tracks, ["label"])),
        frames=_by_label("frames", count_by(lengths, ["label"], "frames")),
    )


def written(store: FaceStore) -> str | None:
    """When the last run wrote to a store, by the clock of its machine; None where no run has left its file."""
    run = latest_run(store.files)
    if run is None or run.renewed <= 0:
        return None
    try:
        return f"{datetime.fromtimestamp(run.renewed, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return None


def _texts(values: Any) -> tuple[tuple[str, str], ...]:
    """A part of ``store.json`` as it is shown, whatever is in it."""
    if not isinstance(values, Mapping):
        return (("", json.dumps(values)),)
    return tuple((key, value if isinstance(value, str) else json.dumps(value)) for key, value in values.items())


def _by_label(name: str, counts: dict[tuple[int | None, ...], int]) -> CountRow:
    return CountRow(name, tuple(counts.get((label,), 0) for label in LABELS))


@dataclass(frozen=True)
class FolderRow:
    """What became of the videos of a folder."""

    name: str
    num_videos: int
    labels: tuple[int, ...]
    """Videos of each label."""
    outcomes: tuple[int, ...]
    """Videos of each status."""


def folder_rows(videos: pa.Table, folders: Folders) -> tuple[FolderRow, ...]:
    """A row a folder, the largest first, and one for all others.

    Args:
        videos: with ``video_id``, ``status`` and ``label``.
        folders: of these videos.
    """
    numbers = folder_numbers(videos["video_id"], folders)
    by_label = counts_by_folder(numbers, len(folders.columns), videos["label"], LABELS).tolist()
    by_status = counts_by_folder(numbers, len(folders.columns), videos["status"], statuses_of(videos)).tolist()
    return tuple(
        FolderRow(name, sum(outcomes), tuple(labels), tuple(outcomes))
        for name, labels, outcomes in zip(folders.columns, by_label, by_status, strict=True)
    )


def failures(videos: pa.Table) -> Groups:
    """Videos that ended in an error, by what it says.

    Args:
        videos: with ``video_id``, ``path``, ``status``, ``error_type`` and ``message``.
    """
    return grouped(_errors(videos.filter(pc.is_in(videos["status"], pa.array(FAILURES)))))


def remarks(videos: pa.Table) -> Groups:
    """What is said of videos that didn't end in an error, whatever the numbers in it.

    Args:
        as of :func:`failures`.
    """
    is_error = pc.is_in(videos["status"], pa.array(FAILURES))
    said = videos.filter(pc.and_(pc.invert(is_error), pc.is_valid(videos["message"])))
    columns = (said[name].to_pylist() for name in ("video_id", "path", "status", "message"))
    return grouped(
        (f"{status}: {without_numbers(_without_name(message, path, video_id))}", video_id)
        for video_id, path, status, message in zip(*columns, strict=True)
    )


def _errors(videos: pa.Table) -> Iterator[tuple[str, str]]:
    columns = (videos[name].to_pylist() for name in ("video_id", "path", "status", "error_type", "message"))
    for video_id, path, status, error_type, message in zip(*columns, strict=True):
        yield f"{status}, {error_type}: {_without_name(message or 'no message', path, video_id)}", video_id


def _without_name(message: str, path: str | None, video_id: str) -> str:
    """Most messages name their video, and would be as many as there are videos."""
    return message.replace(path or video_id, "VIDEO")
