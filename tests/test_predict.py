"""Scoring as its users meet it: what it writes, how it goes on after anything, and what it says about bad input."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import yaml
from click.testing import CliRunner, Result
from torch import Tensor, nn

from inference.checkpoints import find_checkpoints, member_names, open_members
from inference.config import AggregateSettings, PredictSettings
from inference.predict import main, predict, submit
from inference.scores import METADATA_KEY, SCORES_SCHEMA, Scores, read_scores
from pipeline.config import CropSettings, Settings, StoreSettings
from pipeline.errors import InputError, WriteError
from pipeline.files import StoreFiles
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from tests.stores import make_video, set_value, shard_files, write_store
from training import models
from training.checkpoint import HEADER_KEY, CheckpointInfo, save_checkpoint
from training.dataset import contents_digest, labelled, read_tracks
from training.models import build_model, model_spec
from training.split import group_of, split_tracks

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PROJECT = Path(__file__).resolve().parents[1]
SIDE = 16
MADE_WITH = Settings(crop=CropSettings(size=SIDE), store=StoreSettings(chunk_frames=4, shard_frames=32))
TRAINED_ON = {"fingerprint": MADE_WITH.fingerprint(), "settings": MADE_WITH.results_settings()}
SPLIT = {"validation_fraction": 0.5, "validation_folders": [], "split_seed": 0}
SPEC = models.ModelSpec("left", SIDE, 8, 1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), {})


class LeftHalf(nn.Module):
    """The log-odds of FAKE are ``gain`` times how bright the left half is, from 0 to 1, less a half."""

    calls: ClassVar[Counter[str]] = Counter()

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_classes - 1))

    def forward(self, clips: Tensor) -> Tensor:
        self.calls["clips"] += len(clips)
        # In float64: sums of so many equal numbers round.
        left = clips[..., : clips.shape[-1] // 2].double().mean((1, 2, 3, 4))
        fake = self.gain * (left[:, None] - 0.5)
        return torch.cat([torch.zeros_like(fake), fake], dim=1)


@pytest.fixture(autouse=True)
def left_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(models._MODELS, "left", models._Model(SPEC, LeftHalf, "fc.", {}))
    LeftHalf.calls.clear()
    yield
    LeftHalf.calls.clear()


def halves(left: int, right: int, length: int) -> UInt8Array:
    frames = np.full((length, SIDE, SIDE, 3), right, np.uint8)
    frames[:, :, : SIDE // 2] = left
    return frames


def expected(gain: float, left: int, right: int, mirror: bool = True) -> float:
    """Probability that a model of that gain has for :func:`halves`."""
    odds = [gain * (side / 255 - 0.5) for side in ((left, right) if mirror else (left,))]
    return float(np.mean([1 / (1 + math.exp(-x)) for x in odds]))


VIDEOS = {
    # name: (label, group, [(left, right, length), ...] a track)
    "a/real.mp4": (0, "g1", [(20, 60, 12)]),
    "a/fake.mp4": (1, "g1", [(250, 200, 12), (10, 30, 9)]),
    "b/real.mp4": (0, "g2", [(0, 100, 12)]),
    "b/fake.mp4": (1, "g2", [(255, 255, 20)]),
    "b/nobody.mp4": (1, "g2", []),
    "c/unknown.mp4": (None, "g3", [(128, 90, 12)]),
}


def make_store(path: Path, made_with: Settings = MADE_WITH) -> FaceStore:
    videos = []
    for name, (label, group, tracks) in VIDEOS.items():
        of_video = [make_video(name, [t[2]], label=label, group_id=group, frames=halves(*t)) for t in tracks]
        clips = [
            (replace(stored, track_id=i), frames)
            for i, video in enumerate(of_video)
            for stored, frames in video.clips
        ]  # fmt: skip
        whole = make_video(name, [], label=label, group_id=group)
        outcome = replace(whole.outcome, status="ok" if clips else "no_face", num_tracks=len(clips))
        videos.append(replace(whole, outcome=outcome, clips=tuple(clips)))
    return write_store(path, [videos[:3], videos[3:]], made_with)


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    return make_store(tmp_path / "store")


def checkpoint(folder: Path, gain: float = 4.0, **changes: Any) -> Path:
    """``folder/best.safetensors``, of a model with that gain."""
    info = CheckpointInfo(
        spec=SPEC, num_classes=2, train_settings=SPLIT, store=TRAINED_ON, train_prior=0.8, epoch=3, metrics={},
        versions={},
    )  # fmt: skip
    model = LeftHalf(2)
    nn.init.constant_(model.gain, gain)
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(StoreFiles(str(folder)), "best.safetensors", model.state_dict(), replace(info, **changes))
    return folder / "best.safetensors"


def score(store: FaceStore, out: Path, *checkpoints: Path, **options: Any) -> Scores:
    scores = predict(store.url, open_members(checkpoints), out, options.pop("settings", PredictSettings()), **options)
    assert scores is not None
    return scores


def by_key(scores: Scores) -> dict[tuple[str, int, str, int], dict[str, Any]]:
    rows = scores.rows.to_pylist()
    found = {(row["video_id"], row["track_id"], row["model"], row["window"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


# What it writes


def test_every_track_has_a_row_for_every_model(store: FaceStore, tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / "runs" / name, gain) for name, gain in (("strong", 8.0), ("weak", 2.0))]
    scores = score(store, tmp_path / "scores.parquet", *paths)
    rows = by_key(scores)
    tracks = [(name, i, track) for name, (_, _, of) in VIDEOS.items() for i, track in enumerate(of)]
    assert set(rows) == {(name, i, model, 0) for name, i, _ in tracks for model in ("strong", "weak")}
    for name, i, (left, right, length) in tracks:
        for model, gain in (("strong", 8.0), ("weak", 2.0)):
            row = rows[name, i, model, 0]
            assert row["probability"] == pytest.approx(expected(gain, left, right), abs=1e-6)
            assert row["logits"] == pytest.approx([0, gain * (left / 255 - 0.5)], abs=1e-5)
            assert row["mirror_logits"] == pytest.approx([0, gain * (right / 255 - 0.5)], abs=1e-5)
            assert (row["frame_start"], row["num_frames"], row["error"]) == (0, max(8, length), None)
    read = read_scores(tmp_path / "scores.parquet")
    assert read.rows.equals(
        scores.rows.sort_by([(k, "ascending") for k in ("video_id", "track_id", "model", "window")])
    )
    assert read.info == scores.info
    assert read.info.videos_without_tracks == ("b/nobody.mp4",)
    assert read.info.model_names == ["strong", "weak"]
    assert not (tmp_path / "scores.parquet.partial").exists()


def test_the_submission_is_the_seeds_rule(store: FaceStore, tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / "runs" / name, gain) for name, gain in (("strong", 800.0), ("weak", 2.0))]
    scores = score(store, tmp_path / "scores.parquet", *paths)
    submit(scores, AggregateSettings(), tmp_path / "submission.csv")
    with (tmp_path / "submission.csv").open(newline="") as file:
        found = {row["filename"]: float(row["label"]) for row in csv.DictReader(file)}
    assert list(found) == sorted(VIDEOS)
    for name, (_, _, tracks) in VIDEOS.items():
        of_models = [
            np.mean([expected(gain, left, right) for left, right, _ in tracks]) for gain in (800.0, 2.0) if tracks
        ]
        assert found[name] == pytest.approx(np.clip(np.mean(of_models if of_models else 0.5), 0.001, 0.999), abs=1e-6)


def test_without_mirror_images_there_is_one_pass(store: FaceStore, tmp_path: Path) -> None:
    scores = score(store, tmp_path / "s.parquet", checkpoint(tmp_path / "run"), settings=PredictSettings(mirror=False))
    rows = by_key(scores)
    assert rows["a/fake.mp4", 0, "run", 0]["probability"] == pytest.approx(expected(4, 250, 200, mirror=False))
    assert all(row["mirror_logits"] is None for row in rows.values())
    assert LeftHalf.calls["clips"] == 6


def test_windows_have_a_row_each(store: FaceStore, tmp_path: Path) -> None:
    settings = PredictSettings(windows=3)
    rows = by_key(score(store, tmp_path / "s.parquet", checkpoint(tmp_path / "run"), settings=settings))
    assert [rows["b/fake.mp4", 0, "run", w]["frame_start"] for w in range(3)] == [2, 6, 10]
    assert {row["num_frames"] for row in rows.values()} == {8}


@pytest.mark.parametrize("batch_megapixels", [1e-6, 1e-2, 16.0])
def test_the_size_of_batches_changes_no_score(store: FaceStore, tmp_path: Path, batch_megapixels: float) -> None:
    path = checkpoint(tmp_path / "run")
    whole = score(store, tmp_path / "whole.parquet", path)
    found = score(store, tmp_path / "s.parquet", path, batch_megapixels=batch_megapixels)
    for key, row in by_key(whole).items():
        assert by_key(found)[key]["probability"] == pytest.approx(row["probability"], abs=1e-7)


def test_reading_by_other_processes_changes_nothing(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    score(store, tmp_path / "a.parquet", path)
    score(store, tmp_path / "b.parquet", path, loader_workers=1)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


# Going on


class Killed(BaseException):
    """What nothing in the code expects."""


def killer(after_batches: int) -> Callable[[], bool]:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == after_batches:
            raise Killed
        return False

    return should_stop


SMALL_BATCHES = {"batch_megapixels": 1e-6, "seconds_a_part": 0.0}


@pytest.mark.parametrize("after_batches", [1, 3, 6, 8, 12])
def test_a_scoring_that_was_killed_goes_on_and_does_nothing_twice(
    store: FaceStore, tmp_path: Path, after_batches: int
) -> None:
    paths = [checkpoint(tmp_path / name, gain) for name, gain in (("strong", 8.0), ("weak", 2.0))]
    score(store, tmp_path / "whole.parquet", *paths)
    LeftHalf.calls.clear()
    with pytest.raises(Killed):
        score(store, tmp_path / "s.parquet", *paths, **SMALL_BATCHES, should_stop=killer(after_batches))
    assert LeftHalf.calls["clips"] == 2 * after_batches
    assert not (tmp_path / "s.parquet").exists()
    score(store, tmp_path / "s.parquet", *paths, **SMALL_BATCHES)
    # The batch that was scored when the kill came is lost; each of 12 windows has two passes.
    assert LeftHalf.calls["clips"] == 2 * 12 + 2
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_interrupt_loses_nothing(store: FaceStore, tmp_path: Path) -> None:
    members = open_members([checkpoint(tmp_path / "run")])
    out, settings = tmp_path / "s.parquet", PredictSettings()
    assert predict(store.url, members, out, settings, batch_megapixels=1e-6, should_stop=lambda: True) is None
    assert predict(store.url, members, out, settings, batch_megapixels=1e-6) is not None
    assert LeftHalf.calls["clips"] == 2 * 6


def test_a_damaged_part_is_done_again(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    with pytest.raises(Killed):
        score(store, tmp_path / "s.parquet", path, **SMALL_BATCHES, should_stop=killer(4))
    part = tmp_path / "s.parquet.partial" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:50])
    score(store, tmp_path / "s.parquet", path)
    score(store, tmp_path / "whole.parquet", path)
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_finished_scoring_has_nothing_left_to_do(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    score(store, tmp_path / "s.parquet", path)
    before, calls = (tmp_path / "s.parquet").read_bytes(), LeftHalf.calls["clips"]
    score(store, tmp_path / "s.parquet", path)
    assert LeftHalf.calls["clips"] == calls
    assert (tmp_path / "s.parquet").read_bytes() == before


def test_one_more_checkpoint_is_scored_alone_and_one_less_leaves_no_row(store: FaceStore, tmp_path: Path) -> None:
    strong, weak = checkpoint(tmp_path / "strong", 8.0), checkpoint(tmp_path / "weak", 2.0)
    score(store, tmp_path / "s.parquet", strong)
    assert LeftHalf.calls["clips"] == 2 * 6
    score(store, tmp_path / "s.parquet", strong, weak)
    assert LeftHalf.calls["clips"] == 2 * 12
    scores = score(store, tmp_path / "s.parquet", weak)
    assert LeftHalf.calls["clips"] == 2 * 12
    assert set(scores.rows["model"].to_pylist()) == {"weak"}


def test_scores_of_videos_that_are_not_wanted_any_more_are_told(
    store: FaceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path / "run", train_settings=SPLIT | {"validation_folders": ["b"]})
    score(store, tmp_path / "s.parquet", path)
    capsys.readouterr()
    score(store, tmp_path / "s.parquet", path, part="held-out")
    assert "2 windows were scored before\n4 scores of other" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["checkpoint", "settings", "clips", "code"])
def test_scores_of_something_else_are_not_kept(
    store: FaceStore, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = checkpoint(tmp_path / "run"), PredictSettings()
    with pytest.raises(Killed):
        score(store, tmp_path / "s.parquet", path, **SMALL_BATCHES, should_stop=killer(4))
    if what == "checkpoint":
        checkpoint(tmp_path / "run", gain=7.0)
    elif what == "settings":
        settings = PredictSettings(max_frames=10)
    elif what == "clips":
        store = make_store(tmp_path / "other")
        table = tmp_path / "other" / "tracks" / "part-00000.parquet"
        pq.write_table(set_value(pq.read_table(table), "label", 0, 1), table)
    else:
        monkeypatch.setattr("inference.predict.code_digest", lambda *_: "other")
    LeftHalf.calls.clear()
    score(store, tmp_path / "s.parquet", path, settings=settings)
    assert LeftHalf.calls["clips"] == 2 * 6


@pytest.mark.slow
@pytest.mark.parametrize(("number", "loader_workers"), [(signal.SIGKILL, 0), (signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_a_process_that_is_ended_from_outside_goes_on(
    tmp_path: Path, number: signal.Signals, loader_workers: int
) -> None:
    """The real command and a real model; the signal comes after the first batch that the progress bar counts.

    As from a terminal, it goes to all processes of the command.
    """
    make_store(tmp_path / "store")
    torch.manual_seed(0)
    info = CheckpointInfo(
        spec=replace(model_spec("mc3_18"), input_size=64), num_classes=2, train_settings=SPLIT, store=TRAINED_ON,
        train_prior=0.5, epoch=1, metrics={}, versions={},
    )  # fmt: skip
    save_checkpoint(StoreFiles(str(tmp_path)), "best.safetensors", build_model("mc3_18").state_dict(), info)
    command = [sys.executable, "-m", "inference.predict", str(tmp_path / "store"), str(tmp_path), "--device", "cpu"]
    command += ["--batch-megapixels", "0.001", "--out"]

    with subprocess.Popen(
        [*command, str(tmp_path / "a.parquet"), "--loader-workers", str(loader_workers)],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # A shell that runs this in the background has SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        assert process.stderr is not None
        shown = b""
        while b"1/6" not in shown:
            byte = process.stderr.read(1)
            assert byte, shown
            shown += byte
        os.killpg(process.pid, number)
        said = process.stderr.read().decode()
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    assert "Traceback" not in said
    for name in ("a", "b"):
        subprocess.run([*command, str(tmp_path / f"{name}.parquet")], cwd=PROJECT, check=True, capture_output=True)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_full_disk_leaves_the_scores_before(
    store: FaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path / "run")
    score(store, tmp_path / "s.parquet", path)
    before = (tmp_path / "s.parquet").read_bytes()
    checkpoint(tmp_path / "run", gain=7.0)

    def fsync(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        with pytest.raises(WriteError, match="No space left"):
            score(store, tmp_path / "s.parquet", path)
    assert (tmp_path / "s.parquet").read_bytes() == before


# One video's trouble


def test_a_damaged_track_is_a_row_and_is_tried_again(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    lost = [shard for shard in shard_files(store.url) if "part-00001" in str(shard)]
    contents = {shard: shard.read_bytes() for shard in lost}
    for shard in lost:
        shard.unlink()
    result = run(store.url, path, "--out", tmp_path / "s.parquet", "--submission", tmp_path / "submission.csv")
    assert result.exit_code == 0, result.output
    rows = by_key(read_scores(tmp_path / "s.parquet"))
    assert {key[0] for key, row in rows.items() if row["error"]} == {"b/fake.mp4", "c/unknown.mp4"}
    assert all(row["probability"] is None for row in rows.values() if row["error"])
    assert "2 failed" in result.output
    assert "no score, so 0.5: 3 of 6 videos (b/fake.mp4, b/nobody.mp4, c/unknown.mp4)" in result.output
    for shard, content in contents.items():
        shard.write_bytes(content)
    LeftHalf.calls.clear()
    rows = by_key(score(store, tmp_path / "s.parquet", path))
    assert LeftHalf.calls["clips"] == 2 * 2
    assert not any(row["error"] for row in rows.values())


def test_logits_that_are_not_finite_never_reach_a_submission(store: FaceStore, tmp_path: Path) -> None:
    good, bad = checkpoint(tmp_path / "good"), checkpoint(tmp_path / "bad", gain=float("nan"))
    scores = score(store, tmp_path / "s.parquet", good, bad)
    assert all(("aren't finite" in (row["error"] or "")) == (key[2] == "bad") for key, row in by_key(scores).items())
    submission = submit(scores, AggregateSettings(), tmp_path / "submission.csv")
    only_good = submit(score(store, tmp_path / "t.parquet", good), AggregateSettings(), tmp_path / "t.csv")
    assert submission.rows == only_good.rows


def test_a_batch_too_large_for_the_memory_is_halved(
    store: FaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path / "run")
    whole = by_key(score(store, tmp_path / "whole.parquet", path))
    forward, refused = LeftHalf.forward, Counter[int]()
    seen: list[tuple[int, weakref.ref[Tensor]]] = []

    def little_memory(self: LeftHalf, clips: Tensor) -> Tensor:
        # What was too large is gone before it is tried again in halves.
        assert not [size for size, larger in seen if size > len(clips) and larger() is not None]
        seen.append((len(clips), weakref.ref(clips)))
        if len(clips) > 1 or clips.shape[2] > 15:
            refused[len(clips)] += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, clips)

    monkeypatch.setattr(LeftHalf, "forward", little_memory)
    rows = by_key(score(store, tmp_path / "s.parquet", path))
    # Four clips of 12 frames are tried together, then two and two, then one by one; the one of 20 never fits.
    assert refused == {4: 1, 2: 2, 1: 1}
    for key, row in rows.items():
        if key[0] == "b/fake.mp4":
            assert "needs more GPU memory for a clip of 20 frames" in row["error"]
        else:
            assert row["probability"] == pytest.approx(whole[key]["probability"])


# Which videos


def test_held_out_are_the_videos_that_no_checkpoint_was_trained_on(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run", train_settings=SPLIT | {"validation_folders": ["b"]})
    tracks = labelled(read_tracks(store), store.url)
    trained, _ = split_tracks(tracks, 0.5, ["b"])
    result = run(store.url, path, "--out", tmp_path / "s.parquet", "--submission", tmp_path / "s.csv", "--held-out")
    assert result.exit_code == 0, result.output
    scores = read_scores(tmp_path / "s.parquet")
    assert scores.video_ids == ["b/fake.mp4", "b/nobody.mp4", "b/real.mp4"]
    assert {video for video in scores.video_ids if video in set(trained["video_id"].to_pylist())} == set()
    assert {"g1"} == set(group_of(trained))
    assert scores.info.part == "held-out"
    assert "3 videos, held out from training" in result.output
    with (tmp_path / "s.csv").open(newline="") as file:
        assert [row["filename"] for row in csv.DictReader(file)] == scores.video_ids


def test_checkpoints_without_a_common_held_out_part_are_refused(store: FaceStore, tmp_path: Path) -> None:
    paths = [
        checkpoint(tmp_path / folder, train_settings=SPLIT | {"validation_folders": [folder]}) for folder in ("a", "b")
    ]
    result = run(store.url, *paths, "--out", tmp_path / "s.parquet", "--held-out")
    assert result.exit_code == 2
    assert "no video" in result.output
    assert "(of each: a 2, b 3)" in result.output


def test_scoring_what_was_trained_on_is_told(store: FaceStore, tmp_path: Path) -> None:
    settings = SPLIT | {"validation_folders": ["b"]}
    sides = split_tracks(labelled(read_tracks(store), store.url), 0.5, ["b"])
    clips = contents_digest(pa.concat_tables(sides))
    path = checkpoint(tmp_path / "run", train_settings=settings, store=TRAINED_ON | {"clips": clips})
    assert "run was trained on clips of this store" in run(store.url, path, "--out", tmp_path / "s.parquet").output
    held_out = ("--out", tmp_path / "h.parquet", "--held-out")
    assert "may pass for held out" not in run(store.url, path, *held_out).output
    other = make_store(tmp_path / "other")
    table = tmp_path / "other" / "tracks" / "part-00000.parquet"
    pq.write_table(set_value(pq.read_table(table), "checksum", 0, "another clip"), table)
    assert "run may have been trained on clips" in run(other.url, path, "--out", tmp_path / "t.parquet").output
    assert "some that it was trained on may pass for held out" in run(other.url, path, *held_out).output
    elsewhere = TRAINED_ON | {"clips": clips, "fingerprint": "fedcba9876543210"}
    path = checkpoint(tmp_path / "run", train_settings=settings, store=elsewhere)
    assert "trained on clips" not in run(store.url, path, "--out", tmp_path / "u.parquet").output


# What doesn't fit


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ({"margin": 0.3}, "crop.margin: trained on 0.3, store 0.1"),
        ({"mode": "follow"}, 'crop.mode: trained on "follow", store "union"'),
        ({"size": 224}, "crop.size: trained on 224, store 16"),
    ],
)
def test_clips_cut_out_otherwise_than_in_training_are_refused_unless_allowed(
    store: FaceStore, tmp_path: Path, crop: dict[str, Any], message: str
) -> None:
    settings = TRAINED_ON["settings"] | {"crop": TRAINED_ON["settings"]["crop"] | crop}  # type: ignore[operator, index]
    path = checkpoint(tmp_path / "run", store=TRAINED_ON | {"settings": settings})
    result = run(store.url, path, "--out", tmp_path / "s.parquet")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "s.parquet").exists()
    result = run(store.url, path, "--out", tmp_path / "s.parquet", "--allow-mismatch")
    assert result.exit_code == 0
    assert message in result.output
    (model,) = read_scores(tmp_path / "s.parquet").info.models
    assert model.mismatches == (message,)


def test_what_does_not_matter_may_differ(store: FaceStore, tmp_path: Path) -> None:
    settings = TRAINED_ON["settings"] | {"detect": {"every_n_frames": 3}}  # type: ignore[operator]
    settings["crop"] = settings["crop"] | {"follow_scale": 3.0}  # Of the mode that isn't used.
    path = checkpoint(tmp_path / "run", store=TRAINED_ON | {"settings": settings})
    assert score(store, tmp_path / "s.parquet", path).rows.num_rows == 6


def test_an_empty_store_is_told_and_one_without_faces_is_all_fallback(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    empty = write_store(tmp_path / "empty", [], MADE_WITH)
    result = run(empty.url, path, "--out", tmp_path / "s.parquet")
    assert result.exit_code == 2
    assert "holds no videos" in result.output
    faceless = write_store(tmp_path / "faceless", [[make_video("a.mp4"), make_video("b.mp4")]], MADE_WITH)
    (tmp_path / "prior.yaml").write_text("aggregate: {fallback: prior}")
    arguments = (faceless.url, path, "--out", tmp_path / "s.parquet", "--submission", tmp_path / "s.csv")
    result = run(*arguments, "--params", tmp_path / "prior.yaml")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "s.csv").read_text() == "filename,label\na.mp4,0.8\nb.mp4,0.8\n"


def changed_header(path: Path, change: dict[str, Any]) -> None:
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[HEADER_KEY])
    safetensors.torch.save_file(tensors, path, {HEADER_KEY: json.dumps(description | change)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: changed_header(path, {"format_version": 9}), "checkpoint format version 9"),
        (lambda path: changed_header(path, {"num_classes": 400}), "tells 400 classes apart"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "can't be read as a checkpoint"),
        (lambda path: path.write_bytes(b"\x80\x04 pickle"), "can't be read as a checkpoint"),
        (lambda path: path.unlink(), "no such file|without checkpoints"),
    ],
)
def test_a_checkpoint_that_can_not_be_used_is_told(
    store: FaceStore, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = checkpoint(tmp_path / "run")
    damage(path)
    result = run(store.url, path, "--out", tmp_path / "s.parquet")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert pytest.approx(1) == len([m for m in message.split("|") if m in result.output])


def test_a_sample_submission_decides_rows_and_what_is_unknown_is_told(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    (tmp_path / "sample.csv").write_text("filename,label\nunknown.mp4,0\nevil\x1b[2J.mp4,0\na/real.mp4,0\n")
    out = ("--out", tmp_path / "s.parquet", "--sample-submission", tmp_path / "sample.csv")
    result = run(store.url, path, *out, "--submission", tmp_path / "sub" / "s.csv")
    assert result.exit_code == 0, result.output
    names = [line.split(",")[0] for line in (tmp_path / "sub" / "s.csv").read_text().splitlines()[1:]]
    assert names == ["unknown.mp4", "evil\x1b[2J.mp4", "a/real.mp4"]
    assert r"not in the store, so 0.5: 1 rows asked for (evil\x1b[2J.mp4)" in result.output
    assert "4 scored videos have no row" in result.output
    assert run(store.url, path, *out).exit_code == 2


def test_a_wrong_sample_is_told_before_anything_is_scored(store: FaceStore, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("file,score\n")
    result = run(
        store.url, checkpoint(tmp_path / "run"), "--out", tmp_path / "s.parquet", "--submission", tmp_path / "s.csv",
        "--sample-submission", tmp_path / "sample.csv",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "lacks the column" in result.output
    assert LeftHalf.calls["clips"] == 0


def test_nothing_but_scores_is_written_over(store: FaceStore, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run")
    (tmp_path / "thesis.txt").write_text("mine")
    result = run(store.url, path, "--out", tmp_path / "thesis.txt")
    assert result.exit_code == 2
    assert "would replace something that isn't a file of scores" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    result = run(store.url, path, "--out", tmp_path / "x", "--submission", tmp_path / "x")
    assert "must be different files" in result.output
    result = run(store.url, path, "--out", "s3://bucket/scores.parquet")
    assert "is a URL; scores and submissions are written to a disk" in result.output
    assert LeftHalf.calls["clips"] == 0


@pytest.mark.parametrize("text", ["aggregate: {weights: {run: .inf}}", "aggregate: {temperature: .nan}"])
def test_settings_that_are_no_finite_number_are_refused(store: FaceStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    arguments = (store.url, checkpoint(tmp_path / "run"), "--out", tmp_path / "s.parquet")
    result = run(*arguments, "--params", tmp_path / "p.yaml")
    assert result.exit_code == 2
    assert "finite number" in result.output


def test_weights_for_a_model_that_is_not_there_are_refused(store: FaceStore, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"aggregate": {"weights": {"mc3_18": 2.0}}}))
    arguments = (store.url, checkpoint(tmp_path / "run"), "--out", tmp_path / "s.parquet")
    result = run(*arguments, "--submission", tmp_path / "s.csv", "--params", tmp_path / "p.yaml")
    assert result.exit_code == 2
    assert "aggregate.weights names mc3_18, but these are scores of run" in result.output
    assert LeftHalf.calls["clips"] == 0
    (tmp_path / "p.yaml").write_text("aggregate: {models: max, weights: {run: 2}}")
    assert "weights are for models: mean" in run(*arguments, "--params", tmp_path / "p.yaml").output


# Which checkpoints


def test_a_folder_of_runs_stands_for_their_best_checkpoints(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / "runs" / name) for name in ("a", "b", "c")]
    (tmp_path / "runs" / "unfinished").mkdir()
    runs = str(tmp_path / "runs")
    assert find_checkpoints([runs]) == paths
    assert find_checkpoints([runs], ["c", "a"]) == [paths[2], paths[0]]
    assert find_checkpoints([f"{runs}/b", str(paths[0])]) == [paths[1], paths[0]]
    for given, chosen, message in (
        ([runs], ["d"], r"no finished epoch of the run d; its runs with a best.safetensors: a, b, c"),
        ([f"{runs}/a"], ["a"], "--run a picks from a folder of runs"),
        ([f"{runs}/unfinished"], [], "a folder without checkpoints"),
        ([runs, f"{runs}/a"], [], "given twice"),
    ):
        with pytest.raises(InputError, match=message):
            find_checkpoints(given, chosen)


def test_checkpoints_are_called_by_their_run_where_that_tells_them_apart() -> None:
    assert member_names([Path("runs/a/best.safetensors"), Path("x/b/last.safetensors")]) == ["a", "b"]
    alike = [Path("runs/a/best.safetensors"), Path("runs/a/last.safetensors"), Path("runs/b/best.safetensors")]
    assert member_names(alike) == ["runs/a/best", "runs/a/last", "b"]


# Files of scores


def test_a_file_that_is_no_scores_is_told(store: FaceStore, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with pytest.raises(InputError, match="no such file"):
        read_scores(path)
    with pytest.raises(InputError, match="is a folder"):
        read_scores(tmp_path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="is no file of scores"):
        read_scores(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match="a table, but not one of scores"):
        read_scores(path)
    scores = score(store, path, checkpoint(tmp_path / "run"))
    info = json.loads(scores.info.to_json())
    for change, message in (
        ({"format_version": 7}, "format version 7, this code reads 1"),
        ({"surprise": 1}, "isn't whole|is not whole"),
    ):
        metadata = {METADATA_KEY: json.dumps(info | change).encode()}
        pq.write_table(scores.rows.replace_schema_metadata(metadata), path)
        with pytest.raises(InputError, match=message):
            read_scores(path)
    pq.write_table(
        scores.rows.drop_columns(["probability"]).replace_schema_metadata({METADATA_KEY: scores.info.to_json()}), path
    )
    with pytest.raises(InputError, match="lacks columns of scores"):
        read_scores(path)


def test_any_order_of_rows_gives_the_same_scores(store: FaceStore, tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / name, gain) for name, gain in (("strong", 8.0), ("weak", 2.0))]
    scores = score(store, tmp_path / "s.parquet", *paths, settings=PredictSettings(windows=3))
    order = np.random.default_rng(1).permutation(scores.rows.num_rows)
    shuffled = Scores(scores.rows.take(order), scores.info)
    assert shuffled.rows.schema == SCORES_SCHEMA
    np.testing.assert_array_equal(
        scores.combine(AggregateSettings()).probability, shuffled.combine(AggregateSettings()).probability
    )
