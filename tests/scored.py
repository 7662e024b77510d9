"""Scores of a store without any model: probabilities that a test gives or that follow from the window alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from inference.scores import SCORES_SCHEMA, ScoredModel, ScoresInfo, store_contents
from inference.scores import write_scores as write_rows
from pipeline.store import FaceStore
from pipeline.types import FAKE

WINDOW_FRAMES = 8
Probability = Callable[[Mapping[str, Any], str, int], float]
"""Of FAKE, given a row of the store's tracks, the name of a model and the number of a window."""


def plausible(track: Mapping[str, Any], _model: str, window: int) -> float:
    """Mostly right, less so in every later window."""
    sure = 0.9 - 0.1 * (window % 4)
    return sure if track["label"] == FAKE else 1 - sure


def write_scores(
    path: Path,
    store: FaceStore,
    models: Sequence[str] = ("first", "second"),
    probability: Probability = plausible,
) -> None:
    """``scores.parquet`` of all tracks of a store, in windows of eight frames side by side.

    Args:
        path: of the file.
        store: whose tracks are scored; its frames aren't read.
        models: their names.
        probability: what they say; NaN: the window has an error instead.
    """
    rows = []
    tracks = store.tracks.to_pylist()
    for track in tracks:
        length = track["row_stop"] - track["row_start"]
        for model in models:
            for window, start in enumerate(range(0, max(length - WINDOW_FRAMES, 0) + 1, WINDOW_FRAMES)):
                p = probability(track, model, window)
                failed = math.isnan(p)
                rows.append(
                    {
                        "video_id": track["video_id"], "track_id": track["track_id"], "model": model, "window": window,
                        "frame_start": start, "num_frames": min(WINDOW_FRAMES, length), "frame_step": 1,
                        "logits": None if failed else [0.0, math.log(p / (1 - p))], "mirror_logits": None,
                        "probability": None if failed else p, "error": "the logits aren't finite" if failed else None,
                    }
                )  # fmt: skip
    scored = {track["video_id"] for track in tracks}
    info = ScoresInfo(
        store_fingerprint=store.fingerprint,
        store_contents=store_contents(store),
        part="all",
        models=tuple(ScoredModel(name, f"runs/{name}", "0" * 64, "mc3_18", 3, 0.5) for name in models),
        settings={},
        code="0" * 16,
        videos_without_tracks=tuple(sorted(set(store.videos["video_id"].to_pylist()) - scored)),
    )
    write_rows(path, [pa.Table.from_pylist(rows, SCORES_SCHEMA)], info)
