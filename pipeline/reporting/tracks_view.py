"""Single tracks of a store to look at: a sheet of samples, and those that stand out; two sections of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.pictures import FRAME_PIXELS
from pipeline.reporting.clip_reader import ClipReader, Film, Row, rows_of, video_frames
from pipeline.reporting.folders import Folders, folder_numbers
from pipeline.reporting.tally import FACE_LABEL_NAMES, LABEL_NAMES, LABELS
from pipeline.reporting.track_sample import lowest_tracks, sample_strata

SHEET_PIXELS = 112
"""Side of a frame of the sheet at most."""
EXTREMES_SHOWN = 6
"""Of each kind."""
FILM_FRAMES = 6
"""Of a film strip."""
SIZE_BOUNDS_PIXELS = (64, 128)
"""Between small, middling and large faces: below the first a network of 112 pixels or more sees little but blur."""
FEW_TRACKS = 12
"""Less than so many are shown in any case."""


@dataclass(frozen=True)
class TrackView:
    """A track, its figures and some of its frames."""

    video_id: str
    face_id: int
    segment: int
    label: str
    face_label: str
    folder: str
    mean_score: float
    observed_fraction: float
    mean_face_size: float
    """Pixels of the video."""
    frames: range
    """Of the video."""
    film: Film


@dataclass(frozen=True)
class Option:
    """One choice of a filter."""

    name: str
    num_tracks: int
    """Of the sheet."""


@dataclass(frozen=True)
class Facet:
    """One filter of the sheet."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Cell:
    """One track of the sheet."""

    track: TrackView
    choices: tuple[int, ...]
    """Which option it is of each facet, by number: names from inputs stay out of style rules."""


@dataclass(frozen=True)
class SheetView:
    """Tracks sampled from all over a store."""

    num_tracks: int
    """Of the store."""
    facets: tuple[Facet, ...]
    """Those with more than one option among what is shown."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ExtremesView:
    """Tracks that stand out by one figure."""

    title: str
    why: str
    """What to look for."""
    tracks: tuple[TrackView, ...]
    """Empty where half of all tracks are as low as the lowest: none stands out."""


def track_view(clips: ClipReader, track: Row, folder: str, frames: int, side: int) -> TrackView:
    """A track as it is shown.

    Args:
        clips: where its frames are.
        track: a row of the table of tracks.
        folder: of its video.
        frames: of it that are shown at most.
        side: of these, pixels.
    """
    return TrackView(
        video_id=track["video_id"],
        face_id=track["face_id"],
        segment=track["segment"],
        label=LABEL_NAMES.get(track["label"], "?"),
        face_label=FACE_LABEL_NAMES.get(track["face_label"], "?"),
        folder=folder,
        mean_score=track["mean_score"],
        observed_fraction=track["observed_fraction"],
        mean_face_size=track["mean_face_size"],
        frames=video_frames(track),
        film=clips.film(track, frames, side),
    )


def sheet_view(clips: ClipReader, tracks: pa.Table, folders: Folders, most: int) -> SheetView:
    """One frame each of tracks from all labels and folders.

    Args:
        clips: where frames are.
        tracks: with what :func:`track_view` shows.
        folders: of the videos.
        most: tracks.
    """
    in_folder = folder_numbers(tracks["video_id"], folders)
    of_label = _numbers_in(tracks["label"], LABELS)
    strata = in_folder * (len(LABELS) + 1) + of_label
    chosen = sample_strata(tracks, strata, most)
    rows = rows_of(tracks, chosen)
    sizes = np.array([row["mean_face_size"] for row in rows])
    small, large = SIZE_BOUNDS_PIXELS
    kinds: list[tuple[str, Sequence[str], NDArray[np.int64]]] = [
        ("Label of the video", [LABEL_NAMES[label] for label in LABELS], of_label[chosen]),
        (
            "Label of the face",
            [FACE_LABEL_NAMES[label] for label in LABELS],
            _numbers_in(tracks["face_label"], LABELS)[chosen],
        ),
        ("Folder", folders.columns, in_folder[chosen]),
        (
            "Size of the face",
            [f"below {small} pixels", f"{small} to {large} pixels", f"{large} pixels and more"],
            np.digitize(sizes, SIZE_BOUNDS_PIXELS).astype(np.int64),
        ),
    ]
    shown = [kind for kind in kinds if len(np.unique(kind[2])) > 1]
    facets, choices = [], []
    for name, options, numbers in shown:
        # Options that nothing shown has would only lead to an empty sheet.
        used = np.unique(numbers)
        facets.append(Facet(name, tuple(Option(_name(options, n), int((numbers == n).sum())) for n in used)))
        choices.append(np.searchsorted(used, numbers))
    return SheetView(
        num_tracks=tracks.num_rows,
        facets=tuple(facets),
        cells=tuple(
            Cell(
                track_view(clips, row, folders.columns[in_folder[number]], 1, SHEET_PIXELS),
                tuple(int(of_facet[i]) for of_facet in choices),
            )
            for i, (row, number) in enumerate(zip(rows, chosen, strict=True))
        ),
    )


def _name(options: Sequence[str], number: int) -> str:
    return options[number] if number < len(options) else "?"


def _numbers_in(column: pa.ChunkedArray, values: Sequence[int | None]) -> NDArray[np.int64]:
    """The place of each value among some, int64 (N,); one past the last where it is none of them."""
    places = pc.index_in(column, pa.array(values, column.type))
    return np.asarray(pc.fill_null(places, len(values)).to_numpy(), np.int64)


def extremes_views(clips: ClipReader, tracks: pa.Table, folders: Folders) -> tuple[ExtremesView, ...]:
    """The tracks of the lowest scores, the fewest detections and the smallest faces.

    Args:
        as of :func:`sheet_view`.
    """
    kinds = (
        ("mean_score", "Lowest detection scores", "These may not be faces at all, or faces half hidden."),
        (
            "observed_fraction",
            "Most interpolated",
            "Between detections boxes are interpolated. Where detections were missed, a face may leave its square.",
        ),
        ("mean_face_size", "Smallest faces", "Enlarged to the stored size these are blurred, and little can be seen."),
    )
    found = []
    for column, title, why in kinds:
        values = np.asarray(tracks[column].to_numpy(), np.float64)
        stands_out = len(values) > 0 and (len(values) < FEW_TRACKS or values.min() < np.median(values))
        rows = rows_of(tracks, lowest_tracks(tracks, column, EXTREMES_SHOWN)) if stands_out else []
        numbers = folder_numbers(pa.chunked_array([[row["video_id"] for row in rows]], pa.string()), folders)
        views = tuple(
            track_view(clips, row, folders.columns[number], FILM_FRAMES, FRAME_PIXELS)
            for row, number in zip(rows, numbers, strict=True)
        )
        found.append(ExtremesView(title, why, views))
    return tuple(found)
