"""Stores of pairs and failures for reports, scores of them, and pages as a browser would read them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report import make_report
from pipeline.reporting.score_table import COLUMNS, METADATA_KEY
from pipeline.schema import face_label
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL, Status, TracksFrom, UInt8Array
from tests.stores import SETTINGS, Video, make_video

MIN_CHANGE = SETTINGS.pair.min_change
VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})
HOSTILE = "<script>alert(1)</script>/\"'><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}</style>.mp4"


# Stores


def original(video_id: str, length: int = 12, frames: UInt8Array | None = None, faces: int = 1) -> Video:
    pair_ids = [f"{video_id}#{face}.0" for face in range(faces)]
    return make_video(
        video_id, [length] * faces, label=REAL, frames=frames, frame_start=100, pair_ids=pair_ids,
        face_labels=[REAL] * faces, group_id=f"group of {video_id}",
    )  # fmt: skip


def fake(
    video_id: str,
    of: Video,
    scores: Sequence[float | None],
    length: int = 12,
    frames: UInt8Array | None = None,
    frame_start: int = 100,
) -> Video:
    """With its original's tracks, and such a score in all frames of each."""
    ref = of.outcome.ref
    made = make_video(
        video_id, [length] * len(scores), label=FAKE, source_id=ref.video_id, frames=frames, frame_start=frame_start,
        pair_ids=[f"{ref.video_id}#{face}.0" for face in range(len(scores))], group_id=ref.group_id,
    )  # fmt: skip
    clips = tuple(
        (
            replace(
                stored, change_score=score, face_label=face_label(FAKE, score, MIN_CHANGE),
                change_scores=np.full(length, np.nan if score is None else score, np.float32),
            ),
            pixels,
        )
        for (stored, pixels), score in zip(made.clips, scores, strict=True)
    )  # fmt: skip
    return Video(with_outcome(made, tracks_from="original").outcome, clips)


def with_outcome(
    video: Video,
    tracks_from: TracksFrom | None = None,
    note: str | None = None,
    status: Status = "ok",
    message: str | None = None,
) -> Video:
    outcome = replace(video.outcome, tracks_from=tracks_from, pairing_note=note, status=status, message=message)
    return replace(video, outcome=replace(outcome, error_type="SomeError" if message else None))


def alone(video_id: str, source_id: str, note: str) -> Video:
    """A fake with tracks of its own."""
    return with_outcome(make_video(video_id, [5], label=FAKE, source_id=source_id), "own", note)


def broken(video_id: str, message: str, status: Status = "decode_error") -> Video:
    return with_outcome(make_video(video_id), status=status, message=message)


# Reading a page


@dataclass
class Page(HTMLParser):
    """What a browser would make of it, as far as it matters here; unbalanced tags are an error."""

    text: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open_tags, f"<{tag}/> outside a drawing"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags, f"</{tag}> closes nothing"
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def section(self, *names: str) -> Page:
        """Some of its sections, which don't hold each other."""
        found = [re.search(rf'<section id="{name}".*?</section>', self.text, re.DOTALL) for name in names]
        return Page("".join(match[0] for match in found if match is not None))

    @property
    def plain(self) -> str:
        """Its text, with white space as a browser shows it."""
        return " ".join("".join(self.said).split())


def pixels(uri: str | None) -> UInt8Array:
    """The picture of a data URI, uint8 (H, W, 3) RGB."""
    assert uri is not None
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[..., ::-1], np.uint8)


def page_of(store: FaceStore, num_pairs: int = 12, **options: Any) -> Page:
    return Page(make_report(FaceStore.open(store.url), num_pairs, **options))


# Scores


def score_rows(
    store: FaceStore, probabilities: Mapping[str, float | None], models: Sequence[str] = ("mc3_18",), windows: int = 1
) -> list[dict[str, Any]]:
    """Rows of all tracks of some videos, the same probability in each; None: an error."""
    tracks = store.read_table("tracks", ["video_id", "track_id"]).to_pylist()
    return [
        {
            **track, "model": model, "window": window, "frame_start": 4 * window, "num_frames": 4, "frame_step": 1,
            "probability": probabilities[track["video_id"]],
            "error": "logits aren't finite" if probabilities[track["video_id"]] is None else None,
        }
        for track in tracks if track["video_id"] in probabilities for model in models for window in range(windows)
    ]  # fmt: skip


def write_scores(path: Path, store: FaceStore, rows: Sequence[Mapping[str, Any]], **about: Any) -> str:
    """A file of scores as it is documented; what it says of itself can be changed."""
    models = sorted({str(row["model"]) for row in rows})
    described = {
        "format_version": 1, "store_fingerprint": store.fingerprint, "part": "all", "videos_without_tracks": [],
        "models": [{"name": name, "architecture": "mc3_18", "epoch": 3, "mismatches": []} for name in models],
    }  # fmt: skip
    metadata = {METADATA_KEY: json.dumps(described | about).encode()}
    pq.write_table(pa.Table.from_pylist([*rows], COLUMNS.with_metadata(metadata)), path)
    return str(path)
