"""Training as its users meet it: what a run leaves, how it goes on after anything, and what it says about bad input."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from torch import Tensor, nn

from inference.selection import trained_on
from pipeline.config import CropSettings, Settings, StoreSettings
from pipeline.errors import InputError, WriteError
from pipeline.files import StoreFiles
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from tests.stores import make_video, write_store
from training import models
from training.checkpoint import load_checkpoint, read_info
from training.config import AugmentSettings, CutMixSettings, TrainSettings
from training.cutmix import Mix, paste
from training.dataset import read_tracks
from training.loading import open_clips
from training.train import DivergedError, fit, main

pytestmark = pytest.mark.usefixtures("one_torch_thread", "fresh_accelerator")

PROJECT = Path(__file__).resolve().parents[1]
NO_AUGMENTATION = AugmentSettings(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0, colour_probability=0.0
)
SETTINGS = TrainSettings(
    input_size=64, clip_frames=8, epochs=3, batch_size=4, validation_fraction=0.4, precision="none", ema_decay=0.8
)
NUM_STEPS = 9
"""Of a whole run: 5 of 8 groups train, so an epoch is 10 clips in 3 batches."""


class Tiny(nn.Module):
    """Everything that has a state: convolution, batch norm, dropout."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, stride=4)
        self.norm = nn.BatchNorm3d(6)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(self.norm(self.conv(clips)).relu().amax((2, 3, 4))))
        return logits


class Plain(nn.Module):
    """Nothing that depends on how clips are put into batches."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.fc(clips.square().mean((2, 3, 4)))
        return logits


def add_small_models(register: Callable[[str, Any], None]) -> None:
    for name, build in (("tiny", Tiny), ("plain", Plain)):
        spec = models.ModelSpec(name, 64, 8, 1, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), {})
        register(name, models._Model(spec, build, "fc.", {}))


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    add_small_models(lambda name, model: monkeypatch.setitem(models._MODELS, name, model))


def flickering(rng: np.random.Generator, label: int, length: int = 12) -> UInt8Array:
    """A still picture of 64 px; of a fake, the middle changes its brightness from frame to frame."""
    picture = np.repeat(np.repeat(rng.integers(60, 180, (8, 8, 3)), 8, axis=0), 8, axis=1)
    frames = np.repeat(picture[None], length, axis=0)
    if label:
        frames[:, 16:48, 16:48] += rng.integers(-40, 40, (length, 1, 1, 1))
    return frames.astype(np.uint8)


def write_flickering_store(path: Path, num_groups: int = 8) -> str:
    """Of each group an original and its fake, one track each."""
    rng = np.random.default_rng(0)
    videos = [
        make_video(f"{group}/{label}.mp4", [12], label=label, group_id=f"g{group}", frames=flickering(rng, label))
        for group in range(num_groups)
        for label in (0, 1)
    ]
    made_with = Settings(crop=CropSettings(size=64), store=StoreSettings(chunk_frames=4, shard_frames=16))
    return write_store(path, [videos], made_with).url


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_flickering_store(tmp_path_factory.mktemp("stores") / "store")


def write_paired_store(path: Path, face_labels: Mapping[int, Sequence[int | None]] | None = None) -> str:
    """Of each group an original of frames 10 to 22 with two faces, a fake of all of them and one of the last ten.

    Frame by frame the original becomes brighter; of the fakes the middle is another, and the second face is untouched.

    Args:
        path: of the store.
        face_labels: of the two faces in both fakes, by group, where they aren't 1 and 0.
    """
    rng = np.random.default_rng(0)
    videos = []
    for group in range(8):
        original = flickering(rng, 0) + np.arange(12, dtype=np.uint8)[:, None, None, None]
        fake = original.copy()
        fake[:, 16:48, 16:48] = flickering(rng, 1)[:, 16:48, 16:48]
        labels = (face_labels or {}).get(group, (1, 0))
        for name, label, skipped in (("0", 0, 0), ("1", 1, 0), ("2", 1, 2)):
            frames = [clip[skipped:] for clip in (fake if label else original, original)]
            videos.append(
                make_video(
                    f"{group}/{name}.mp4", [12 - skipped] * 2, label=label, group_id=f"g{group}", frames=frames,
                    frame_start=10 + skipped, pair_ids=[f"{group}#0", f"{group}#1"],
                    face_labels=labels if label else (0, 0),
                )
            )  # fmt: skip
    made_with = Settings(crop=CropSettings(size=64), store=StoreSettings(chunk_frames=4, shard_frames=16))
    return write_store(path, [videos], made_with).url


PAIRED = SETTINGS.model_copy(
    update={
        "label_column": "face_label", "sampler": "paired",
        "cutmix": CutMixSettings(probability=0.7, donor="pair"),
    }
)  # fmt: skip
"""5 of 8 groups train, so an epoch is 5 pairs in batches of 4, 4 and 2 clips."""


@pytest.fixture(scope="module")
def paired_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_paired_store(tmp_path_factory.mktemp("stores") / "paired")


@pytest.fixture(scope="module")
def whole_run(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        add_small_models(lambda name, model: monkeypatch.setitem(models._MODELS, name, model))
        path = tmp_path_factory.mktemp("runs") / "whole"
        assert fit(store, str(path), "tiny", SETTINGS)
        AcceleratorState._reset_state(reset_partial_state=True)
    return path


def steps(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "steps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(run_dir: Path, name: str = "last") -> dict[str, Tensor]:
    return dict(safetensors.torch.load_file(run_dir / f"{name}.safetensors"))


def assert_same_run(run_dir: Path, whole: Path) -> None:
    """The same loss curve and the same weights, bit for bit."""
    assert steps(run_dir) == steps(whole)
    for name in ("best", "last"):
        ours, theirs = weights(run_dir, name), weights(whole, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


class Killed(BaseException):
    """What nothing in the code expects."""


def kill_after(num_batches: int) -> Callable[[], bool]:
    """Asked after each batch; the process dies instead of an answer."""
    asked = itertools.count(1)

    def should_stop() -> bool:
        if next(asked) == num_batches:
            raise Killed
        return False

    return should_stop


def stop_after(num_batches: int) -> Callable[[], bool]:
    asked = itertools.count(1)
    return lambda: next(asked) == num_batches


# What a run leaves


def test_a_run_leaves_checkpoints_metrics_curves_and_its_settings(whole_run: Path) -> None:
    assert {path.name for path in whole_run.iterdir()} == {
        *("best.safetensors", "last.safetensors", "resume.pt", "config.yaml"),
        *("metrics.json", "history.csv", "steps.csv", "tensorboard"),
    }
    with (whole_run / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    metrics = json.loads((whole_run / "metrics.json").read_text())
    assert metrics["last"] == {key: pytest.approx(float(value)) for key, value in history[-1].items()}
    assert metrics["best"]["balanced_log_loss"] == min(float(row["balanced_log_loss"]) for row in history)
    config = yaml.safe_load((whole_run / "config.yaml").read_text())
    assert (config["model"], config["train"]["ema_decay"], config["processes"]) == ("tiny", 0.8, 1)
    assert list((whole_run / "tensorboard").iterdir())


def test_the_rate_goes_up_and_down_once_over_the_true_number_of_steps(whole_run: Path) -> None:
    rows = steps(whole_run)
    rates = [float(row["learning_rate"]) for row in rows]
    assert [int(row["step"]) for row in rows] == list(range(NUM_STEPS))
    assert max(rates) == pytest.approx(SETTINGS.max_learning_rate, rel=0.1)
    assert rates[-1] < SETTINGS.max_learning_rate / 1000
    assert np.sign(np.diff(rates)).tolist() == [1] * int(np.argmax(rates)) + [-1] * (
        NUM_STEPS - 1 - int(np.argmax(rates))
    )


def test_a_checkpoint_knows_everything_needed_to_score_with_it(whole_run: Path, store: str) -> None:
    model, info = load_checkpoint(whole_run / "best.safetensors")
    assert (info.spec.name, info.spec.input_size, info.spec.clip_frames, info.num_classes) == ("tiny", 64, 8, 2)
    assert info.store["fingerprint"] == yaml.safe_load((whole_run / "config.yaml").read_text())["store"]["fingerprint"]
    assert info.store["settings"]["crop"]["size"] == 64
    assert info.train_prior == 0.5
    assert info.metrics["log_loss"] == json.loads((whole_run / "metrics.json").read_text())["best"]["log_loss"]
    with torch.inference_mode():
        assert model(info.spec.prepare(torch.zeros(2, 9, 50, 50, 3, dtype=torch.uint8))).shape == (2, 2)


def test_the_average_of_the_weights_is_what_is_kept(whole_run: Path) -> None:
    saved = torch.load(whole_run / "resume.pt", weights_only=True)
    kept = weights(whole_run)
    assert all(torch.equal(kept[key], saved["average"][f"module.{key}"]) for key in kept)
    assert any(not torch.equal(kept[key], saved["model"][key]) for key in kept)


def test_validation_can_be_seldom_and_the_last_epoch_always_has_one(store: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 5, "validate_every_epochs": 2})
    with pytest.raises(Killed):
        fit(store, str(tmp_path / "run"), "tiny", settings, should_stop=kill_after(11))
    assert read_info(tmp_path / "run" / "last.safetensors").epoch == 2
    assert fit(store, str(tmp_path / "run"), "tiny", settings, resume=True)
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["2", "4", "5"]
    assert len(steps(tmp_path / "run")) == 15


def test_a_store_that_can_be_learned_is_learned(store: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"epochs": 80, "max_learning_rate": 0.02, "ema_decay": None, "cutmix": CutMixSettings(probability=0.0)}
    )
    assert fit(store, str(tmp_path / "run"), "tiny", settings)
    assert read_info(tmp_path / "run" / "best.safetensors").metrics["balanced_log_loss"] < 0.5


# Going on


@pytest.mark.parametrize("killed_after", [1, 4, 6, 8])
@pytest.mark.parametrize("save_minutes", [0.0, 1e9], ids=["saved after each batch", "saved after each epoch"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    store: str, tmp_path: Path, whole_run: Path, killed_after: int, save_minutes: float
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(Killed):
        fit(store, str(run_dir), "tiny", SETTINGS, save_minutes=save_minutes, should_stop=kill_after(killed_after))
    assert fit(store, str(run_dir), "tiny", SETTINGS, resume=True)
    assert_same_run(run_dir, whole_run)


def test_a_run_that_is_killed_again_and_again_goes_on(store: str, tmp_path: Path, whole_run: Path) -> None:
    for _ in range(NUM_STEPS - 1):
        with pytest.raises(Killed):
            fit(store, str(tmp_path / "run"), "tiny", SETTINGS, resume=True, save_minutes=0, should_stop=kill_after(2))
    assert fit(store, str(tmp_path / "run"), "tiny", SETTINGS, resume=True)
    assert_same_run(tmp_path / "run", whole_run)


@pytest.mark.parametrize("num_batches", [5, 6, 9], ids=["amid an epoch", "at its end", "at the end of the run"])
def test_an_interrupt_saves_the_state(store: str, tmp_path: Path, whole_run: Path, num_batches: int) -> None:
    assert not fit(store, str(tmp_path / "run"), "tiny", SETTINGS, should_stop=stop_after(num_batches))
    assert torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["progress"]["step"] == num_batches
    assert fit(store, str(tmp_path / "run"), "tiny", SETTINGS, resume=True)
    assert_same_run(tmp_path / "run", whole_run)


def test_a_finished_run_has_nothing_left_to_do(store: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    assert fit(store, str(tmp_path / "run"), "tiny", settings)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert fit(store, str(tmp_path / "run"), "tiny", settings, resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_several_batches_a_step_are_saved_between_steps_only(store: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"accumulate_batches": 2})
    assert fit(store, str(tmp_path / "whole"), "tiny", settings)
    with pytest.raises(Killed):
        fit(store, str(tmp_path / "run"), "tiny", settings, save_minutes=0, should_stop=kill_after(4))
    assert torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["progress"]["step"] == 3
    assert fit(store, str(tmp_path / "run"), "tiny", settings, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended_from_outside_goes_on(store: str, tmp_path: Path, number: signal.Signals) -> None:
    """The real command and a real model; a signal comes after the first batch that the progress bar counts."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"train": SETTINGS.model_dump(mode="json") | {"epochs": 1}}))
    command = [sys.executable, "-m", "training.train", store, "RUN", "--model", "mc3_18", "--params"]
    command += [str(tmp_path / "params.yaml"), "--device", "cpu", "--save-minutes", "0"]

    def with_run(name: str) -> list[str]:
        return [str(tmp_path / name) if part == "RUN" else part for part in command]

    with subprocess.Popen(with_run("run"), cwd=PROJECT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        shown = b""
        while b"1/3" not in shown:
            byte = process.stderr.read(1)
            assert byte, shown
            shown += byte
        process.send_signal(number)
        process.stderr.read()
        assert process.wait() == (130 if number == signal.SIGTERM else -number)
    subprocess.run([*with_run("run"), "--resume"], cwd=PROJECT, check=True, capture_output=True)
    subprocess.run(with_run("whole"), cwd=PROJECT, check=True, capture_output=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# Equivalences


def plain_settings(**changes: Any) -> TrainSettings:
    settings = {"augment": NO_AUGMENTATION, "cutmix": CutMixSettings(probability=0.0), "ema_decay": None}
    return SETTINGS.model_copy(update=settings | {"optimizer": "adam", "weight_decay": 0.0, "batch_size": 10} | changes)


def test_two_half_batches_make_the_step_of_a_whole_one(store: str, tmp_path: Path) -> None:
    fit(store, str(tmp_path / "whole"), "plain", plain_settings())
    fit(store, str(tmp_path / "halves"), "plain", plain_settings(batch_size=5, accumulate_batches=2))
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.allclose(whole[key], halves[key], rtol=0, atol=1e-6) for key in whole)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("store", {"batch_size": 5}),
        ("paired_store", {"batch_size": 6, "label_column": "face_label", "sampler": "paired"}),
    ],
    ids=["clips", "pairs"],
)
def test_two_processes_make_the_steps_of_one(
    which: str, changes: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Gloo on this machine's loopback; an odd number of units a batch, so that the two have unequal shares."""
    store, settings = request.getfixturevalue(which), plain_settings(**changes)
    fit(store, str(tmp_path / "one"), "plain", settings)
    code = (
        "import sys, training.models as models\n"
        "from training.config import TrainSettings\n"
        "from training.train import fit\n"
        "from tests.test_train import add_small_models\n"
        "add_small_models(models._MODELS.__setitem__)\n"
        "fit(sys.argv[1], sys.argv[2], 'plain', TrainSettings.model_validate_json(sys.argv[3]), device='cpu')\n"
    )
    (tmp_path / "two.py").write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    arguments = [str(tmp_path / "two.py"), store, str(tmp_path / "two"), settings.model_dump_json()]
    subprocess.run(
        [*launch, "--nproc-per-node=2", *arguments],
        cwd=PROJECT,
        env={"PATH": "", "PYTHONPATH": str(PROJECT), "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-6) for key in one)
    losses = [[float(row["loss"]) for row in steps(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    metrics = [read_info(tmp_path / name / "last.safetensors").metrics for name in ("one", "two")]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)


# Trouble


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_clips(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    calls = itertools.count(1)
    real = Tiny.forward
    monkeypatch.setattr(Tiny, "forward", lambda self, clips: real(self, clips) * (np.nan if next(calls) == 7 else 1))
    with pytest.raises(
        DivergedError, match=r"the loss is nan.*on the clips \d/[01]\.mp4#0, .*keeps the last good state"
    ):
        fit(store, str(tmp_path / "run"), "tiny", SETTINGS, save_minutes=0)
    monkeypatch.undo()
    add_small_models(lambda name, model: monkeypatch.setitem(models._MODELS, name, model))
    assert read_info(tmp_path / "run" / "last.safetensors").epoch == 1
    assert fit(store, str(tmp_path / "run"), "tiny", SETTINGS, resume=True)
    assert_same_run(tmp_path / "run", whole_run)


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Tiny.forward

    def forward(self: Tiny, clips: Tensor) -> Tensor:
        # The square root of nothing has a finite value and an infinite slope.
        return real(self, clips) + (self.fc.weight.sum() * 0).abs().sqrt()

    monkeypatch.setattr(Tiny, "forward", forward)
    with pytest.raises(DivergedError, match=r"its gradient's length nan"):
        fit(store, str(tmp_path / "run"), "tiny", SETTINGS, save_minutes=0)
    assert not (tmp_path / "run" / "resume.pt").exists()


@pytest.mark.parametrize("full_at", ["last.safetensors", "resume.pt", "history.csv"])
def test_a_full_disk_leaves_the_last_epoch_whole(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path, full_at: str
) -> None:
    written: list[str] = []
    real = StoreFiles.write

    def write(self: StoreFiles, name: str, data: bytes) -> None:
        written.append(name)
        if name == full_at and written.count(name) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, data)

    monkeypatch.setattr(StoreFiles, "write", write)
    with pytest.raises(WriteError, match=rf"{full_at}: \[Errno 28\] No space left on device; the one before is whole"):
        fit(store, str(tmp_path / "run"), "tiny", SETTINGS)
    assert read_info(tmp_path / "run" / "best.safetensors").epoch == 1
    read_info(tmp_path / "run" / "last.safetensors")
    assert fit(store, str(tmp_path / "run"), "tiny", SETTINGS, resume=True)
    assert_same_run(tmp_path / "run", whole_run)


def test_a_run_of_something_else_is_replaced_when_that_is_asked_for(
    store: str, tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert fit(store, str(run_dir), "plain", SETTINGS)
    (run_dir / "notes.txt").write_text("mine")
    assert fit(store, str(run_dir), "tiny", SETTINGS, resume=True, replace_run=True)
    assert 'was one of something else (model: run "plain", now "tiny"); begun anew' in capsys.readouterr().out
    assert_same_run(run_dir, whole_run)
    assert (run_dir / "notes.txt").read_text() == "mine"


def test_a_run_of_the_same_thing_is_gone_on_with_and_one_of_other_code_is_replaced(
    store: str, tmp_path: Path, whole_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = str(tmp_path / "run")
    with pytest.raises(Killed):
        fit(store, run_dir, "tiny", SETTINGS, save_minutes=0, should_stop=kill_after(5))
    with monkeypatch.context() as other_code:
        other_code.setattr("training.train.code_digest", lambda *_: "other")
        # Who resumes by hand may have mended the code in between.
        with pytest.raises(Killed):
            fit(store, run_dir, "tiny", SETTINGS, resume=True, save_minutes=0, should_stop=kill_after(2))
    assert len(steps(tmp_path / "run")) == 6
    assert fit(store, run_dir, "tiny", SETTINGS, resume=True, replace_run=True)
    assert "5 batches are done" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", whole_run)

    monkeypatch.setattr("training.train.code_digest", lambda *_: "other")
    assert fit(store, run_dir, "tiny", SETTINGS, resume=True, replace_run=True)
    shown = capsys.readouterr().out
    assert 'now "other"); begun anew' in shown
    assert "0 batches are done" in shown


def test_a_folder_of_somebody_else_is_not_replaced(store: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        fit(store, str(tmp_path / "run"), "tiny", SETTINGS, resume=True, replace_run=True)


def test_a_folder_with_a_run_is_not_written_over(store: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    fit(store, str(tmp_path / "run"), "tiny", settings)
    with pytest.raises(InputError, match=r"holds a run already; --resume goes on with it, or choose another folder"):
        fit(store, str(tmp_path / "run"), "tiny", settings)
    with pytest.raises(
        InputError, match=r"is another run \(model: run \"tiny\", now \"plain\"; train.epochs: run 1, now 3\)"
    ):
        fit(store, str(tmp_path / "run"), "plain", SETTINGS, resume=True)


def test_what_a_kill_amid_a_write_left_is_removed(store: str, tmp_path: Path, whole_run: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / ".config.yaml.0123abcd.tmp").touch()
    with pytest.raises(Killed):
        fit(store, str(run_dir), "tiny", SETTINGS, should_stop=kill_after(5))
    (run_dir / ".resume.pt.0123abcd.tmp").touch()
    with (run_dir / "steps.csv").open("a") as file:
        file.write("5,2,0.6")
    assert fit(store, str(run_dir), "tiny", SETTINGS, resume=True)
    assert not list(run_dir.glob(".*"))
    assert_same_run(run_dir, whole_run)


def test_a_folder_with_something_else_is_not_written_to(store: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty and holds no run"):
        fit(store, str(tmp_path), "tiny", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_store_is_refused_with_both_fingerprints(store: str, tmp_path: Path) -> None:
    fit(store, str(tmp_path / "run"), "tiny", SETTINGS.model_copy(update={"epochs": 1}))
    made_with = Settings(crop=CropSettings(size=64, margin=0.3))
    videos = [
        make_video(f"{i}.mp4", [9], label=i % 2, frames=flickering(np.random.default_rng(i), 0, 9)) for i in range(20)
    ]
    other = write_store(tmp_path / "other", [videos], made_with)
    with pytest.raises(InputError, match=rf'store\.fingerprint: run "\w+", now "{other.fingerprint}"'):
        fit(other.url, str(tmp_path / "run"), "tiny", SETTINGS.model_copy(update={"epochs": 1}), resume=True)


def test_a_store_that_has_grown_is_refused(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    fit(write_flickering_store(tmp_path / "small"), str(tmp_path / "run"), "tiny", settings)
    with pytest.raises(InputError, match=r'clips: run "\w+", now "\w+"'):
        fit(write_flickering_store(tmp_path / "grown", 9), str(tmp_path / "run"), "tiny", settings, resume=True)


def test_a_damaged_state_is_told(store: str, tmp_path: Path) -> None:
    fit(store, str(tmp_path / "run"), "tiny", SETTINGS.model_copy(update={"epochs": 1}))
    (tmp_path / "run" / "resume.pt").write_bytes(b"not a state")
    with pytest.raises(InputError, match=r"resume\.pt is damaged"):
        fit(store, str(tmp_path / "run"), "tiny", SETTINGS.model_copy(update={"epochs": 1}), resume=True)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--device", "cpu"])


def test_an_unknown_model_is_told_with_those_there_are(store: str, tmp_path: Path) -> None:
    result = command(store, str(tmp_path / "run"), "--model", "mc3_8")
    assert result.exit_code == 2
    assert "no model 'mc3_8'" in result.output
    assert "Choose one of: mc3_18, " in result.output
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_told_before_anything_is_written(
    store: str, tmp_path: Path, whole_run: Path
) -> None:
    (tmp_path / "params.yaml").write_text(
        f"train: {{weights: {whole_run / 'best.safetensors'}, validation_fraction: 0.4}}"
    )
    result = command(store, str(tmp_path / "run"), "--model", "r3d_18", "--params", str(tmp_path / "params.yaml"))
    assert result.exit_code == 2
    assert "missing" in result.output.lower()
    assert not (tmp_path / "run").exists()


def test_a_mistyped_setting_is_told_with_those_there_are(store: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {cutmix: {probabilty: 1}}")
    result = command(store, str(tmp_path / "run"), "--model", "mc3_18", "--params", str(tmp_path / "params.yaml"))
    assert result.exit_code == 2
    hint = "did you mean 'probability'? allowed here: probability, mode, alpha"
    assert f"unknown key 'train.cutmix.probabilty'; {hint}" in result.output


def test_a_gpu_that_is_not_there_is_told(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, [store, str(tmp_path / "run"), "--model", "mc3_18", "--device", "cuda"])
    assert result.exit_code == 2
    assert "no CUDA device here; use --device cpu or auto" in result.output


def test_more_processes_than_clips_in_a_batch_are_refused(store: str) -> None:
    opened = FaceStore.open(store)
    with pytest.raises(InputError, match="10 clips in batches of 4 leave some of the 4 processes without a clip"):
        open_clips(opened, models.model_spec("tiny"), SETTINGS, rank=0, world_size=4)
    training, validation, _ = open_clips(opened, models.model_spec("tiny"), SETTINGS, rank=2, world_size=3)
    assert training.describe("train") == "train: 10 tracks (5 REAL, 5 FAKE) of 10 videos in 5 groups"
    assert len(list(validation.loader)) == 2


def test_short_tracks_are_told(store: str) -> None:
    spec = replace(models.model_spec("tiny"), clip_frames=8, frame_step=2)
    training, _, _ = open_clips(FaceStore.open(store), spec, SETTINGS)
    assert training.describe("train").endswith("in 5 groups; 10 are shorter than 15 frames and are looped")


# Labels of faces, and pairs


def test_faces_labels_are_trained_on_and_videos_labels_validate(tmp_path: Path) -> None:
    """Of groups 1 and 2, of which the latter trains, it isn't known what became of the second face."""
    store = FaceStore.open(write_paired_store(tmp_path / "store", {1: (1, None), 2: (1, None)}))
    settings = SETTINGS.model_copy(update={"label_column": "face_label"})
    training, validation, batches = open_clips(store, models.model_spec("tiny"), settings)
    rows = training.tracks.to_pylist()
    assert training.dataset.labels.tolist() == [-1 if (v := row["face_label"]) is None else v for row in rows]
    untouched = [row["label"] == 1 and row["track_id"] == 1 and row["face_label"] == 0 for row in rows]
    assert sum(untouched) == 8
    assert training.dataset.labels[untouched].tolist() == [0] * 8
    assert training.describe("train") == (
        "train: 28 tracks (18 REAL, 10 FAKE by face_label) of 15 videos in 5 groups; 2 more have no face_label and are "
        "left out"
    )
    shown = [int(row) for sample in training.loader for row in sample.row]
    assert len(shown) == sum(batches.batch_sizes) == 20
    assert not {row for row in shown if training.dataset.labels[row] < 0}

    assert validation.dataset.labels.tolist() == validation.tracks["label"].to_pylist()
    assert None in validation.tracks["face_label"].to_pylist()
    assert validation.describe("validate") == "validate: 18 tracks (6 REAL, 12 FAKE) of 9 videos in 3 groups"


def test_what_is_known_of_the_faces_that_validate_changes_no_metric(paired_store: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"label_column": "face_label", "epochs": 1})
    opened = FaceStore.open(paired_store)
    _, validation, _ = open_clips(opened, models.model_spec("tiny"), settings)
    groups = {int(group[1:]) for group in validation.tracks["group_id"].to_pylist()}
    other = write_paired_store(tmp_path / "other", dict.fromkeys(groups, (None, 1)))
    for name, store in (("run", paired_store), ("other run", other)):
        fit(store, str(tmp_path / name), "tiny", settings)
    ours, theirs = (read_info(tmp_path / name / "last.safetensors") for name in ("run", "other run"))
    assert ours.metrics == theirs.metrics
    assert ours.store["clips"] != theirs.store["clips"]


@pytest.mark.parametrize("sampler", ["balanced", "paired"])
@pytest.mark.parametrize("label_column", ["label", "face_label"])
def test_whatever_is_trained_on_scoring_knows_the_clips_and_the_prior_of_a_video(
    paired_store: str, tmp_path: Path, label_column: str, sampler: str
) -> None:
    settings = SETTINGS.model_copy(update={"label_column": label_column, "sampler": sampler, "epochs": 1})
    fit(paired_store, str(tmp_path / "run"), "tiny", settings)
    info, store = read_info(tmp_path / "run" / "last.safetensors"), FaceStore.open(paired_store)
    assert trained_on(read_tracks(store), store.fingerprint, info) == "was trained on"
    assert info.train_prior == pytest.approx(2 / 3)


@pytest.mark.parametrize("world_size", [1, 2])
def test_both_clips_of_a_pair_are_equal_to_the_pixel_where_the_fake_is(paired_store: str, world_size: int) -> None:
    settings = PAIRED.model_copy(update={"batch_size": 10})
    store, spec = FaceStore.open(paired_store), models.model_spec("tiny")
    seen = []
    for rank in range(world_size):
        training, _, batches = open_clips(store, spec, settings, rank, world_size)
        assert training.describe("train") == (
            "train: 30 tracks (20 REAL, 10 FAKE by face_label) of 15 videos in 5 groups; an epoch has 5 pairs of one "
            "face; 15 tracks without a partner, all of one class, are left out"
        )
        for epoch in range(4):
            batches.start(epoch)
            for sample in training.loader:
                real, fake = sample.frames[0::2], sample.frames[1::2]
                assert sample.label.tolist() == [0, 1] * len(real)
                assert torch.equal(real[:, :, :16], fake[:, :, :16])
                assert not torch.equal(real, fake)
                seen += sample.row.tolist()
    names = training.tracks["video_id"].take(seen).to_pylist()
    originals = [name for name in names if name.endswith("0.mp4")]
    assert len(originals) == len(names) - len(originals) == 20
    assert len({name for name in names if not name.endswith("0.mp4")}) > 5


@pytest.mark.parametrize("killed_after", [2, 5])
def test_a_run_on_pairs_that_was_killed_goes_on_as_if_it_had_not_been(
    paired_store: str, tmp_path: Path, killed_after: int
) -> None:
    assert fit(paired_store, str(tmp_path / "whole"), "tiny", PAIRED)
    assert len(steps(tmp_path / "whole")) == NUM_STEPS
    with pytest.raises(Killed):
        fit(
            paired_store, str(tmp_path / "run"), "tiny", PAIRED, save_minutes=0, should_stop=kill_after(killed_after)
        )  # fmt: skip
    assert fit(paired_store, str(tmp_path / "run"), "tiny", PAIRED, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_fake_that_differs_from_its_original_alone_is_learned(paired_store: str, tmp_path: Path) -> None:
    settings = PAIRED.model_copy(update={"epochs": 80, "max_learning_rate": 0.02, "ema_decay": None})
    settings = settings.model_copy(update={"cutmix": CutMixSettings(probability=0.2, donor="pair")})
    assert fit(paired_store, str(tmp_path / "run"), "tiny", settings)
    # Of the fakes that validate, too, one face of two is as filmed.
    assert read_info(tmp_path / "run" / "best.safetensors").metrics["auc"] > 0.8


def test_a_batch_keeps_pairs_aligned_and_gives_each_clip_a_box_of_the_other(
    paired_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donors, equal_shares = [], []

    def noted(clips: Tensor, mix: Mix) -> Tensor:
        donors.append(mix.donors.tolist())
        equal_shares.extend((clips[0::2] == clips[1::2]).flatten(1).float().mean(dim=1).tolist())
        return paste(clips, mix)

    monkeypatch.setattr("training.train.paste", noted)
    changes = {
        "cutmix": CutMixSettings(probability=1.0, donor="pair"),
        "augment": AugmentSettings(colour_probability=0),
    }
    settings = PAIRED.model_copy(update={"epochs": 1} | changes)
    assert fit(paired_store, str(tmp_path / "run"), "tiny", settings)
    assert donors == [[1, 0, 3, 2], [1, 0, 3, 2], [1, 0]]
    # The middle of a fake is another one: a quarter of the picture, half of the smallest crop of it.
    assert len(equal_shares) == 5
    assert all(0.4 < share < 0.8 for share in equal_shares)


def test_a_store_without_labels_of_faces_or_without_pairs_is_told_what_to_do(store: str) -> None:
    opened, spec = FaceStore.open(store), models.model_spec("tiny")
    with pytest.raises(
        InputError,
        match=r"face_label: of the 10 tracks to train on 0 are known to be as filmed and 0 to be changed.*"
        r"extract again with pair\.reuse_tracks.*or use train\.label_column: label",
    ):
        open_clips(opened, spec, SETTINGS.model_copy(update={"label_column": "face_label"}))
    with pytest.raises(
        InputError, match=r"paired: of the 5 real clips to train on none has a fake of it; .*or use train\.sampler: bal"
    ):
        open_clips(opened, spec, SETTINGS.model_copy(update={"sampler": "paired"}))


def test_more_processes_than_pairs_in_a_batch_are_refused(paired_store: str) -> None:
    with pytest.raises(InputError, match="10 clips in batches of 4 leave some of the 2 processes without a clip"):
        open_clips(FaceStore.open(paired_store), models.model_spec("tiny"), PAIRED, rank=0, world_size=2)


# Learning by heart


@pytest.mark.slow
@pytest.mark.parametrize("name", models.model_names())
def test_every_model_learns_eight_clips_by_heart(tmp_path: Path, name: str) -> None:
    """With the loop, the schedule and the dropout it is trained with; the run is over once the loss is below 0.05."""
    store, run_dir = write_flickering_store(tmp_path / "store"), tmp_path / "run"
    settings = plain_settings(
        epochs=60, batch_size=8, max_learning_rate=1e-3, validation_folders=tuple("0123"), validate_every_epochs=60
    )

    def is_learned() -> bool:
        return float(steps(run_dir)[-1]["loss"]) < 0.05

    assert not fit(store, str(run_dir), name, settings, should_stop=is_learned)
    assert len(steps(run_dir)) < 60
