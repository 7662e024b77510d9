"""Scores beside what the store knows of their videos: labels, groups, what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.aggregate import Float64Array, clip
from inference.calibration import apply_temperature
from inference.config import AggregateSettings
from inference.metrics import log_losses
from inference.scores import Scores, ScoresInfo, store_contents
from pipeline.cli import listed
from pipeline.errors import InputError
from pipeline.store import FaceStore
from pipeline.types import BoolArray
from training.dataset import Int64Array
from training.split import group_of

VIDEO_COLUMNS = ("video_id", "label", "group_id", "status", "num_tracks", "message")


@dataclass(frozen=True, eq=False)
class LabelledVideos:
    """The V videos that are scored and labelled, by name, and what M models and their ensemble said of them."""

    table: pa.Table
    """Columns :data:`VIDEO_COLUMNS`, V rows."""
    by_model: Float64Array
    """float64 (V, M), not clipped; NaN where a model has scored no track of a video."""
    at_temperature_1: Float64Array
    """float64 (V,), the ensemble before it is rescaled; not clipped."""
    is_fallback: BoolArray
    """bool (V,): no model has scored it."""
    fallback: float
    """Score of those."""
    settings: AggregateSettings
    num_unlabelled: int
    """Videos that were scored, too, and have no label."""

    def __len__(self) -> int:
        return len(self.is_fallback)

    @cached_property
    def video_ids(self) -> list[str]:
        return list(self.table["video_id"].to_pylist())

    @cached_property
    def labels(self) -> Int64Array:
        """int64 (V,), 0 REAL, 1 FAKE."""
        return np.asarray(self.table["label"].to_numpy(), np.int64)

    @cached_property
    def groups(self) -> list[str]:
        """A video without one is a group of its own."""
        return group_of(self.table)

    @cached_property
    def folders(self) -> list[str]:
        """Of the videos, POSIX; ``.`` is the root."""
        return [str(PurePosixPath(video_id).parent) for video_id in self.video_ids]

    @cached_property
    def probability(self) -> Float64Array:
        """float64 (V,), the ensemble; not clipped."""
        return apply_temperature(self.at_temperature_1, self.is_fallback, self.settings.temperature)

    @cached_property
    def submitted(self) -> Float64Array:
        """float64 (V,), the ensemble, clipped."""
        return clip(self.probability, self.settings.clip)

    @cached_property
    def losses(self) -> Float64Array:
        """float64 (V,), what each video costs as submitted."""
        return log_losses(self.labels, self.submitted)

    def of_model(self, number: int) -> Float64Array:
        """float64 (V,), one model by itself, the fallback where it has scored no track; not clipped, not rescaled."""
        probabilities = self.by_model[:, number]
        return np.where(np.isnan(probabilities), self.fallback, probabilities)


def check_same_store(info: ScoresInfo, store: FaceStore) -> None:
    """See that scores are of the clips that are in a store now.

    Raises:
        InputError: they are of another store, or it has changed.
    """
    if info.store_fingerprint != store.fingerprint:
        raise InputError(
            f"these are scores of a store with the fingerprint {info.store_fingerprint}, but {store.url} has "
            f"{store.fingerprint}: it was extracted with other settings; give the store that was scored, "
            "or run inference.predict on this one"
        )
    if info.store_contents != (contents := store_contents(store)):
        raise InputError(
            f"these are scores of a store with the contents {info.store_contents}, but those of {store.url} are "
            f"{contents}: it is another one, or the store has changed since: run inference.predict again"
        )


def read_labelled(scores: Scores, store: FaceStore, settings: AggregateSettings) -> LabelledVideos:
    """The scored videos that have a label.

    Raises:
        InputError: the scores aren't of this store as it is now, no video has a label, or a weight names no model.
    """
    check_same_store(scores.info, store)
    videos = store.read_table("videos", VIDEO_COLUMNS)
    if scores.info.part == "all" and (new := set(videos["video_id"].to_pylist()) - set(scores.video_ids)):
        raise InputError(
            f"{store.url} has {len(new)} videos that these scores know nothing of ({listed(sorted(new))}); "
            "run inference.predict again"
        )
    rows = pc.index_in(pa.array(scores.video_ids, pa.string()), videos["video_id"].combine_chunks())
    if rows.null_count:
        unknown = [name for name, row in zip(scores.video_ids, rows.to_pylist(), strict=True) if row is None]
        raise InputError(
            f"of the {len(rows)} scored videos {len(unknown)} are not in {store.url} ({listed(unknown)}); "
            "run inference.predict again"
        )
    videos = videos.take(rows)
    has_label = np.array([label is not None for label in videos["label"].to_pylist()], bool)
    if not has_label.any():
        raise InputError(
            f"of the {len(rows)} scored videos none has a label in {store.url}; extract again with --labels, "
            "or from a folder that has labels"
        )
    found = scores.combine(settings.model_copy(update={"temperature": 1.0}))
    return LabelledVideos(
        table=videos.filter(pa.array(has_label)),
        by_model=found.by_model[has_label],
        at_temperature_1=found.probability[has_label],
        is_fallback=found.is_fallback[has_label],
        fallback=scores.fallback(settings),
        settings=settings,
        num_unlabelled=int((~has_label).sum()),
    )
