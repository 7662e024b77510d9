"""Pairs of an original's and a fake's clips, and faces of fakes that nobody changed: two sections of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.pictures import Picture, amplified_difference, shrink, strip
from pipeline.reporting.clip_reader import ClipReader, Row, rows_of, video_frames
from pipeline.reporting.pairs import Pairs, find_pairs, spread
from pipeline.reporting.score_chart import ScoreChart, score_chart
from pipeline.reporting.tally import (
    FACE_LABEL_NAMES,
    LABEL_NAMES,
    LABELS,
    CountRow,
    Groups,
    count_by,
    grouped,
    without_numbers,
)
from pipeline.types import FAKE, REAL, Float32Array

FRAMES_SHOWN = 6
"""Of a pair."""
MOST_UNCHANGED_FAKES = 50
"""That are listed."""


@dataclass(frozen=True)
class PairView:
    """The same face of an original and of a fake, at the same frames of both videos."""

    fake_id: str
    """``video_id``."""
    original_id: str
    """``video_id``."""
    group_id: str
    face_id: int
    segment: int
    label: str
    """Of the fake."""
    face_label: str
    """Of its face."""
    change_score: float | None
    fake_frames: range
    """Frames of the video that the fake's track has."""
    original_frames: range
    """Frames of the video that the original's track has."""
    shown: tuple[int, ...]
    """Frames of the videos that are in the pictures."""
    original: Picture | None
    """None: it can't be read; likewise the others."""
    fake: Picture | None
    difference: Picture | None
    problems: tuple[str, ...]
    """Why pictures aren't there."""
    chart: ScoreChart | None
    """None: it wasn't compared."""


@dataclass(frozen=True)
class PairsView:
    """What came of comparing fakes with their originals."""

    num_fakes: int
    """Videos that are labelled so."""
    num_with_original_named: int
    num_with_its_tracks: int
    notes: Groups
    """Why videos that name their original have tracks of their own."""
    face_label_columns: tuple[str, ...]
    face_labels: tuple[CountRow, ...]
    """Tracks by the label of their video and that of their face."""
    min_change: float | None
    """``change_score`` from which a face counts as changed; None: the store doesn't say."""
    num_pairs: int
    num_alone: int
    """Tracks that were cut along those of an original whose own aren't in this store."""
    sample: tuple[PairView, ...]


@dataclass(frozen=True)
class UnchangedFake:
    """A fake in which no face was changed."""

    video_id: str
    original_id: str | None
    num_tracks: int
    max_change_score: float | None


@dataclass(frozen=True)
class UnchangedView:
    """Faces of fakes that are as they were filmed."""

    num_tracks: int
    num_tracks_of_fakes: int
    """Changed or not."""
    num_pairs: int
    """Those of the unchanged that can be shown beside their original."""
    sample: tuple[PairView, ...]
    num_fakes: int
    """In which no face was changed."""
    fakes: tuple[UnchangedFake, ...]
    """Some of them, highest score first."""


def pairs_views(
    clips: ClipReader, videos: pa.Table, tracks: pa.Table, num_shown: int
) -> tuple[PairsView, UnchangedView]:
    """Both sections.

    Args:
        clips: of the store whose tables these are; frames are read of what is shown, and of nothing else.
        videos: with ``video_id``, ``label``, ``source_id``, ``tracks_from`` and ``pairing_note``.
        tracks: of all columns that have one value a track.
        num_shown: pairs in each section at most.
    """
    pairs = find_pairs(tracks)
    fakes = videos.filter(pc.equal(videos["label"], FAKE))
    by_labels = count_by(tracks, ["label", "face_label"])
    num_cut_along = tracks.filter(pc.and_(pc.is_valid(tracks["pair_id"]), pc.is_valid(tracks["source_id"]))).num_rows
    of_pairs = PairsView(
        num_fakes=fakes.num_rows,
        num_with_original_named=fakes.num_rows - fakes["source_id"].null_count,
        num_with_its_tracks=pc.sum(pc.equal(fakes["tracks_from"], "original")).as_py() or 0,
        notes=pairing_notes(videos),
        face_label_columns=tuple(FACE_LABEL_NAMES[label] for label in LABELS),
        face_labels=tuple(
            CountRow(LABEL_NAMES[of_video], tuple(by_labels.get((of_video, of_face), 0) for of_face in LABELS))
            for of_video in LABELS
        ),
        min_change=clips.store.min_change if math.isfinite(clips.store.min_change) else None,
        num_pairs=len(pairs),
        num_alone=num_cut_along - len(pairs),
        sample=_sample(clips, tracks, pairs, num_shown),
    )
    return of_pairs, _unchanged(clips, tracks, pairs, num_shown)


def pairing_notes(videos: pa.Table) -> Groups:
    """Why videos have tracks of their own, whatever the numbers in it.

    Args:
        videos: with ``video_id`` and ``pairing_note``.
    """
    noted = videos.filter(pc.is_valid(videos["pairing_note"]))
    notes = (without_numbers(note) for note in noted["pairing_note"].to_pylist())
    return grouped(zip(notes, noted["video_id"].to_pylist(), strict=True))


def _unchanged(clips: ClipReader, tracks: pa.Table, pairs: Pairs, num_shown: int) -> UnchangedView:
    of_fakes = tracks.filter(pc.equal(tracks["label"], FAKE))
    is_fake, is_as_filmed = pc.equal(tracks["label"], FAKE), pc.equal(tracks["face_label"], REAL)
    is_unchanged = pc.fill_null(pc.and_kleene(is_fake, is_as_filmed), fill_value=False)
    shown = pairs[np.asarray(is_unchanged.to_numpy(), bool)[pairs.fakes]]
    unchanged_fakes = _unchanged_fakes(of_fakes)
    listed = unchanged_fakes.slice(0, MOST_UNCHANGED_FAKES).to_pylist()
    return UnchangedView(
        num_tracks=pc.sum(is_unchanged).as_py() or 0,
        num_tracks_of_fakes=of_fakes.num_rows,
        num_pairs=len(shown),
        sample=_sample(clips, tracks, shown, num_shown),
        num_fakes=unchanged_fakes.num_rows,
        fakes=tuple(
            UnchangedFake(row["video_id"], row["source_id"], row["tracks"], row["change_score"]) for row in listed
        ),
    )


def _unchanged_fakes(tracks: pa.Table) -> pa.Table:
    """Videos all of whose tracks are as they were filmed, highest score first.

    Args:
        tracks: of fakes.
    """
    by_video = tracks.group_by(["video_id", "source_id"], use_threads=False).aggregate(
        [("face_label", "max"), ("face_label", "count"), ([], "count_all"), ("change_score", "max")]
    )
    # Not those with a face of which nothing is known: that may be the one.
    is_unchanged = pc.and_(
        pc.equal(pc.fill_null(by_video["face_label_max"], FAKE), REAL),
        pc.equal(by_video["face_label_count"], by_video["count_all"]),
    )
    found = by_video.filter(is_unchanged).select(["video_id", "source_id", "count_all", "change_score_max"])
    return found.rename_columns(["video_id", "source_id", "tracks", "change_score"]).sort_by(
        [("change_score", "descending"), ("video_id", "ascending")]
    )


def _sample(clips: ClipReader, tracks: pa.Table, pairs: Pairs, num_shown: int) -> tuple[PairView, ...]:
    chosen = pairs[spread(tracks.take(pa.array(pairs.fakes)), num_shown)]
    rows = (rows_of(tracks, numbers.tolist()) for numbers in (chosen.fakes, chosen.originals))
    return tuple(pair_view(clips, fake, original) for fake, original in zip(*rows, strict=True))


def pair_view(clips: ClipReader, fake: Row, original: Row) -> PairView:
    """A pair as pictures.

    Args:
        clips: where its frames are.
        fake: a track, as a mapping with all columns that have one value a track.
        original: likewise, with frames in common.
    """
    fake_frames, original_frames = video_frames(fake), video_frames(original)
    shown = frames_shown(fake_frames, original_frames)
    before = clips.frames(original, [original_frames.index(frame) for frame in shown])
    after = clips.frames(fake, [fake_frames.index(frame) for frame in shown])
    scores = _change_scores(clips, fake)
    return PairView(
        fake_id=fake["video_id"],
        original_id=original["video_id"],
        group_id=fake["group_id"],
        face_id=fake["face_id"],
        segment=fake["segment"],
        label=LABEL_NAMES.get(fake["label"], "?"),
        face_label=FACE_LABEL_NAMES.get(fake["face_label"], "?"),
        change_score=fake["change_score"],
        fake_frames=fake_frames,
        original_frames=original_frames,
        shown=shown,
        original=None if before is None else strip(shrink(before)),
        fake=None if after is None else strip(shrink(after)),
        difference=None if before is None or after is None else strip(amplified_difference(before, after)),
        problems=tuple(problem for problem in map(clips.problem, (original, fake)) if problem is not None),
        chart=None if scores is None else score_chart(scores, fake_frames, clips.store.min_change, shown),
    )


def frames_shown(a: range, b: range, most: int = FRAMES_SHOWN) -> tuple[int, ...]:
    """Evenly spaced frames among those that two tracks have in common, the first and the last among them."""
    common = sorted(set(a).intersection(b))
    places = np.linspace(0, len(common) - 1, min(most, len(common))).round().astype(int)
    return tuple(common[place] for place in places)


def _change_scores(clips: ClipReader, track: Row) -> Float32Array | None:
    """Of a track's frames, float32 (T,)."""
    scores = clips.of_frames(track, "change_scores")
    return None if scores is None else np.array([np.nan if s is None else s for s in scores], np.float32)
