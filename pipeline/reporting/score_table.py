"""``scores.parquet`` (``docs/scoring.md``) as a report reads it: windows, and plain means of them a track and a video.

It is read by its documented columns, not by the code that wrote it: nothing here knows of models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.store import FaceStore

METADATA_KEY = b"face_clip_scores"
FORMAT_VERSION = 1
COLUMNS = pa.schema(
    [
        ("video_id", pa.string()),
        ("track_id", pa.int32()),
        ("model", pa.string()),
        ("window", pa.int32()),
        ("frame_start", pa.int64()),
        ("num_frames", pa.int32()),
        ("frame_step", pa.int32()),
        ("probability", pa.float64()),
        ("error", pa.string()),
    ]
)
"""What is read of each window."""
_REMEDY = "give a file that python -m inference.predict wrote"

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredModel:
    """What scores say of one of their models."""

    name: str
    architecture: str
    epoch: str
    num_mismatches: int
    """Settings in which the clips differ from what it was trained on."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of windows, and what they are of."""

    path: str
    windows: pa.Table
    """With :data:`COLUMNS`; ``probability`` is null where ``error`` says why."""
    models: tuple[ScoredModel, ...]
    part: str
    """``all``, or ``held-out``: only videos that no model was trained on."""
    num_videos_without_tracks: int
    """Asked for, and without a row."""

    @property
    def model_names(self) -> list[str]:
        return [model.name for model in self.models]


def read_score_table(path: str, store: FaceStore, video_ids: pa.ChunkedArray) -> ScoreTable:
    """Scores of a store.

    Args:
        path: of the file.
        store: that they should be of.
        video_ids: of its videos.

    Raises:
        InputError: there is no such file, it isn't one of scores, or not of this store.
    """
    if Path(path).is_dir():
        raise InputError(f"{path!r} is a folder; {_REMEDY}")
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            if METADATA_KEY not in metadata:
                raise InputError(f"{path!r} is a table, but not one of scores; {_REMEDY}")
            if missing := sorted(set(COLUMNS.names) - set(file.schema_arrow.names)):
                raise InputError(f"{path!r} lacks the columns {', '.join(missing)} of scores; {_REMEDY}")
            windows = file.read(columns=COLUMNS.names)
            windows = windows.select(COLUMNS.names).cast(COLUMNS)
            windows.validate(full=True)
    except FileNotFoundError as error:
        raise InputError(f"{path!r} can't be read: there is no such file; {_REMEDY}") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path!r} is no file of scores ({error}); {_REMEDY}") from error
    about = _read_about(metadata[METADATA_KEY], path)
    _check_values(path, windows)
    _check_store(path, about, store, windows, video_ids)
    return ScoreTable(
        path=path,
        windows=windows,
        models=_models(about, windows),
        part=str(about.get("part", "all")),
        num_videos_without_tracks=len(_list(about.get("videos_without_tracks"))),
    )


def _read_about(text: bytes, path: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path!r}: its description of the scores is not whole ({error}); {_REMEDY}") from error
    if not isinstance(about, dict) or "store_fingerprint" not in about:
        raise InputError(f"{path!r}: its description of the scores is not whole; {_REMEDY}")
    if about.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path!r} has scores of format version {about.get('format_version')!r}, this code reads {FORMAT_VERSION}; "
            "use the version that wrote them, or run inference.predict again"
        )
    return about


def _check_values(path: str, windows: pa.Table) -> None:
    for name in COLUMNS.names:
        if name not in {"probability", "error"} and windows[name].null_count:
            raise InputError(f"{path!r} has no {name} in {windows[name].null_count} rows; {_REMEDY}")
    probabilities = pc.drop_null(windows["probability"]).to_numpy()
    # NaN isn't in between either.
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InputError(f"{path!r} has probabilities that aren't between 0 and 1; {_REMEDY}")


def _check_store(
    path: str, about: dict[str, Any], store: FaceStore, windows: pa.Table, video_ids: pa.ChunkedArray
) -> None:
    if about["store_fingerprint"] != store.fingerprint:
        raise InputError(
            f"{path!r} has scores of a store with the fingerprint {about['store_fingerprint']!r}, but {store.url} has "
            f"{store.fingerprint!r}: it was extracted with other settings; give the store that was scored, or run "
            "inference.predict on this one"
        )
    scored = pc.unique(windows["video_id"])
    unknown = scored.filter(pc.invert(pc.is_in(scored, pa.array(video_ids.combine_chunks()))))
    if len(unknown):
        raise InputError(
            f"{path!r} has scores of {len(unknown):,} of {len(scored):,} videos that aren't in {store.url}, such as "
            f"{unknown[0].as_py()!r}: they are of another store, or it has changed; run inference.predict again"
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _models(about: dict[str, Any], windows: pa.Table) -> tuple[ScoredModel, ...]:
    """Those that rows are of, in order of their names, with what the description says of them."""
    described = {str(model.get("name")): model for model in _list(about.get("models")) if isinstance(model, dict)}
    names = sorted({*pc.unique(windows["model"]).to_pylist(), *described} - {None})
    return tuple(
        ScoredModel(
            name,
            str(described.get(name, {}).get("architecture", "unknown")),
            str(described.get(name, {}).get("epoch", "unknown")),
            len(_list(described.get(name, {}).get("mismatches"))),
        )
        for name in names
    )


@dataclass(frozen=True, eq=False)
class VideoMeans:
    """Plain means of windows, of V videos by M models."""

    video_ids: pa.Array
    """V strings: videos of which at least one window has a score."""
    by_model: Float64Array
    """float64 (V, M), of FAKE; NaN where a model has scored no window of a video."""
    probability: Float64Array
    """float64 (V,), the mean of the models that have."""


def video_means(table: ScoreTable) -> VideoMeans:
    """Windows -> tracks -> videos -> models, each the plain mean of those before."""
    good = table.windows.filter(pc.is_valid(table.windows["probability"]))
    videos = good["video_id"].combine_chunks().dictionary_encode()
    if isinstance(videos, pa.ChunkedArray):
        videos = videos.combine_chunks()
    models = pc.index_in(good["model"], pa.array(table.model_names, pa.string()))
    numbered = pa.table(
        {
            "video": videos.indices, "model": models, "track": good["track_id"], "probability": good["probability"],
        }
    )  # fmt: skip
    numbered = _means(_means(numbered, "video", "model", "track"), "video", "model")
    by_model = np.full((len(videos.dictionary), len(table.models)), np.nan)
    places = (np.asarray(numbered[name].to_numpy(), np.int64) for name in ("video", "model"))
    by_model[tuple(places)] = numbered["probability"].to_numpy()
    known = np.isfinite(by_model)
    probability = np.where(known, by_model, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return VideoMeans(videos.dictionary, by_model, probability)


def track_means(windows: pa.Table) -> dict[tuple[str, int], float]:
    """Of some windows: the mean of models of the mean of windows, by ``video_id`` and ``track_id``."""
    good = windows.filter(pc.is_valid(windows["probability"]))
    found = _means(_means(good, "video_id", "track_id", "model"), "video_id", "track_id")
    return {(row["video_id"], row["track_id"]): row["probability"] for row in found.to_pylist()}


def _means(table: pa.Table, *keys: str) -> pa.Table:
    """The plain mean of ``probability`` over the rows that agree in the keys."""
    found = table.group_by(list(keys), use_threads=False).aggregate([("probability", "mean")])
    return found.rename_columns([name.removesuffix("_mean") for name in found.column_names])
