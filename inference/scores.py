"""``scores.parquet``: what the models said of every window, and what they were asked; one file that explains itself.

One row a (video, track, model, window). The file's metadata has one entry, ``face_clip_scores``: JSON with the store,
the checkpoints and the settings, so that scores are never taken for those of something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inference.aggregate import VideoScores, WindowScores, combine, score_videos
from inference.config import AggregateSettings
from pipeline.errors import InputError
from pipeline.files import StoreFiles, write_file
from pipeline.nearest import did_you_mean, did_you_mean_path
from pipeline.store import FaceStore
from training.dataset import COLUMNS, contents_digest, sort_tracks

METADATA_KEY = b"face_clip_scores"
FORMAT_VERSION = 1

SCORES_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("track_id", pa.int32()),
        ("model", pa.string()),
        ("window", pa.int32()),
        ("frame_start", pa.int64()),
        ("num_frames", pa.int32()),
        ("frame_step", pa.int32()),
        ("logits", pa.list_(pa.float32(), 2)),
        ("mirror_logits", pa.list_(pa.float32(), 2)),
        ("probability", pa.float64()),
        ("error", pa.string()),
    ]
)
"""``frame_start``: of the window within the track. ``logits``: of REAL and FAKE; ``mirror_logits``: of the mirror
image, null where it wasn't asked for. ``probability``: of FAKE, the mean of both softmaxes, null where ``error`` says
why."""

Part = Literal["all", "held-out"]


@dataclass(frozen=True)
class ScoredModel:
    """One checkpoint that took part."""

    name: str
    """How rows and settings call it."""
    path: str
    """Where the checkpoint was."""
    sha256: str
    """Of its file."""
    architecture: str
    epoch: int
    train_prior: float
    """Share of FAKE among the tracks it was trained on."""
    mismatches: tuple[str, ...] = ()
    """Where the extraction it was trained on differs in what matters; overridden by the user."""


@dataclass(frozen=True)
class ScoresInfo:
    """What the scores are of."""

    store_fingerprint: str
    """Of the store's extraction settings."""
    store_contents: str
    """Digest of its tracks."""
    part: Part
    """held-out: only the videos that no checkpoint was trained on."""
    models: tuple[ScoredModel, ...]
    settings: dict[str, Any]
    """The section ``predict``, and the arithmetic it came to."""
    code: str
    """Digest of the code that scored."""
    videos_without_tracks: tuple[str, ...] = field(repr=False)
    """Videos asked for that no row is of: they failed, or show no face."""

    @property
    def model_names(self) -> list[str]:
        return [model.name for model in self.models]

    def names_scored_alike(self, other: ScoresInfo) -> list[str]:
        """Models whose rows among the scores of ``other`` are what they would be among these."""
        ours, theirs = (
            (info.store_fingerprint, info.store_contents, info.settings, info.code) for info in (self, other)
        )
        files = {(model.name, model.sha256) for model in other.models}
        return [m.name for m in self.models if (m.name, m.sha256) in files] if ours == theirs else []

    def to_json(self) -> bytes:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, text: bytes, source: str) -> ScoresInfo:
        """What :meth:`to_json` wrote.

        Raises:
            InputError: it is of another version, or not whole.
        """
        try:
            values = json.loads(text)
            found = values.pop("format_version")
            if found != FORMAT_VERSION:
                raise InputError(
                    f"{source} has scores of format version {found}, this code reads {FORMAT_VERSION}; "
                    "use the version that wrote them, or run inference.predict again"
                )
            models = [ScoredModel(**m | {"mismatches": tuple(m["mismatches"])}) for m in values["models"]]
            without = tuple(values["videos_without_tracks"])
            return cls(**values | {"models": tuple(models), "videos_without_tracks": without})
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{source}: its description of the scores is not whole ({error}); run inference.predict again"
            ) from error


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of windows, read."""

    rows: pa.Table
    """Columns of :data:`SCORES_SCHEMA`."""
    info: ScoresInfo

    @cached_property
    def video_ids(self) -> list[str]:
        """All videos asked for, sorted."""
        return sorted({*self.rows["video_id"].unique().to_pylist(), *self.info.videos_without_tracks})

    def fallback(self, settings: AggregateSettings) -> float:
        """Score of a video that no model has scored: a number, or the mean of what the models were trained on."""
        if settings.fallback == "prior":
            return float(np.mean([model.train_prior for model in self.info.models]))
        return settings.fallback

    def combine(self, settings: AggregateSettings) -> VideoScores:
        """Scores of :attr:`video_ids`.

        Raises:
            InputError: a weight is for a model that isn't there.
        """
        names = self.info.model_names
        check_weights(settings, names)
        good = self.rows.filter(pc.is_valid(self.rows["probability"]))
        windows = WindowScores(
            video=_numbers(good["video_id"], self.video_ids),
            model=_numbers(good["model"], names),
            track=good["track_id"].to_numpy().astype(np.int64),
            probability=good["probability"].to_numpy(),
        )
        by_model = score_videos(windows, len(self.video_ids), len(names), settings.windows, settings.tracks)
        return combine(
            by_model,
            models=settings.models,
            weights=[settings.weights.get(name, 1.0) for name in names],
            temperature=settings.temperature,
            fallback=self.fallback(settings),
        )


def check_weights(settings: AggregateSettings, names: Sequence[str]) -> None:
    """See that weights are of models that take part.

    Raises:
        InputError: one is for a model that isn't there.
    """
    if unknown := sorted(set(settings.weights) - set(names)):
        raise InputError(
            f"aggregate.weights names {', '.join(unknown)}, but these are scores of {', '.join(names)}; "
            f"name models as these are{did_you_mean(unknown[0], names)}"
        )


def _numbers(column: pa.ChunkedArray, values: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(pc.index_in(column, pa.array(values, pa.string())).to_numpy(), np.int64)


def store_contents(store: FaceStore) -> str:
    """Sixteen hex digits that change with any track, label or group of a store; it may be without any."""
    return contents_digest(sort_tracks(store.read_table("tracks", COLUMNS)))


def write_scores(path: str | Path, parts: Iterable[pa.Table], info: ScoresInfo) -> None:
    """Write all rows, in order of video, track, model and window, whole or not at all.

    Raises:
        WriteError: the disk is full, or gone.
    """
    rows = pa.concat_tables([SCORES_SCHEMA.empty_table(), *parts])
    rows = rows.sort_by([(name, "ascending") for name in ("video_id", "track_id", "model", "window")])
    buffer = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({METADATA_KEY: info.to_json()}), buffer)
    write_file(StoreFiles(str(Path(path).parent)), Path(path).name, buffer.getvalue().to_pybytes())


def read_scores(path: str | Path) -> Scores:
    """Scores with what they are of.

    Raises:
        InputError: there is no such file, or it isn't one of scores.
    """
    remedy = "give a file that python -m inference.predict wrote"
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; {remedy}")
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} can't be read: there is no such file; {remedy}{did_you_mean_path(str(path))}"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is no file of scores ({error}); {remedy}") from error
    metadata = rows.schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise InputError(f"{path} is a table, but not one of scores; {remedy}")
    info = ScoresInfo.from_json(metadata[METADATA_KEY], str(path))
    try:
        rows = rows.select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)
    except (KeyError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{path} lacks columns of scores ({error}); {remedy}") from error
    return Scores(rows, info)
