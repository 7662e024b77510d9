"""Evaluation as its users meet it: what it leaves, what it says, and what it refuses."""

from __future__ import annotations

import csv
import errno
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result

from inference.config import AggregateSettings
from inference.evaluate import main, to_json
from inference.labelled import read_labelled
from inference.scores import SCORES_SCHEMA, ScoredModel, ScoresInfo, read_scores, store_contents, write_scores
from pipeline.config import CropSettings
from pipeline.files import StoreFiles
from pipeline.store import FaceStore
from tests.stores import SETTINGS, Video, change_table, make_video, set_value, write_partition, write_store

FILES = {
    "metrics.json", "summary.txt", "roc.csv", "precision_recall.csv", "reliability.csv", "histogram.csv",
    "by_folder.csv", "errors.csv", "roc.png", "precision_recall.png", "reliability.png", "histogram.png",
}  # fmt: skip
Spec = tuple[int | None, str, Mapping[str, float]]
"""Label, group, probabilities of the models that have scored it; without any the video has no track."""
VIDEOS: dict[str, Spec] = {
    "real/a.mp4": (0, "g1", {"m": 0.1, "n": 0.3}),
    "real/b.mp4": (0, "g2", {"m": 0.8, "n": 0.6}),
    "real/c.mp4": (0, "g3", {"m": 0.3, "n": 0.3}),
    "swap/a.mp4": (1, "g1", {"m": 0.9, "n": 0.7}),
    "swap/b.mp4": (1, "g2", {"m": 0.2}),
    "swap/c.mp4": (1, "g3", {"m": 0.6, "n": 0.8}),
    "swap/nobody.mp4": (1, "g3", {}),
    "top.mp4": (None, "g4", {"m": 0.5, "n": 0.5}),
}
ENSEMBLE = {
    "real/a.mp4": 0.2, "real/b.mp4": 0.7, "real/c.mp4": 0.3, "swap/a.mp4": 0.8, "swap/b.mp4": 0.2, "swap/c.mp4": 0.7,
    "swap/nobody.mp4": 0.5,
}  # fmt: skip
"""What these come to, as a person would work it out."""


def videos_of(specs: Mapping[str, Spec]) -> list[Video]:
    return [
        make_video(name, [2] if of_model else [], label=label, group_id=group)
        for name, (label, group, of_model) in specs.items()
    ]


def score_rows(specs: Mapping[str, Spec]) -> pa.Table:
    rows = [
        {
            "video_id": name, "track_id": 0, "model": model, "window": 0, "frame_start": 0, "num_frames": 2,
            "frame_step": 1, "logits": [0.0, 0.0], "mirror_logits": None, "probability": probability, "error": None,
        }
        for name, (_, _, of_model) in specs.items()
        for model, probability in of_model.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def scored_model(name: str, mismatches: tuple[str, ...] = ()) -> ScoredModel:
    return ScoredModel(name, f"runs/{name}/best.safetensors", "0" * 64, "mc3_18", 3, 0.7, mismatches)


def info_of(store: FaceStore, specs: Mapping[str, Spec]) -> ScoresInfo:
    return ScoresInfo(
        store_fingerprint=store.fingerprint, store_contents=store_contents(store), part="held-out",
        models=(scored_model("m"), scored_model("n")),
        settings={}, code="0", videos_without_tracks=tuple(name for name, spec in specs.items() if not spec[2]),
    )  # fmt: skip


class World:
    """A store, scores of it, and the command."""

    def __init__(self, folder: Path, specs: Mapping[str, Spec], **changes: Any) -> None:
        self.folder = folder
        self.specs = specs
        self.store = write_store(folder / "store", [videos_of(specs)])
        self.scores = folder / "scores.parquet"
        self.info = replace(info_of(self.store, specs), **changes)
        write_scores(self.scores, [score_rows(specs)], self.info)
        self.out = folder / "out" / "of it"

    def run(self, **settings: Mapping[str, Any]) -> Result:
        params = self.folder / "params.yaml"
        params.write_text(yaml.safe_dump({"evaluate": {"resamples": 20}} | settings), encoding="utf-8")
        return CliRunner().invoke(main, [str(self.scores), self.store.url, str(self.out), "--params", str(params)])

    def evaluate(self, **settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """What ``metrics.json`` has, and what was printed."""
        result = self.run(**settings)
        assert result.exit_code == 0, result.output
        return json.loads((self.out / "metrics.json").read_bytes(), parse_constant=no_constant), result.output

    def refused(self, **settings: Mapping[str, Any]) -> str:
        """The message of a command that wrote nothing."""
        result = self.run(**settings)
        assert result.exit_code == 2, result.output
        assert not self.out.exists()
        return result.output

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.out / name).open(newline="", encoding="utf-8") as file:
            return [*csv.DictReader(file)]


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, VIDEOS)


def loss_of(name: str, probability: float) -> float:
    return -math.log(probability if VIDEOS[name][0] else 1 - probability)


def test_videos_that_came_after_the_scores_are_not_passed_over(tmp_path: Path) -> None:
    world = World(tmp_path, VIDEOS, part="all")
    world.evaluate()
    shutil.rmtree(world.out)
    write_partition(world.store.files, "part-00007", [make_video("new/faceless.mp4", label=1)])
    assert "has 1 videos that these scores know nothing of (new/faceless.mp4)" in world.refused()


def test_figures_are_what_a_person_would_work_out(world: World) -> None:
    metrics, output = world.evaluate()
    losses = {name: loss_of(name, probability) for name, probability in ENSEMBLE.items()}
    ensemble = metrics["ensemble"]
    assert ensemble["log_loss"] == pytest.approx(np.mean([*losses.values()]))
    assert ensemble["log_loss_unclipped"] == pytest.approx(ensemble["log_loss"])
    assert ensemble["accuracy_real"] == pytest.approx(2 / 3)
    assert ensemble["accuracy_fake"] == pytest.approx(3 / 4)
    assert ensemble["log_loss_low"] <= ensemble["log_loss"] <= ensemble["log_loss_high"]
    # Of 12 pairs of REAL and FAKE 7 are in order, 2 tied.
    assert ensemble["auc"] == pytest.approx(8 / 12)
    assert metrics["videos"] == {"labelled": 7, "unlabelled": 1, "real": 3, "fake": 4, "groups": 3}
    without = [loss for name, loss in losses.items() if name != "swap/nobody.mp4"]
    assert metrics["fallbacks"] == {
        "videos": 1, "share": pytest.approx(1 / 7), "log_loss_without_fallbacks": pytest.approx(np.mean(without))
    }  # fmt: skip
    assert "7 labelled videos (3 REAL, 4 FAKE) in 3 groups; held out from training" in output
    assert "left out, since they have no label: 1 of 8 scored videos" in output
    assert "fallbacks: 1 of 7 videos (14.3%) have no score, so 0.5: swap/nobody.mp4; log loss without them" in output


def test_a_model_by_itself_has_the_fallback_where_it_has_no_score(world: World) -> None:
    metrics, _ = world.evaluate(aggregate={"temperature": 3.0})
    expected = [
        loss_of(name, of_model.get("n", 0.5)) for name, (label, _, of_model) in VIDEOS.items() if label is not None
    ]
    assert metrics["models"]["n"]["log_loss"] == pytest.approx(np.mean(expected))
    assert metrics["models"]["n"]["fallbacks"] == 2
    assert metrics["models"]["m"]["fallbacks"] == 1


def test_settings_of_the_ensemble_are_those_of_a_submission(world: World) -> None:
    settings = {"temperature": 1.7, "weights": {"m": 3.0}, "fallback": "prior", "clip": 0.25}
    scores = read_scores(world.scores)
    metrics, output = world.evaluate(aggregate=settings)
    submitted = dict(
        zip(scores.video_ids, scores.combine(AggregateSettings.model_validate(settings)).probability, strict=True)
    )
    rows = world.table("errors.csv")
    assert {row["video_id"] for row in rows} == set(ENSEMBLE)
    for row in rows:
        assert float(row["probability"]) == np.clip(submitted[row["video_id"]], 0.25, 0.75)
    assert metrics["ensemble"]["log_loss"] == pytest.approx(np.mean([float(row["loss"]) for row in rows]))
    assert "so 0.7: swap/nobody.mp4" in output


def test_all_files_are_there_and_the_same_when_written_again(world: World) -> None:
    world.evaluate()
    first = {path.name: path.read_bytes() for path in world.out.iterdir()}
    assert set(first) == FILES
    assert all(data.startswith(b"\x89PNG\r\n\x1a\n") for name, data in first.items() if name.endswith(".png"))
    assert not any(b"\r" in data for name, data in first.items() if name.endswith(".csv"))
    world.evaluate()
    assert {path.name: path.read_bytes() for path in world.out.iterdir()} == first


def test_errors_are_worst_first_and_say_all_there_is(world: World) -> None:
    world.evaluate()
    rows = world.table("errors.csv")
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert [row["video_id"] for row in rows][:3] == ["swap/b.mp4", "real/b.mp4", "swap/nobody.mp4"]
    assert rows[0] == {
        "video_id": "swap/b.mp4", "label": "1", "probability": "0.2", "loss": repr(-math.log(0.2)), "p_m": "0.2",
        "p_n": "", "is_fallback": "0", "status": "ok", "num_tracks": "1", "folder": "swap", "group_id": "g2",
        "message": "",
    }  # fmt: skip
    assert (rows[2]["is_fallback"], rows[2]["p_m"], rows[2]["status"]) == ("1", "", "no_face")
    assert rows[2]["message"] == "nobody there"


def test_small_tables(world: World) -> None:
    _, output = world.evaluate(evaluate={"resamples": 0, "bins": 2})
    real, swap = world.table("by_folder.csv")
    assert [real[name] for name in ("folder", "videos", "real", "fake")] == ["real", "3", "3", "0"]
    assert float(real["mean_probability"]) == pytest.approx(0.4)
    assert float(real["log_loss"]) == pytest.approx(-math.log(0.8 * 0.3 * 0.7) / 3)
    assert [swap[name] for name in ("folder", "videos", "real", "fake")] == ["swap", "4", "0", "4"]
    assert float(swap["accuracy"]) == 0.75
    assert any(line.split()[:4] == ["swap", "4", "0", "4"] for line in output.splitlines())
    low, high = world.table("reliability.csv")
    assert (low["bin_low"], low["bin_high"], low["videos"]) == ("0.0", "0.5", "3")
    assert float(low["share_fake"]) == pytest.approx(1 / 3)
    assert float(high["mean_probability"]) == pytest.approx((0.7 + 0.8 + 0.7 + 0.5) / 4)
    rows = world.table("histogram.csv")
    assert len(rows) == 20
    assert {row["bin_low"]: (row["real"], row["fake"]) for row in rows if (row["real"], row["fake"]) != ("0", "0")} == {
        "0.2": ("1", "1"), "0.3": ("1", "0"), "0.5": ("0", "1"), "0.7": ("1", "1"), "0.8": ("0", "1"),
    }  # fmt: skip
    assert world.table("roc.csv")[0] == {"false_positive_rate": "0.0", "true_positive_rate": "0.0", "threshold": ""}
    assert world.table("precision_recall.csv")[-1] == {"recall": "0.0", "precision": "1.0", "threshold": ""}


def test_the_closing_table(world: World) -> None:
    metrics, output = world.evaluate()
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}
    names = ("log_loss", "log_loss_unclipped", "balanced_log_loss", "auc", "average_precision", "accuracy")
    for name, of in {**metrics["models"], "ensemble": metrics["ensemble"]}.items():
        assert lines[name] == [f"{of[metric]:.3f}" for metric in names]
    ends = [metrics["ensemble"].get(f"{metric}_low") for metric in names]
    assert lines["low"] == ["-" if end is None else f"{end:.3f}" for end in ends]
    assert "between them lie 0.95 of 20 resamples of the groups" in output
    assert str(world.out) in output


def test_a_score_that_is_wrong_for_certain_is_no_json(tmp_path: Path) -> None:
    world = World(tmp_path, VIDEOS | {"real/b.mp4": (0, "g2", {"m": 1.0, "n": 1.0})})
    metrics, output = world.evaluate()
    assert metrics["ensemble"]["log_loss_unclipped"] is None
    assert metrics["ensemble"]["wrong_for_certain"] == 1
    assert metrics["ensemble"]["log_loss"] < 2
    assert "ensemble: videos wrong for certain: 1;" in output
    metrics, _ = world.evaluate(aggregate={"clip": 0.0})
    assert metrics["ensemble"]["log_loss"] is None
    assert metrics["ensemble"]["log_loss_high"] is None
    assert metrics["calibration"]["log_loss_with_temperature"] is None
    assert world.table("errors.csv")[0]["loss"] == ""


def test_json_has_numbers_and_nulls_alone() -> None:
    assert json.loads(to_json({"a": {"b": math.nan, "c": -math.inf}, "d": 1, "e": None})) == {
        "a": {"b": None, "c": None}, "d": 1, "e": None,
    }  # fmt: skip


# Where less is defined


@pytest.mark.parametrize(("label", "name"), [(0, "REAL"), (1, "FAKE")])
def test_one_class_only(tmp_path: Path, label: int, name: str) -> None:
    world = World(tmp_path, {video: (label, *spec[1:]) for video, spec in VIDEOS.items()})
    metrics, output = world.evaluate()
    for of in (metrics["ensemble"], metrics["models"]["m"]):
        assert [of[metric] for metric in ("auc", "average_precision", "balanced_log_loss")] == [None] * 3
        assert of["log_loss"] > 0
    assert metrics["ensemble"]["auc_low"] is None
    assert metrics["ensemble"]["log_loss_low"] > 0
    assert metrics["calibration"]["temperature"] is metrics["calibration"]["log_loss_cross_fitted"] is None
    assert output.count(f"all videos are {name}: AUC, AP and balanced log loss are not defined") == 1
    assert "no temperature: a fit needs scores of both classes that differ" in output
    assert (world.out / "roc.csv").read_text() == "false_positive_rate,true_positive_rate,threshold\n"
    assert (world.out / "precision_recall.csv").read_text() == "recall,precision,threshold\n"
    assert {path.name for path in world.out.iterdir()} == FILES


def test_a_store_without_any_face_has_fallbacks_alone(tmp_path: Path) -> None:
    world = World(tmp_path, {f"{i:02}\x1b.mp4": (i % 2, f"g{i // 2}", {}) for i in range(24)})
    metrics, output = world.evaluate()
    assert metrics["fallbacks"] == {"videos": 24, "share": 1.0, "log_loss_without_fallbacks": None}
    assert metrics["ensemble"]["log_loss"] == pytest.approx(math.log(2))
    assert metrics["ensemble"]["auc"] == 0.5
    assert metrics["calibration"]["temperature"] is None
    assert "09\\x1b.mp4 and 14 more; log loss without them -" in output
    assert all(row["is_fallback"] == "1" for row in world.table("errors.csv"))


def test_one_group_has_no_intervals(tmp_path: Path) -> None:
    world = World(tmp_path, {video: (spec[0], "all", spec[2]) for video, spec in VIDEOS.items()})
    metrics, output = world.evaluate()
    assert metrics["ensemble"]["log_loss_low"] is metrics["ensemble"]["auc_high"] is None
    assert metrics["calibration"]["log_loss_cross_fitted"] is None
    assert metrics["calibration"]["temperature"] > 0
    assert "no intervals: all videos are of one group" in output


def test_no_resamples_no_intervals(world: World) -> None:
    metrics, output = world.evaluate(evaluate={"resamples": 0})
    assert metrics["ensemble"]["accuracy_high"] is None
    assert "no intervals: evaluate.resamples is 0" in output


# Calibration


def test_the_temperature_to_use_is_one_to_use_as_it_is(tmp_path: Path) -> None:
    """Whatever the temperature is now, the same one is found, and using it gives the log loss that was foretold."""
    rng = np.random.default_rng(0)
    truth = 1 / (1 + np.exp(-rng.normal(0, 2, 80)))
    labels = (rng.random(80) < truth).astype(int)
    sure = 1 / (1 + (1 / truth - 1) ** 4)
    specs: dict[str, Spec] = {
        f"{i:02}.mp4": (int(labels[i]), f"g{i // 2}", {"m": float(sure[i]), "n": float(sure[i])}) for i in range(80)
    }
    world = World(tmp_path, specs | {"nobody.mp4": (1, "g0", {})})
    now, output = world.evaluate()
    found = now["calibration"]
    assert 2 < found["temperature"] < 8
    assert found["log_loss_with_temperature"] < found["log_loss_cross_fitted"] < now["ensemble"]["log_loss"]
    assert f"put temperature: {found['temperature']:.4g} into the section aggregate of params.yaml" in output
    then, _ = world.evaluate(aggregate={"temperature": found["temperature"]})
    assert then["ensemble"]["log_loss"] == pytest.approx(found["log_loss_with_temperature"])
    for name in ("temperature", "log_loss_with_temperature", "log_loss_cross_fitted"):
        assert then["calibration"][name] == found[name]
    assert then["calibration"]["expected_calibration_error"] < found["expected_calibration_error"]


# What is refused


def test_scores_of_a_store_made_otherwise(world: World, tmp_path: Path) -> None:
    crop = CropSettings(size=SETTINGS.crop.size, margin=0.3)
    other = write_store(tmp_path / "other", [videos_of(VIDEOS)], SETTINGS.model_copy(update={"crop": crop}))
    scored = world.store
    world.store = other
    message = world.refused()
    assert scored.fingerprint in message
    assert other.fingerprint in message
    assert "run inference.predict on this one" in message


def test_scores_of_a_store_that_has_changed_since(world: World) -> None:
    before = store_contents(world.store)
    write_partition(world.store.files, "part-00001", [make_video("new.mp4", [2], label=1)])
    world.store = FaceStore.open(world.store.url)
    message = world.refused()
    assert before in message
    assert store_contents(world.store) in message
    assert "the store has changed since: run inference.predict again" in message


def test_scored_videos_that_are_not_there(tmp_path: Path) -> None:
    world = World(tmp_path, VIDEOS, videos_without_tracks=("a\x1b.mp4", "swap/nobody.mp4"))
    message = world.refused()
    assert "of the 9 scored videos 1 are not in" in message
    assert "a\\x1b.mp4" in message


def test_no_label_at_all(tmp_path: Path) -> None:
    world = World(tmp_path, {video: (None, *spec[1:]) for video, spec in VIDEOS.items()})
    message = world.refused()
    assert "of the 8 scored videos none has a label" in message
    assert "--labels" in message


def test_a_weight_for_nobody_and_a_bad_setting(world: World) -> None:
    assert "aggregate.weights names x" in world.refused(aggregate={"weights": {"x": 2.0}})
    assert "unknown key 'evaluate.bin'" in world.refused(evaluate={"bin": 3})


def test_files_that_are_something_else(world: World) -> None:
    world.scores.write_bytes(b"not parquet")
    assert "is no file of scores" in world.refused()
    world.scores.unlink()
    assert "there is no such file" in world.refused()


# What comes from outside


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    odd = "m\x1b]0;x\x07"
    specs: dict[str, Spec] = {
        "a\x1b[2J/\nreal.mp4": (0, "g1", {odd: 0.2, "n": 0.1}),
        "a\x1b[2J/nobody\x1b.mp4": (0, "g2", {}),
        "b/fake.mp4": (1, "g2", {odd: 0.2, "n": 0.9}),
    }
    world = World(tmp_path, specs, models=(scored_model(odd), scored_model("n", ("crop.size: \x1b[1m",))))
    metrics, output = world.evaluate()
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "a\\x1b[2J/nobody\\x1b.mp4" in output
    assert "note: n: mismatch overridden: crop.size: \\x1b[1m" in output
    assert metrics["models"]["n"]["mismatches"] == 1
    assert {row["video_id"] for row in world.table("errors.csv")} == set(specs)


def test_scores_of_all_of_the_store_are_said_to_be(tmp_path: Path) -> None:
    _, output = World(tmp_path, VIDEOS, part="all").evaluate()
    assert "all of the store, those trained on among them if any" in output


def test_a_full_disk_leaves_the_files_that_were_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.evaluate()
    before = (world.out / "errors.csv").read_bytes()
    write: Callable[[StoreFiles, str, bytes], None] = StoreFiles.write

    def full(files: StoreFiles, name: str, data: bytes) -> None:
        if name == "errors.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(files, name, data)

    monkeypatch.setattr(StoreFiles, "write", full)
    result = world.run(aggregate={"clip": 0.2})
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert (world.out / "errors.csv").read_bytes() == before


def test_a_video_without_a_group_is_one_of_its_own(world: World) -> None:
    change_table(world.store.url, "videos", "part-00000", lambda table: set_value(table, "group_id", 0, None))
    videos = read_labelled(read_scores(world.scores), world.store, AggregateSettings())
    assert dict(zip(videos.video_ids, videos.groups, strict=True)) == {
        **{name: VIDEOS[name][1] for name in ENSEMBLE}, "real/a.mp4": "real/a.mp4",
    }  # fmt: skip
    assert world.evaluate()[0]["videos"]["groups"] == 4


def test_help_has_an_example() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert "python -m inference.evaluate results/validation/scores.parquet data/store results/evaluation" in output
