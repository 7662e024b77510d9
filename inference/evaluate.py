"""``python -m inference.evaluate scores.parquet STORE OUT_DIR``: metrics, curves, calibration, and the worst videos."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from inference.aggregate import Float64Array, clip
from inference.calibration import (
    Reliability,
    apply_temperature,
    cross_fitted,
    fit_temperature,
    reliability,
)
from inference.config import EvaluateSettings, Settings
from inference.labelled import VIDEO_COLUMNS, LabelledVideos, read_labelled
from inference.metrics import (
    WITH_INTERVALS,
    Curve,
    bin_edges,
    bootstrap,
    histogram,
    intervals,
    log_losses,
    precision_recall,
    roc,
    score,
)
from inference.plots import plot_histogram, plot_precision_recall, plot_reliability, plot_roc
from inference.scores import ScoresInfo, read_scores
from inference.summary import FOLDER_COLUMNS, Row, summary
from pipeline.cli import FILE, FOLDER, debug_option, params_option, plain_errors, printable
from pipeline.files import StoreFiles, write_file
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL

HISTOGRAM_BINS = 20


def evaluate(scores_path: str | Path, store_url: str, out_dir: str | Path, settings: Settings) -> dict[str, Any]:
    """Compare scores with the labels of their store, and fill ``out_dir``.

    Returns:
        What ``metrics.json`` has; NaN or None where that is null, or infinity.

    Raises:
        InputError: the scores can't be used, are not of this store as it is now, or no video has a label.
        WriteError: the disk is full, or gone.
    """
    scores = read_scores(scores_path)
    videos = read_labelled(scores, FaceStore.open(store_url), settings.aggregate)
    table = reliability(videos.labels, videos.submitted, settings.evaluate.bins)
    metrics = measure(videos, scores.info, table, settings.evaluate)
    by_folder = folder_rows(videos)
    files = StoreFiles(str(out_dir))
    files.make_folder("")
    said = [printable(line) for line in summary(videos, metrics, scores.info, by_folder, settings.evaluate)]
    for name, data in make_files(videos, metrics, table, by_folder):
        write_file(files, name, data)
    write_file(files, "summary.txt", "".join(f"{line}\n" for line in said).encode())
    write_file(files, "metrics.json", to_json(metrics))  # The last: it is of what lies beside it.
    for line in said:
        click.echo(line)
    click.echo(f"wrote metrics.json, tables and pictures to {out_dir}; errors.csv has the worst videos first")
    return metrics


def measure(videos: LabelledVideos, info: ScoresInfo, table: Reliability, settings: EvaluateSettings) -> dict[str, Any]:
    """All of ``metrics.json``."""
    models = {}
    for number, model in enumerate(info.models):
        models[model.name] = score(videos.labels, videos.of_model(number), videos.settings.clip) | {
            "fallbacks": int(np.isnan(videos.by_model[:, number]).sum()),
            "mismatches": len(model.mismatches),
        }
    return {
        "ensemble": measure_ensemble(videos, settings),
        "models": models,
        "videos": {
            "labelled": len(videos),
            "unlabelled": videos.num_unlabelled,
            "real": int((videos.labels == REAL).sum()),
            "fake": int((videos.labels == FAKE).sum()),
            "groups": len(set(videos.groups)),
        },
        "fallbacks": {
            "videos": int(videos.is_fallback.sum()),
            "share": float(videos.is_fallback.mean()),
            "log_loss_without_fallbacks": _mean(videos.losses[~videos.is_fallback]),
        },
        "calibration": measure_calibration(videos, table),
    }


def _mean(values: Float64Array) -> float | None:
    return float(values.mean()) if len(values) else None


def measure_ensemble(videos: LabelledVideos, settings: EvaluateSettings) -> dict[str, float]:
    """Metrics of the ensemble with their intervals, which are NaN where there is one group only."""
    distance = videos.settings.clip
    resampled = {name: np.empty(0) for name in WITH_INTERVALS}
    if len(set(videos.groups)) > 1:
        resampled = bootstrap(
            videos.labels, videos.probability, videos.groups, distance, settings.resamples, settings.seed
        )
    return score(videos.labels, videos.probability, distance) | intervals(resampled, settings.confidence)


def measure_calibration(videos: LabelledVideos, table: Reliability) -> dict[str, float | None]:
    """The calibration error as submitted, and the log loss (clipped, with fallbacks) that a temperature would give."""
    labels, scored = videos.labels, ~videos.is_fallback
    raw, is_fallback = videos.at_temperature_1, videos.is_fallback

    def loss(probabilities: Float64Array | None) -> float | None:
        return None if probabilities is None else _mean(log_losses(labels, clip(probabilities, videos.settings.clip)))

    temperature = fit_temperature(labels[scored], raw[scored])
    fitted = None if temperature is None else apply_temperature(raw, is_fallback, temperature)
    return {
        "expected_calibration_error": table.expected_calibration_error,
        "temperature": temperature,
        "log_loss_with_temperature": loss(fitted),
        "log_loss_cross_fitted": loss(cross_fitted(labels, raw, is_fallback, videos.groups)),
    }


def folder_rows(videos: LabelledVideos) -> list[Row]:
    """A row a folder, by name: :data:`FOLDER_COLUMNS`. In FaceForensics++ and Celeb-DF a folder is a manipulation."""
    folders = sorted(set(videos.folders))
    number_of = {folder: number for number, folder in enumerate(folders)}
    numbers = np.array([number_of[folder] for folder in videos.folders], np.int64)
    counts, num_fake = np.bincount(numbers), np.bincount(numbers[videos.labels == FAKE], minlength=len(folders))
    right = (videos.probability >= 0.5) == (videos.labels == FAKE)
    means = (np.bincount(numbers, values) / counts for values in (videos.losses, right, videos.submitted))
    columns = [column.tolist() for column in (counts, counts - num_fake, num_fake, *means)]
    return [*zip(folders, *columns, strict=True)]


def error_rows(videos: LabelledVideos, model_names: Sequence[str]) -> list[Row]:
    """A header, and a row a video, those that cost most first.

    ``probability`` and ``loss`` are of what is submitted. A model's own ``p_NAME`` isn't clipped, and is blank where
    it has scored no track.
    """
    own = [f"p_{name}" for name in model_names]
    known = {name: videos.table[name].to_pylist() for name in VIDEO_COLUMNS}
    columns: dict[str, list[Any]] = {
        "video_id": known["video_id"],
        "label": known["label"],
        "probability": videos.submitted.tolist(),
        "loss": videos.losses.tolist(),
        **dict(zip(own, videos.by_model.T.tolist(), strict=True)),
        "is_fallback": videos.is_fallback.astype(np.int64).tolist(),
        "status": known["status"],
        "num_tracks": known["num_tracks"],
        "folder": videos.folders,
        "group_id": known["group_id"],
        "message": known["message"],
    }
    worst_first = np.argsort(-videos.losses, kind="stable").tolist()
    return [list(columns), *([column[row] for column in columns.values()] for row in worst_first)]


def make_files(
    videos: LabelledVideos, metrics: Mapping[str, Any], table: Reliability, by_folder: Sequence[Row]
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all tables and pictures."""
    model_names = list(metrics["models"])
    named = [(name, videos.of_model(number), metrics["models"][name]) for number, name in enumerate(model_names)]
    named.append(("ensemble", videos.probability, metrics["ensemble"]))
    rocs = [(name, roc(videos.labels, p), of["auc"]) for name, p, of in named]
    recalls = [(name, precision_recall(videos.labels, p), of["average_precision"]) for name, p, of in named]
    edges = bin_edges(HISTOGRAM_BINS)
    real, fake = histogram(videos.labels, videos.submitted, HISTOGRAM_BINS)
    yield "roc.csv", _curve_csv(rocs[-1][1], "false_positive_rate", "true_positive_rate")
    yield "precision_recall.csv", _curve_csv(recalls[-1][1], "recall", "precision")
    yield (
        "reliability.csv",
        _columns_csv(
            bin_low=table.edges[:-1],
            bin_high=table.edges[1:],
            videos=table.num_videos,
            mean_probability=table.mean_probability,
            share_fake=table.share_fake,
        ),
    )
    yield "histogram.csv", _columns_csv(bin_low=edges[:-1], bin_high=edges[1:], real=real, fake=fake)
    yield "by_folder.csv", to_csv([FOLDER_COLUMNS, *by_folder])
    yield "errors.csv", to_csv(error_rows(videos, model_names))
    yield "roc.png", plot_roc(rocs, len(videos))
    yield "precision_recall.png", plot_precision_recall(recalls, float(videos.labels.mean()), len(videos))
    yield "reliability.png", plot_reliability(table)
    yield "histogram.png", plot_histogram(edges, real, fake)


def _curve_csv(curve: Curve, x: str, y: str) -> bytes:
    return _columns_csv(**{x: curve.x, y: curve.y, "threshold": curve.thresholds})


def _columns_csv(**columns: np.ndarray[Any, Any]) -> bytes:
    return to_csv([list(columns), *zip(*(column.tolist() for column in columns.values()), strict=True)])


def to_csv(rows: Iterable[Row]) -> bytes:
    """Rows, the header among them; None and what is no finite number are blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_finite(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def to_json(metrics: Mapping[str, Any]) -> bytes:
    """Nested numbers; null where there is no finite one, since JSON knows no infinity."""

    def plain(value: Any) -> Any:
        return {key: plain(of) for key, of in value.items()} if isinstance(value, Mapping) else _finite(value)

    return (json.dumps(plain(metrics), indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@click.command()
@click.argument("scores", type=FILE)
@click.argument("store", type=FOLDER)
@click.argument("out_dir", type=click.Path(file_okay=False))
@params_option
@debug_option
def main(scores: str, store: str, out_dir: str, params: str | None, debug: bool) -> None:
    """Compare SCORES, a file of inference.predict, with the labels in STORE, the store that was scored.

    \b
    OUT_DIR/metrics.json           of the ensemble with intervals, of each model, of calibration
            summary.txt            what is shown at the end
            errors.csv             every video, those that cost most first
            by_folder.csv          a row a folder: in many data sets that is a manipulation
            roc.csv, precision_recall.csv, reliability.csv, histogram.csv, and a .png of each
    Example:   python -m inference.evaluate results/validation/scores.parquet data/store results/evaluation
    Exit code: 0 done, 1 the run failed (disk full), 2 bad usage, such as scores of another store, 130 interrupted.
    """
    with plain_errors(debug):
        evaluate(scores, store, out_dir, load_settings(params, Settings))


if __name__ == "__main__":
    main()
