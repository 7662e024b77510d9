"""What a notebook shows of a store and of a track: a few facts and faces as HTML that needs nothing beside it.

It says what is damaged and never raises: a notebook would show nothing but the traceback. Tables come first and styles
are few, since many places that show notebooks drop styles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cli import printable
from pipeline.pictures import shrink, strip
from pipeline.reporting.clip_reader import middle_rows
from pipeline.reporting.tally import LABEL_NAMES, LABELS, count_by, statuses_of
from pipeline.store import FaceStore
from pipeline.store_track import StoreTrack
from pipeline.types import UInt8Array
from pipeline.writer import StoreFormatError

FACES_SHOWN = 8
FACE_PIXELS = 96
MOST_PARTITIONS = 256
"""Whose tables are read for it, a second's work on a disk; of a larger store whose tables nobody has read yet they are
told of alone."""

_TRACK_COLUMNS = ("video_id", "track_id", "array", "row_start", "row_stop", "label")
_SETTINGS = (
    ("detect", "every_n_frames"), ("track", "min_frames"), ("track", "segment_frames"), ("track", "max_faces"),
    ("crop", "mode"), ("crop", "size"), ("crop", "margin"), ("pair", "min_change"), ("store", "codec"),
    ("extract", "save_masks"),
)  # fmt: skip
"""Those that a reader wants to know; the others are in ``store.manifest``."""
_CELL = 'style="text-align: left; vertical-align: top"'
_NUMBER = 'style="text-align: right"'


def store_html(store: FaceStore) -> str:
    """A store: where it is, what became of its videos, what it holds by label, settings, and some faces."""
    head = f"<p><b>Face-clip store</b> <code>{_text(store.url)}</code></p>"
    return f"<div>{head}{_or_why(lambda: _contents(store))}</div>"


def track_html(track: StoreTrack) -> str:
    """A track: what its row says, and a film strip."""
    head = f"<p><b>Track {_text(track['track_id'])}</b> of <code>{_text(track['video_id'])}</code></p>"
    return f"<div>{head}{_or_why(lambda: _facts(_of_track(track)))}{_or_why(lambda: _film_strip(track))}</div>"


def _or_why(show: Callable[[], str]) -> str:
    try:
        return show()
    except Exception as error:  # The boundary of what is shown: files behind a URL are damaged in all kinds of ways.
        return _why_not(error)


def _why_not(error: Exception) -> str:
    return f"<p><b>Can't be shown:</b> {_text(f'{type(error).__name__}: {error}')}</p>"


def _text(value: object) -> str:
    """Anything, harmless: names and messages come from outside."""
    return escape(printable(str(value)))


def _table(store: FaceStore, name: str, columns: Sequence[str]) -> tuple[pa.Table, int]:
    """Columns of a table, and of how many partitions they are."""
    names = store.partition_names
    if name in vars(store):  # Somebody has read it whole already.
        return vars(store)[name].select(columns), len(names)
    if len(names) <= MOST_PARTITIONS:
        return store.read_table(name, columns), len(names)
    parts = [store.read_partition(name, partition, columns) for partition in names[:MOST_PARTITIONS]]
    return pa.concat_tables(parts), MOST_PARTITIONS


def _contents(store: FaceStore) -> str:
    videos, num_of_videos = _table(store, "videos", ["status", "label"])
    tracks, num_of_tracks = _table(store, "tracks", _TRACK_COLUMNS)
    note, num_read = "", min(num_of_videos, num_of_tracks)
    if num_read < len(store.partition_names):
        note = (
            f"<p>Counted in the first {num_read:,} of {len(store.partition_names):,} partitions; "
            "in all of them once <code>store.videos</code> and <code>store.tracks</code> have been read.</p>"
        )
    return _counts(store, videos, tracks) + note + _or_why(lambda: _faces(store, tracks))


def _counts(store: FaceStore, videos: pa.Table, tracks: pa.Table) -> str:
    lengths = tracks.append_column("frames", pc.subtract(tracks["row_stop"], tracks["row_start"]))
    counted = (
        ("videos", count_by(videos, ["label"])),
        ("tracks", count_by(tracks, ["label"])),
        ("frames", count_by(lengths, ["label"], "frames")),
    )
    rows = [
        [LABEL_NAMES[label], *(f"{counts.get((label,), 0):,}" for _, counts in counted)]
        for label in LABELS
        if any((label,) in counts for _, counts in counted)
    ]
    rows.append(["total", *(f"{sum(counts.values()):,}" for _, counts in counted)])
    by_status = {status: count for (status,), count in count_by(videos, ["status"]).items()}
    size = store.manifest["settings"]["crop"]["size"]
    facts = [
        ("status", ", ".join(f"{by_status[s]:,} {s}" for s in statuses_of(videos) if s in by_status) or "no videos"),
        ("frames", f"{size} x {size} pixels, uint8 RGB"),
        ("settings", ", ".join(_settings(store))),
        ("fingerprint", store.fingerprint),
    ]
    return _grid(["", *(name for name, _ in counted)], rows) + _facts(facts)


def _settings(store: FaceStore) -> Iterable[str]:
    for section, name in _SETTINGS:
        values = store.manifest["settings"].get(section, {})
        if name in values:
            yield f"{section}.{name} {values[name]}"


def _faces(store: FaceStore, tracks: pa.Table) -> str:
    """One face of some tracks, from all over the table."""
    if not tracks.num_rows:
        return "<p>No track, so no face to show.</p>"
    rows = np.unique(np.linspace(0, tracks.num_rows - 1, FACES_SHOWN).round().astype(np.int64))
    faces = tracks.take(pa.array(rows)).to_pylist()
    middles = ((face["row_stop"] - face["row_start"]) // 2 for face in faces)
    shown, lost = [], list[str]()
    for face, middle in zip(faces, middles, strict=True):
        name = f"{LABEL_NAMES.get(face['label'], '?')}, {face['video_id']}"
        try:
            shown.append((store.frames(face, middle, middle + 1), name))
        except StoreFormatError as error:  # The others may be whole.
            lost.append(_why_not(error))
    return _pictures([frames for frames, _ in shown], [name for _, name in shown]) + "".join(lost)


def _of_track(track: StoreTrack) -> Iterable[tuple[str, str]]:
    yield "label", LABEL_NAMES.get(track["label"], "?")
    if track["source_id"] is not None:
        yield "made from", track["source_id"]
    if track["change_score"] is not None:
        verdict = {0: ", as it was filmed", 1: ", changed"}.get(track["face_label"], "")
        yield "face", f"change score {track['change_score']:.2f}{verdict}"
    yield "group", track["group_id"]
    seconds = track["timestamps_seconds"]
    yield (
        "frames",
        f"[{track['frame_start']}, {track['frame_stop']}) of the video, {seconds[0]:.2f} s to {seconds[-1]:.2f} s, "
        f"{track['observed_fraction']:.0%} observed, the others interpolated",
    )
    yield "face size", f"{track['mean_face_size']:.0f} pixels in a video of {track['width']} x {track['height']}"
    yield "detection score, sharpness", f"{track['mean_score']:.3f}, {track['sharpness']:.0f}"


def _film_strip(track: StoreTrack) -> str:
    shown = middle_rows(track.num_frames, FACES_SHOWN)
    seconds = track["timestamps_seconds"]
    return _pictures([track.frames(row, row + 1) for row in shown], [f"{seconds[row]:.2f} s" for row in shown])


def _pictures(clips: Iterable[UInt8Array], names: Iterable[str]) -> str:
    """Pictures in a row, each with its name below: up to a comma, the rest where the mouse is."""
    cells = []
    for frames, name in zip(clips, names, strict=True):
        picture = strip(shrink(frames, FACE_PIXELS))
        image = f'<img src="{picture.uri}" width="{picture.width}" height="{picture.height}" alt="{_text(name)}">'
        cells.append(f'<td {_CELL} title="{_text(name)}">{image}<br>{_text(name.partition(",")[0])}</td>')
    return f"<table><tr>{''.join(cells)}</tr></table>"


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th {_NUMBER}>{_text(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th {_CELL}>{_text(name)}</th>" + "".join(f"<td {_NUMBER}>{_text(v)}</td>" for v in values) + "</tr>"
        for name, *values in rows
    )
    return f"<table><tr>{first}</tr>{body}</table>"


def _facts(pairs: Iterable[tuple[str, Any]]) -> str:
    rows = (f"<tr><th {_CELL}>{_text(name)}</th><td {_CELL}>{_text(value)}</td></tr>" for name, value in pairs)
    return f"<table>{''.join(rows)}</table>"
