"""What models said of the videos of a store: a section of the report, with ``--scores``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.pictures import FRAME_PIXELS
from pipeline.reporting.clip_reader import ClipReader, Film, Row
from pipeline.reporting.histogram import Captions, Histogram, histogram, share_bins
from pipeline.reporting.probability_chart import STYLES, ProbabilityChart, probability_chart
from pipeline.reporting.reliability_chart import ReliabilityChart, reliability_chart
from pipeline.reporting.score_figures import CLIP, Figures, Reliability, figures, log_losses, reliability
from pipeline.reporting.score_table import Float64Array, ScoreTable, VideoMeans, track_means, video_means
from pipeline.reporting.tally import LABEL_NAMES, Groups, grouped
from pipeline.types import FAKE

WORST_SHOWN = 12
CONFIDENT_SHOWN = 6
"""Videos without a label, of either class."""
FILM_FRAMES = 6
MOST_TRACKS_NAMED = 5
"""Other tracks of a video whose scores are listed."""


@dataclass(frozen=True)
class ModelRow:
    """One model, or all of them together."""

    name: str
    style: int | None
    """Of its lines; None: it has none."""
    architecture: str
    epoch: str
    num_mismatches: int
    num_videos: int
    """That it has scored."""
    figures: Figures | None
    """Of those that have a label; None: none has."""


@dataclass(frozen=True)
class TrackScore:
    """What all models together said of one track."""

    face_id: int
    segment: int
    probability: float


@dataclass(frozen=True)
class ScoredVideo:
    """A video, and the track that speaks most for or against its score."""

    video_id: str
    label: str
    probability: float
    log_loss: float | None
    """None: it has no label."""
    by_model: tuple[tuple[str, float], ...]
    face_id: int | None
    """Of the track that is shown; None: its tracks aren't in the store."""
    segment: int
    track_probability: float
    film: Film | None
    chart: ProbabilityChart | None
    others: tuple[TrackScore, ...]
    """Tracks that aren't shown, some of them."""
    num_others: int


@dataclass(frozen=True)
class ScoresView:
    """What models said of a store's videos."""

    path: str
    part: str
    clip: float
    num_windows: int
    num_errors: int
    """Windows without a score."""
    errors: Groups
    """Videos by what kept a window of them from being scored."""
    num_videos: int
    """With a score."""
    num_labelled: int
    """Of these."""
    num_without_score: int
    """Videos of the store that have none."""
    num_asked_without_track: int
    models: tuple[ModelRow, ...]
    together: ModelRow
    styles: int
    histogram: Histogram
    reliability: Reliability | None
    reliability_chart: ReliabilityChart | None
    worst: tuple[ScoredVideo, ...]
    fakes: tuple[ScoredVideo, ...]
    """Videos without a label, surest first."""
    reals: tuple[ScoredVideo, ...]


def scores_view(clips: ClipReader, videos: pa.Table, tracks: pa.Table, table: ScoreTable) -> ScoresView:
    """The section.

    Args:
        clips: of the store that was scored.
        videos: with ``video_id`` and ``label``.
        tracks: of all columns that have one value a track.
        table: of scores of this store.
    """
    means = video_means(table)
    labels = _labels_of(means.video_ids, videos)
    losses = log_losses(labels, means.probability)
    is_labelled = np.isfinite(labels)
    found = reliability(labels[is_labelled], means.probability[is_labelled])
    by_loss = _first(np.flatnonzero(is_labelled), -losses, means, WORST_SHOWN)
    unlabelled = np.flatnonzero(~is_labelled)
    surest = {
        name: _first(unlabelled[chosen[unlabelled]], order, means, CONFIDENT_SHOWN)
        for name, chosen, order in (
            ("fakes", means.probability >= 0.5, -means.probability),
            ("reals", means.probability < 0.5, means.probability),
        )
    }
    shown = [*by_loss, *surest["fakes"], *surest["reals"]]
    of_video = {view.video_id: view for view in _scored_videos(clips, tracks, table, means, labels, shown)}
    ids = means.video_ids.to_pylist() if shown else []
    return ScoresView(
        path=table.path,
        part=table.part,
        clip=CLIP,
        num_windows=table.windows.num_rows,
        num_errors=table.windows["probability"].null_count,
        errors=_errors(table),
        num_videos=len(labels),
        num_labelled=int(is_labelled.sum()),
        num_without_score=videos.num_rows - len(labels),
        num_asked_without_track=table.num_videos_without_tracks,
        models=tuple(_model_rows(table, means, labels)),
        together=ModelRow(
            "all, their mean", None, "", "", 0, len(labels),
            figures(labels[is_labelled], means.probability[is_labelled]),
        ),
        styles=STYLES,
        histogram=histogram(
            means.probability, labels, share_bins(),
            Captions("Probability of FAKE", "probability of FAKE, mean of models", "videos"),
        ),
        reliability=found,
        reliability_chart=None if found is None else reliability_chart(found),
        worst=tuple(of_video[ids[number]] for number in by_loss),
        fakes=tuple(of_video[ids[number]] for number in surest["fakes"]),
        reals=tuple(of_video[ids[number]] for number in surest["reals"]),
    )  # fmt: skip


def _labels_of(video_ids: pa.Array, videos: pa.Table) -> Float64Array:
    """Of scored videos, float64 (V,); NaN where there is none."""
    places = pc.index_in(video_ids, videos["video_id"].combine_chunks())
    return np.asarray(videos["label"].take(places).to_numpy(), np.float64)


def _first(numbers: NDArray[np.int64], order: Float64Array, means: VideoMeans, most: int) -> list[int]:
    """The first few by a value; equal ones by name."""
    if not len(numbers):
        return []
    bound = np.partition(order[numbers], min(most, len(numbers)) - 1)[min(most, len(numbers)) - 1]
    candidates = numbers[order[numbers] <= bound]
    names = means.video_ids.take(pa.array(candidates)).to_pylist()
    return [
        number for _, _, number in sorted(zip(order[candidates].tolist(), names, candidates.tolist(), strict=True))
    ][:most]


def _model_rows(table: ScoreTable, means: VideoMeans, labels: Float64Array) -> Iterator[ModelRow]:
    for number, model in enumerate(table.models):
        own = means.by_model[:, number]
        is_scored = np.isfinite(own)
        both = is_scored & np.isfinite(labels)
        yield ModelRow(
            model.name, number % STYLES, model.architecture, model.epoch, model.num_mismatches,
            int(is_scored.sum()), figures(labels[both], own[both]),
        )  # fmt: skip


def _errors(table: ScoreTable) -> Groups:
    failed = table.windows.filter(pc.is_null(table.windows["probability"]))
    by_video = failed.group_by(["video_id", "error"], use_threads=False).aggregate([])
    said = (error or "no score, and no word why" for error in by_video["error"].to_pylist())
    return grouped(zip(said, by_video["video_id"].to_pylist(), strict=True))


def _scored_videos(
    clips: ClipReader,
    tracks: pa.Table,
    table: ScoreTable,
    means: VideoMeans,
    labels: Float64Array,
    numbers: list[int],
) -> Iterator[ScoredVideo]:
    """Some videos, by their numbers among the means."""
    names = means.video_ids.take(pa.array(numbers, pa.int64()))
    windows = table.windows.filter(pc.is_in(table.windows["video_id"], names))
    of_track = track_means(windows)
    tracks_of: dict[str, list[Row]] = {}
    for row in tracks.filter(pc.is_in(tracks["video_id"], names)).to_pylist():
        tracks_of.setdefault(row["video_id"], []).append(row)
    windows_of: dict[tuple[str, int], list[Row]] = {}
    for row in windows.to_pylist():
        windows_of.setdefault((row["video_id"], row["track_id"]), []).append(row)
    styles = {name: number for number, name in enumerate(table.model_names)}
    for number, name in zip(numbers, names.to_pylist(), strict=True):
        label, probability = labels[number], float(means.probability[number])
        says_fake = label != FAKE if np.isfinite(label) else probability >= 0.5
        scored = [
            (of_track[name, row["track_id"]], row)
            for row in tracks_of.get(name, ())
            if (name, row["track_id"]) in of_track
        ]
        # Of a video that was got wrong the track that did it, of one without a label the one that decided.
        scored.sort(key=lambda pair: (-pair[0] if says_fake else pair[0], pair[1]["track_id"]))
        film = chart = shown = None
        if scored:
            shown = scored[0][1]
            film = clips.film(shown, FILM_FRAMES, FRAME_PIXELS)
            chart = probability_chart(shown, windows_of[name, shown["track_id"]], styles, film.shown)
        yield ScoredVideo(
            video_id=name,
            label=LABEL_NAMES.get(None if np.isnan(label) else int(label), "?"),
            probability=probability,
            log_loss=float(log_losses(labels[[number]], means.probability[[number]])[0])
            if np.isfinite(label)
            else None,
            by_model=tuple(
                (model, float(value))
                for model, value in zip(table.model_names, means.by_model[number], strict=True)
                if np.isfinite(value)
            ),
            face_id=None if shown is None else shown["face_id"],
            segment=0 if shown is None else shown["segment"],
            track_probability=scored[0][0] if scored else probability,
            film=film,
            chart=chart,
            others=tuple(TrackScore(row["face_id"], row["segment"], p) for p, row in scored[1 : MOST_TRACKS_NAMED + 1]),
            num_others=max(len(scored) - 1, 0),
        )
