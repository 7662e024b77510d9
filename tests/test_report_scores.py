"""Scores in the report: plain means, the worst first, and only of the store that they are of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from inference.scores import SCORES_SCHEMA
from pipeline.report import TRACK_COLUMNS, VIDEO_COLUMNS, main
from pipeline.reporting.clip_reader import ClipReader
from pipeline.reporting.score_figures import CLIP, figures, log_losses
from pipeline.reporting.score_table import COLUMNS, ScoreTable, read_score_table, video_means
from pipeline.reporting.scores_view import WORST_SHOWN, ScoresView, scores_view
from pipeline.store import FaceStore
from pipeline.types import FAKE
from tests.reports import Page, fake, original, page_of, score_rows, write_scores
from tests.stores import make_video, shard_files, write_store


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    """Two originals, one of them with two faces, two fakes, two videos without a label, one without a face."""
    a, b = original("a.mp4", faces=2), original("b.mp4")
    return write_store(
        tmp_path / "store",
        [
            [a, fake("a1.mp4", a, [9.0, 0.5]), b, fake("b1.mp4", b, [7.0])],
            [make_video("u.mp4", [9]), make_video("v.mp4", [9]), make_video("none.mp4")],
        ],
    )


def read(path: str, store: FaceStore) -> ScoreTable:
    return read_score_table(path, store, store.videos["video_id"])


def view(path: str, store: FaceStore) -> ScoresView:
    videos, tracks = store.read_table("videos", VIDEO_COLUMNS), store.read_table("tracks", TRACK_COLUMNS)
    return scores_view(ClipReader(store), videos, tracks, read(path, store))


SAID = {"a.mp4": 0.1, "a1.mp4": 0.05, "b.mp4": 0.7, "b1.mp4": 0.9, "u.mp4": 0.95, "v.mp4": 0.2}


def test_the_columns_read_are_those_that_scoring_writes() -> None:
    for field in COLUMNS:
        assert SCORES_SCHEMA.field(field.name).type == field.type


def test_windows_tracks_and_models_are_averaged_one_after_the_other(store: FaceStore, tmp_path: Path) -> None:
    """Track 0 has two windows of model x, track 1 one; model y has seen track 1 alone."""
    said = [("x", 0, 0, 0.0), ("x", 0, 1, 0.4), ("x", 1, 0, 0.6), ("y", 1, 0, 0.8), ("y", 0, 0, None)]
    rows = [
        {
            "video_id": "a.mp4", "track_id": track, "model": model, "window": window, "frame_start": 0, "num_frames": 4,
            "frame_step": 1, "probability": probability, "error": None if probability is not None else "no",
        }
        for model, track, window, probability in said
    ]  # fmt: skip
    means = video_means(read(write_scores(tmp_path / "s.parquet", store, rows), store))
    assert means.video_ids.to_pylist() == ["a.mp4"]
    np.testing.assert_allclose(means.by_model, [[(0.2 + 0.6) / 2, 0.8]])
    np.testing.assert_allclose(means.probability, [0.6])


def test_the_worst_come_first_with_their_film_and_lines(store: FaceStore, tmp_path: Path) -> None:
    found = view(write_scores(tmp_path / "s.parquet", store, score_rows(store, SAID, ["x", "y"], 2)), store)
    assert [video.video_id for video in found.worst] == ["a1.mp4", "b.mp4", "a.mp4", "b1.mp4"]
    worst = found.worst[0]
    assert worst.log_loss == pytest.approx(-math.log(0.05))
    assert dict(worst.by_model) == pytest.approx({"x": 0.05, "y": 0.05})
    assert worst.film is not None
    assert worst.film.picture is not None
    assert worst.chart is not None
    assert [len(series.windows) for series in worst.chart.series] == [2, 2]
    assert worst.num_others == 1
    assert [video.video_id for video in found.fakes] == ["u.mp4"]
    assert [video.video_id for video in found.reals] == ["v.mp4"]
    assert (found.num_videos, found.num_labelled, found.num_without_score) == (6, 4, 1)


def test_the_track_shown_is_the_one_that_is_most_wrong(store: FaceStore, tmp_path: Path) -> None:
    rows = score_rows(store, SAID)
    for row in rows:
        if row["video_id"] in {"a.mp4", "a1.mp4"}:
            row["probability"] = 0.2 if row["track_id"] == 0 else 0.8
    found = {video.video_id: video for video in view(write_scores(tmp_path / "s.parquet", store, rows), store).worst}
    assert (found["a.mp4"].face_id, round(found["a.mp4"].track_probability, 6)) == (1, 0.8)
    assert (found["a1.mp4"].face_id, round(found["a1.mp4"].track_probability, 6)) == (0, 0.2)


def test_figures_are_of_labelled_videos(store: FaceStore, tmp_path: Path) -> None:
    found = view(write_scores(tmp_path / "s.parquet", store, score_rows(store, SAID, ["x", "y"])), store)
    together = found.together.figures
    assert together is not None
    losses = [-math.log(p) for p in (0.9, 0.05, 0.3, 0.9)]
    assert together.log_loss == pytest.approx(sum(losses) / 4)
    assert (together.num_videos, together.accuracy, together.auc) == (4, 0.5, 0.5)
    for model in found.models:
        assert model.figures is not None
        assert model.figures.log_loss == pytest.approx(together.log_loss)


def test_probabilities_are_clipped_and_one_class_has_no_auc() -> None:
    labels, probabilities = np.array([1.0, 1.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(log_losses(labels, probabilities), [-math.log(CLIP), -math.log(1 - CLIP)])
    found = figures(labels, probabilities)
    assert found is not None
    assert found.auc is None
    assert figures(np.empty(0), np.empty(0)) is None


def test_errors_are_counted_and_shown(store: FaceStore, tmp_path: Path) -> None:
    rows = score_rows(store, SAID | {"a.mp4": None})
    page = page_of(store, scores=write_scores(tmp_path / "s.parquet", store, rows))
    plain = page.section("scores").plain
    assert "8 windows of 5 videos with a score, 3 of them labelled" in plain
    assert "2 windows couldn't be scored." in plain
    assert "1 logits aren't finite a.mp4" in plain
    assert "2 of 8 windows (25.0 %) have no score." in page.section("overview").plain


def test_the_page_says_how_scores_were_averaged(store: FaceStore, tmp_path: Path) -> None:
    path = write_scores(tmp_path / "s.parquet", store, score_rows(store, SAID, ["x", "y"]), part="held-out")
    page = page_of(store, scores=path).section("scores")
    for expected in (
        "only videos that no model was trained on",
        "plain mean: of the windows of each track, then of its tracks, then of the models",
        "4 labelled videos: log loss 1.103, accuracy 0.500, AUC 0.500",
        "Expected calibration error",
        "Worst videos",
        "Without a label, surest fakes",
    ):
        assert expected in page.plain
    drawings = [str(drawing.get("aria-label")) for drawing in page.all("svg")]
    assert sum(said.startswith("Reliability diagram of 4 videos") for said in drawings) == 1
    assert sum(said.startswith("Probability of FAKE over the frames") for said in drawings) == 6
    assert len(page.all("img")) == 6


def test_without_labels_there_are_no_figures(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [[make_video("u.mp4", [9])]])
    page = page_of(store, scores=write_scores(tmp_path / "s.parquet", store, score_rows(store, {"u.mp4": 0.5})))
    plain = page.section("scores").plain
    assert "none labelled" in plain
    assert "Worst videos" not in plain
    assert "Calibration" not in plain


def test_scores_without_a_single_good_row_have_a_page(store: FaceStore, tmp_path: Path) -> None:
    rows = score_rows(store, dict.fromkeys(SAID, None))
    plain = page_of(store, scores=write_scores(tmp_path / "s.parquet", store, rows)).section("scores").plain
    assert "8 windows of 0 videos with a score" in plain
    none = write_scores(tmp_path / "empty.parquet", store, [])
    assert "0 windows of 0 videos with a score" in page_of(store, scores=none).section("scores").plain


def test_a_scored_clip_that_cannot_be_read_has_its_lines(store: FaceStore, tmp_path: Path) -> None:
    for shard in shard_files(store.url):
        shard.write_bytes(shard.read_bytes()[:20])
    page = page_of(store, scores=write_scores(tmp_path / "s.parquet", store, score_rows(store, SAID)))
    assert page.all("img") == []
    assert page.section("scores").plain.count("can't be read") == 6
    assert len(page.section("scores").all("article")) == 6


def test_the_worst_are_bounded(tmp_path: Path) -> None:
    videos = [make_video(f"{i:02}.mp4", [4], label=FAKE) for i in range(WORST_SHOWN + 5)]
    store = write_store(tmp_path / "store", [videos])
    said = {f"{i:02}.mp4": 0.3 for i in range(WORST_SHOWN + 5)}
    found = view(write_scores(tmp_path / "s.parquet", store, score_rows(store, said)), store)
    # All cost the same, so the first by name.
    assert [video.video_id for video in found.worst] == [f"{i:02}.mp4" for i in range(WORST_SHOWN)]


# What can't be used


def no_file(path: Path, _store: FaceStore) -> None:
    assert not path.exists()


def a_folder(path: Path, _store: FaceStore) -> None:
    path.mkdir()


def no_parquet(path: Path, _store: FaceStore) -> None:
    path.write_bytes(b"video_id,probability\n")


def another_table(path: Path, _store: FaceStore) -> None:
    pq.write_table(pa.table({"video_id": ["a.mp4"]}), path)


def changed(**about: Any) -> Callable[[Path, FaceStore], None]:
    def write(path: Path, store: FaceStore) -> None:
        write_scores(path, store, score_rows(store, SAID), **about)

    return write


def with_rows(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path, FaceStore], None]:
    def write(path: Path, store: FaceStore) -> None:
        rows = score_rows(store, SAID)
        change(rows)
        write_scores(path, store, rows)

    return write


def lacking_a_column(path: Path, store: FaceStore) -> None:
    write_scores(path, store, score_rows(store, SAID))
    pq.write_table(pq.read_table(path).drop_columns(["model"]), path)


def of_another_type(path: Path, store: FaceStore) -> None:
    write_scores(path, store, score_rows(store, SAID))
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(0, "video_id", pa.array([[1]] * len(rows))), path)


def not_json(path: Path, store: FaceStore) -> None:
    write_scores(path, store, score_rows(store, SAID))
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"face_clip_scores": b"{"}), path)


def set_to(column: str, value: object) -> Callable[[Sequence[dict[str, Any]]], object]:
    return lambda rows: rows[0].update({column: value})


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (no_file, "there is no such file"),
        (a_folder, "is a folder"),
        (no_parquet, "is no file of scores"),
        (another_table, "is a table, but not one of scores"),
        (lacking_a_column, "lacks the columns model"),
        (of_another_type, "is no file of scores"),
        (not_json, "is not whole"),
        (changed(format_version=2), "format version 2, this code reads 1"),
        (changed(store_fingerprint="0123"), "it was extracted with other settings"),
        (with_rows(set_to("video_id", "other.mp4")), "such as 'other.mp4': they are of another store"),
        (with_rows(set_to("probability", 1.5)), "aren't between 0 and 1"),
        (with_rows(set_to("probability", math.nan)), "aren't between 0 and 1"),
        (with_rows(set_to("model", None)), "has no model in 1 rows"),
    ],
)
def test_what_is_no_scores_of_this_store_is_refused(
    store: FaceStore, tmp_path: Path, write: Callable[[Path, FaceStore], None], said: str
) -> None:
    path = tmp_path / "scores.parquet"
    write(path, store)
    ran = CliRunner().invoke(main, [store.url, str(tmp_path / "out.html"), "--scores", str(path)])
    assert ran.exit_code == 2
    assert said in " ".join(ran.output.split())
    assert "Traceback" not in ran.output
    assert not (tmp_path / "out.html").exists()


def test_the_command_takes_scores(store: FaceStore, tmp_path: Path) -> None:
    path = write_scores(tmp_path / "scores.parquet", store, score_rows(store, SAID))
    out = tmp_path / "out.html"
    ran = CliRunner().invoke(main, [store.url, str(out), "--scores", path, "--sheet", "2", "--pairs", "0"])
    assert (ran.exit_code, ran.output) == (0, f"wrote {str(out)!r}\n")
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.section("sheet").all("img")) == 2
    assert len(page.section("scores").all("article")) == 6


def test_help_has_an_example_with_scores() -> None:
    said = CliRunner().invoke(main, ["--help"]).output
    assert "--scores results/validation/scores.parquet" in said
    assert "python -m pipeline.report data/store data/report.html" in said
