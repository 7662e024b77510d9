"""What an evaluation says on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inference.calibration import MAX_TEMPERATURE
from inference.config import EvaluateSettings
from inference.labelled import LabelledVideos
from inference.scores import ScoresInfo
from pipeline.cli import listed, printable

MAX_FOLDERS_PRINTED = 20
FOLDER_COLUMNS = ("folder", "videos", "real", "fake", "log_loss", "accuracy", "mean_probability")
TABLE = {
    "log loss": "log_loss",
    "unclipped": "log_loss_unclipped",
    "balanced": "balanced_log_loss",
    "AUC": "auc",
    "AP": "average_precision",
    "accuracy": "accuracy",
}
"""Columns of the closing table: heading, metric."""

Row = Sequence[Any]


def summary(
    videos: LabelledVideos,
    metrics: Mapping[str, Any],
    info: ScoresInfo,
    by_folder: Sequence[Row],
    settings: EvaluateSettings,
) -> Iterator[str]:
    """What is said at the end, line by line; names in it are as they were given."""
    counts = metrics["videos"]
    part = (
        "held out from training, which chose its best epoch by them"
        if info.part == "held-out"
        else "all of the store, those trained on among them if any"
    )
    yield (
        f"{counts['labelled']:,} labelled videos ({counts['real']:,} REAL, {counts['fake']:,} FAKE) in "
        f"{counts['groups']:,} group{'s' * (counts['groups'] != 1)}; {part}"
    )
    if counts["unlabelled"]:
        num_scored = counts["labelled"] + counts["unlabelled"]
        yield f"left out, since they have no label: {counts['unlabelled']:,} of {num_scored:,} scored videos"
    for model in info.models:
        yield from (f"note: {model.name}: mismatch overridden: {mismatch}" for mismatch in model.mismatches)
    yield from _table_lines(metrics, settings)
    if not (counts["real"] and counts["fake"]):
        only = "REAL" if counts["real"] else "FAKE"
        yield f"all videos are {only}: AUC, AP and balanced log loss are not defined, and there are no curves"
    yield from _fallback_lines(videos, metrics["fallbacks"])
    if 2 <= len(by_folder) <= MAX_FOLDERS_PRINTED:
        yield from _folder_lines(by_folder)
    yield from _calibration_lines(videos, metrics)


def _table_lines(metrics: Mapping[str, Any], settings: EvaluateSettings) -> Iterator[str]:
    has_intervals = settings.resamples > 0 and metrics["videos"]["groups"] > 1
    rows = [*metrics["models"].items(), ("ensemble", metrics["ensemble"])]
    for end in ("low", "high") if has_intervals else ():
        rows.append((f"  {end}", {name: metrics["ensemble"].get(f"{name}_{end}") for name in TABLE.values()}))
    yield from _aligned(
        ["", *TABLE], [[name, *(_number(of[metric]) for metric in TABLE.values())] for name, of in rows]
    )
    if has_intervals:
        share = f"{settings.confidence:.4g} of {settings.resamples:,} resamples of the groups"
        yield f"low, high: of the ensemble; between them lie {share}"
    elif settings.resamples:
        yield "no intervals: all videos are of one group, and groups are what is resampled"
    else:
        yield "no intervals: evaluate.resamples is 0"
    for name, of in rows:
        if of.get("wrong_for_certain"):
            yield (
                f"{name}: videos wrong for certain: {of['wrong_for_certain']:,}; that costs infinitely much unless "
                "clipped, and metrics.json has null there"
            )


def _fallback_lines(videos: LabelledVideos, fallbacks: Mapping[str, Any]) -> Iterator[str]:
    names = [name for name, no_score in zip(videos.video_ids, videos.is_fallback, strict=True) if no_score]
    if not names:
        yield "fallbacks: none, every video has a score"
        return
    without = _number(fallbacks["log_loss_without_fallbacks"])
    yield (
        f"fallbacks: {len(names):,} of {len(videos):,} videos ({fallbacks['share']:.1%}) have no score, so "
        f"{videos.fallback:g}: {listed(names)}; log loss without them {without}"
    )


def _folder_lines(by_folder: Sequence[Row]) -> Iterator[str]:
    rows = [[row[0], *(f"{count:,}" for count in row[1:4]), *map(_number, row[4:])] for row in by_folder]
    yield from _aligned([name.replace("_", " ") for name in FOLDER_COLUMNS], rows)


def _calibration_lines(videos: LabelledVideos, metrics: Mapping[str, Any]) -> Iterator[str]:
    calibration = metrics["calibration"]
    yield f"calibration: expected calibration error {calibration['expected_calibration_error']:.3f}"
    temperature, cross_fitted = calibration["temperature"], calibration["log_loss_cross_fitted"]
    if temperature is None:
        yield "no temperature: a fit needs scores of both classes that differ"
        return
    at_limit = not 1.01 / MAX_TEMPERATURE < temperature < MAX_TEMPERATURE / 1.01
    on_others = f"cross-fitted on others {_number(cross_fitted)}" if cross_fitted is not None else "on others unknown"
    yield (
        f"temperature {temperature:.4g}{' (the end of what is tried)' * at_limit}: log loss "
        f"{_number(calibration['log_loss_with_temperature'])} on these videos, to which it is fitted, {on_others}; "
        f"now, at {videos.settings.temperature:g}, {_number(metrics['ensemble']['log_loss'])}"
    )
    yield f"to use it, put temperature: {temperature:.4g} into the section aggregate of params.yaml"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    # Escaped before it is measured: an escape is longer than its character.
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *numbers])
