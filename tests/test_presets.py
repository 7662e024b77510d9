"""The presets in ``params/``: they are read by all stages, hold the notebook's numbers, and run."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from accelerate import Accelerator
from click.testing import CliRunner
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

import inference.config
import inference.predict
import pipeline.config
import pipeline.extract
import training.config
import training.train
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from pipeline.upkeep import verify_store
from tests.faces import Face, face_video
from tests.stores import make_video, write_store
from training import models
from training.checkpoint import read_info
from training.config import TrainSettings
from training.loading import open_clips
from training.models import build_model
from training.sampling import chance_of
from training.train import NUM_CLASSES, OPTIMIZERS, batch_loss, spec_of

pytestmark = pytest.mark.usefixtures("one_torch_thread", "fresh_accelerator")

PARAMS = Path(__file__).resolve().parents[1] / "params"
PAGE = (PARAMS.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
STAGES = (pipeline.config.Settings, training.config.Settings, inference.config.Settings)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Model:
    """A model of the notebook."""

    name: str
    input_size: int
    clip_frames: int
    weights: str
    is_mixed: bool = False
    """With CutMix."""


KINETICS = "KINETICS400_V1"
MODELS = {
    "seed-i3d": Model("i3d", 224, 64, "rgb_charades"),
    "seed-resnet3d-34": Model("resnet3d_34", 224, 32, "weights/resnet-34-kinetics.pth"),
    "seed-mc3-18-112": Model("mc3_18", 112, 32, KINETICS),
    "seed-mc3-18-224": Model("mc3_18", 224, 32, "runs/seed-mc3-18-112/best.safetensors"),
    "seed-r2plus1d-18": Model("r2plus1d_18", 112, 32, KINETICS),
    "seed-i3d-cutmix": Model("i3d", 224, 64, "rgb_charades", is_mixed=True),
    "seed-r2plus1d-18-cutmix": Model("r2plus1d_18", 112, 32, KINETICS, is_mixed=True),
    "seed-seresnext50-2d": Model("seresnext50_2d", 256, 32, "racm_in1k"),
}
"""The seven and one, by preset."""

NUMBERS: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    ("seed-inference", "seed-inference-2d"): {
        "detect.max_frames": 100,
        "detect.every_n_frames": 10,
        "detect.whole_frame_every": 1,
        "detect.long_side_pixels": 480,
        "detect.thresholds": [0.8, 0.8, 0.9],
        "detect.pyramid_factor": 0.71,
        "detect.retry_scale": 2.0,
        "detect.retry_thresholds": [0.5, 0.5, 0.5],
        "track.min_frames": 30,
        "track.max_faces": 5,
        "predict.windows": None,
        "predict.mirror": True,
        "aggregate.windows": "mean",
        "aggregate.tracks": "mean",
        "aggregate.models": "mean",
        "aggregate.weights": {},
        "aggregate.temperature": 1.0,
        "aggregate.fallback": 0.5,
        "aggregate.clip": 0.001,
    },
    ("seed-training", "seed-training-2d"): {
        "detect.max_frames": 300,
        "detect.every_n_frames": 10,
        "detect.whole_frame_every": 1,
        "detect.long_side_pixels": 960,
        "detect.thresholds": [0.6, 0.7, 0.7],
        "detect.pyramid_factor": 0.709,
        "detect.retry_scale": 2.0,
        "detect.retry_thresholds": [0.5, 0.5, 0.5],
        "track.min_frames": 30,
        "track.max_faces": 5,
        "track.segment_frames": 150,
    },
    ("seed-inference", "seed-training"): {"crop.mode": "union", "crop.size": 256, "crop.margin": 0.0},
    ("seed-inference-2d", "seed-training-2d"): {
        "crop.mode": "follow",
        "crop.size": 256,
        "crop.follow_scale": 1.2,
        "crop.follow_percentile": 90.0,
    },
    ("seed-inference",): {"predict.max_frames": 100, "predict.centre_crop_up_to": 1.2},
    ("seed-inference-2d",): {"predict.max_frames": 32, "predict.centre_crop_up_to": 1.0},
    tuple(MODELS): {
        "train.validation_folders": [f"dfdc_train_part_{number}" for number in range(45, 50)],
        "train.label_column": "label",
        "train.sampler": "balanced",
        "train.augment.crop_scale": [0.5, 1.0],
        "train.augment.crop_ratio": [0.9, 1.1],
        "train.augment.flip_probability": 0.5,
        "train.augment.colour_probability": 0.25,
        "train.cutmix.mode": "cuboid",
        "train.cutmix.alpha": 1.0,
        "train.label_smoothing": 0.0,
    },
    tuple(name for name, model in MODELS.items() if not model.is_mixed): {
        "train.optimizer": "adam",
        "train.max_learning_rate": 1e-4,
        "train.epochs": 20,
        "train.cutmix.probability": 0.0,
    },
    tuple(name for name, model in MODELS.items() if model.is_mixed): {
        "train.optimizer": "adamw",
        "train.max_learning_rate": 1e-3,
        "train.epochs": 10,
        "train.cutmix.probability": 0.5,
    },
}
"""The notebook's numbers by preset. Change none of them: they are what it did, not what is best."""


def preset(name: str) -> Path:
    return PARAMS / f"{name}.yaml"


def document(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(preset(name).read_text(encoding="utf-8"))
    return parsed


def train_settings(name: str) -> TrainSettings:
    return load_settings(preset(name), training.config.Settings).train


# What they say


@pytest.mark.parametrize("path", sorted(PARAMS.iterdir()), ids=lambda path: path.name)
def test_every_file_is_read_by_all_stages_and_has_no_other_sections(path: Path) -> None:
    for settings in STAGES:
        load_settings(path, settings)
    assert set(yaml.safe_load(path.read_text())) <= {section for stage in STAGES for section in stage.model_fields}


def test_there_is_a_preset_for_each_model_and_for_either_extraction() -> None:
    presets = {name for names in NUMBERS for name in names}
    assert presets == {path.stem for path in PARAMS.glob("seed-*.yaml")}
    assert {"seed-inference", "seed-training", "seed-inference-2d", "seed-training-2d"} == presets - MODELS.keys()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        pytest.param(name, key, value, id=f"{name}:{key}")
        for names, numbers in NUMBERS.items()
        for name in names
        for key, value in numbers.items()
    ],
)
def test_the_numbers_are_those_of_the_notebook(name: str, key: str, value: Any) -> None:
    found: Any = document(name)
    for part in key.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize("name", MODELS)
def test_each_model_has_its_size_length_and_weights(name: str) -> None:
    model, settings = MODELS[name], train_settings(name)
    assert (settings.input_size, settings.clip_frames, settings.weights) == (
        model.input_size, model.clip_frames, model.weights,
    )  # fmt: skip
    assert f"--model {model.name} " in preset(name).read_text()


@pytest.mark.parametrize("name", MODELS)
def test_a_preset_spells_everything_out_so_that_no_default_changes_it(name: str) -> None:
    assert document(name) == {"train": train_settings(name).model_dump(mode="json")}


@pytest.mark.parametrize("name", ["seed-inference", "seed-training", "seed-inference-2d", "seed-training-2d"])
def test_an_extraction_spells_out_what_decides_its_clips(name: str) -> None:
    settings = {
        section: values
        for stage in (pipeline.config.Settings, inference.config.Settings)
        for section, values in load_settings(preset(name), stage).model_dump(mode="json").items()
    }
    found = document(name)
    assert found.pop("pair") == {"reuse_tracks": False}
    assert set(found) >= {"detect", "track", "crop"}
    assert found == {section: settings[section] for section in found}


@pytest.mark.parametrize("name", ["seed-inference", "seed-training"])
def test_the_2d_model_has_the_same_tracks(name: str) -> None:
    ours, flat = document(name), document(f"{name}-2d")
    assert {key for key in ours if ours[key] != flat[key]} <= {"crop", "predict"}


def test_models_are_scored_on_what_they_were_trained_on() -> None:
    for suffix in ("", "-2d"):
        assert document(f"seed-inference{suffix}")["crop"] == document(f"seed-training{suffix}")["crop"]


def test_the_page_about_them_names_each_with_its_command() -> None:
    for name, model in MODELS.items():
        assert f"| `{name}` | `{model.name}` |" in PAGE
        assert f"--params params/{name}.yaml" in PAGE
    named = set(re.findall(r"params/(seed-[\w-]+)\.yaml", PAGE))
    assert named == {path.stem for path in PARAMS.glob("seed-*.yaml")}


def words(text: str) -> str:
    """Commands without what only arranges them on a page."""
    return " ".join(text.replace("\\\n", " ").split())


@pytest.mark.parametrize("name", MODELS)
def test_a_preset_begins_with_the_command_that_the_page_has(name: str) -> None:
    text = (PARAMS / f"{name}.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^# (python -m training\.train .*\\\n#.*)", text, re.MULTILINE)
    assert words(command.replace("\n#", "\n")) in words(PAGE)


def test_the_page_joins_two_submissions(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "results").mkdir()
    for name, scores in (("3d", (0.25, 0.5)), ("2d", (0.75, 0.5))):
        lines = ["filename,label", f"b/ä.mp4,{scores[0]}", f"a.mp4,{scores[1]}"]
        (tmp_path / f"results/{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    written = (tmp_path / "results/submission.csv").read_text(encoding="utf-8").splitlines()
    assert written == ["filename,label", "b/ä.mp4,0.3125", "a.mp4,0.5"]


# Extraction


def run(command: click.Command, *arguments: object) -> str:
    result = CliRunner().invoke(command, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 frames of a face that moves."""
    return face_video(tmp_path_factory.mktemp("videos") / "long.mkv", 130, [Face(speed=(0.5, 0.1))])


@pytest.mark.parametrize(
    ("name", "num_frames"), [("seed-inference", 100), ("seed-inference-2d", 100), ("seed-training", 130)]
)
def test_an_extraction_looks_at_so_many_frames_and_no_more(
    tmp_path: Path, video: Path, name: str, num_frames: int
) -> None:
    run(pipeline.extract.main, video, tmp_path / "store", "--params", preset(name), "--workers", 0, "--device", "cpu")
    store = FaceStore.open(str(tmp_path / "store"))
    assert list(verify_store(store)) == []
    (row,) = store.videos.to_pylist()
    assert (row["status"], row["num_frames_decoded"], row["message"]) == ("ok", num_frames, None)
    (track,) = store.tracks.to_pylist()
    assert (track["frame_start"], track["frame_stop"]) == (0, num_frames)
    assert np.flatnonzero(track["observed"]).tolist() == [*range(0, num_frames, 10), num_frames - 1]
    boxes, squares = np.array(track["boxes_xyxy"]), np.array(track["crop_xyxy"])
    sides = squares[:, 2:] - squares[:, :2]
    longer_sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    if name.endswith("-2d"):
        np.testing.assert_allclose(sides, 1.2 * np.percentile(longer_sides, 90), rtol=1e-4)
        np.testing.assert_allclose(squares.reshape(-1, 2, 2).mean(1), boxes.reshape(-1, 2, 2).mean(1), atol=1e-3)
    else:
        union = boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)
        assert len(np.unique(squares, axis=0)) == 1
        assert sides[0].tolist() == [np.ceil(union.max())] * 2


# Training and scoring

STORED_PIXELS = 72
"""An eighth more than the 64 pixels that models are shown here: as 256 to 224."""
SMALL = {"input_size": 64, "clip_frames": 8, "batch_size": 2, "epochs": 1, "precision": "none"}


def clip(rng: np.random.Generator, length: int = 10) -> UInt8Array:
    blocks = rng.integers(0, 256, (length, 9, 9, 3), np.uint8)
    return np.repeat(np.repeat(blocks, STORED_PIXELS // 9, axis=1), STORED_PIXELS // 9, axis=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As seed-training.yaml makes it, but of fewer pixels; both classes on either side of the split."""
    rng = np.random.default_rng(0)
    labels = {"0": (0, 1), "7": (1,), "45": (0,), "46": (1,), "47": (1,), "48": (0,), "49": (1,)}
    videos = [
        make_video(f"dfdc_train_part_{folder}/{label}.mp4", [10], label=label, frames=clip(rng))
        for folder, of_folder in labels.items()
        for label in of_folder
    ]
    made_with = load_settings(preset("seed-training"), pipeline.config.Settings)
    crop = made_with.crop.model_copy(update={"size": STORED_PIXELS})
    path = tmp_path_factory.mktemp("stores") / "store"
    return write_store(path, [videos], made_with.model_copy(update={"crop": crop})).url


PUBLISHED: Mapping[str, Callable[[], torch.nn.Module]] = {
    "i3d": lambda: build_model("i3d", 157),
    "resnet3d_34": lambda: build_model("resnet3d_34", 400),
    "mc3_18": lambda: torchvision.models.get_model("mc3_18", num_classes=400),
    "r2plus1d_18": lambda: torchvision.models.get_model("r2plus1d_18", num_classes=400),
    "seresnext50_2d": lambda: timm.create_model("seresnext50_32x4d", num_classes=1000),
}
"""Networks of random weights; that their states have the published names is for tests/test_models_weights.py."""


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Model], State]:
    """Makes the published weights of a model available where its preset looks for them, and gives what is in them."""

    def make(model: Model) -> State:
        torch.manual_seed(1)
        state: State = {
            key: tensor.half() if tensor.is_floating_point() else tensor
            for key, tensor in PUBLISHED[model.name]().state_dict().items()
        }
        known = models._MODELS[model.name]
        if model.weights in known.published:  # Or the name in the preset is none.
            fetched = replace(known, published={model.weights: lambda: state})
            monkeypatch.setitem(models._MODELS, model.name, fetched)
        else:
            path = tmp_path / model.weights
            path.parent.mkdir(parents=True)
            torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
        return state

    monkeypatch.chdir(tmp_path)
    return make


@pytest.mark.parametrize("name", [name for name in MODELS if name != "seed-mc3-18-224"])
def test_a_step_is_taken_from_the_published_weights(
    store: str, tmp_path: Path, published: Callable[[Model], State], name: str
) -> None:
    """The steps of :func:`training.train.fit`, without the folder of a run, which takes a gigabyte for some."""
    model = MODELS[name]
    state = published(model)
    settings = train_settings(name).model_copy(update=SMALL)
    if model.is_mixed:  # And not only half of the batches.
        settings = settings.model_copy(update={"cutmix": settings.cutmix.model_copy(update={"probability": 1.0})})
    spec = spec_of(model.name, settings)
    training, validation, batches = open_clips(FaceStore.open(store), spec, settings)
    assert training.describe("train").startswith("train: 3 tracks (1 REAL, 2 FAKE)")
    assert validation.describe("validate").startswith("validate: 5 tracks (2 REAL, 3 FAKE)")

    network = build_model(model.name, NUM_CLASSES, settings.weights)
    for file in (tmp_path / "weights").glob("*"):
        file.unlink()
    prefix = "backbone." if model.name == "seresnext50_2d" else ""
    key = next(key for key, tensor in state.items() if tensor.ndim > 3)
    assert torch.equal(network.state_dict()[prefix + key], state[key].float())

    optimizer = OPTIMIZERS[settings.optimizer](
        network.parameters(), lr=settings.max_learning_rate, weight_decay=settings.weight_decay
    )
    assert type(optimizer) is (torch.optim.AdamW if model.is_mixed else torch.optim.Adam)
    schedule = OneCycleLR(optimizer, settings.max_learning_rate, total_steps=2, pct_start=settings.warmup_fraction)
    accelerator = Accelerator(cpu=True)
    batches.start(0)
    (sample,) = training.loader
    assert sorted(sample.label.tolist()) == [0, 1]
    loss = batch_loss(accelerator, network, sample, spec, settings, batches.clips_per_unit, chance_of(0, "batch", 0))
    accelerator.backward(loss)
    before = network.state_dict()[prefix + key].clone()
    optimizer.step()
    schedule.step()
    assert torch.isfinite(loss)
    moved = (network.state_dict()[prefix + key] - before).abs().max()
    assert 0 < moved <= 1.01 * settings.max_learning_rate


def small(name: str, folder: Path) -> Path:
    """The preset, but of fewer pixels, frames and epochs."""
    written = document(name)
    written["train"] |= SMALL
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return path


@pytest.mark.slow
def test_from_112_to_224_pixels_and_on_to_a_submission_of_both(
    store: str, tmp_path: Path, published: Callable[[Model], State]
) -> None:
    """By the real commands, one after the other."""
    published(MODELS["seed-mc3-18-112"])
    for name in ("seed-mc3-18-112", "seed-mc3-18-224"):
        command = [store, f"runs/{name}", "--model", "mc3_18", "--params", small(name, tmp_path), "--device", "cpu"]
        said = run(training.train.main, *command)
        assert "epoch 1: train loss" in said
        info = read_info(f"runs/{name}/best.safetensors")
        assert info.train_settings["weights"] == MODELS[name].weights
    said = run(
        inference.predict.main, store, "runs/seed-mc3-18-112", "runs/seed-mc3-18-224", "--held-out", "--device", "cpu",
        "--out", "scores.parquet", "--submission", "submission.csv", "--params", preset("seed-inference"),
    )  # fmt: skip
    assert "5 tracks of 5 videos" in said
    with (tmp_path / "submission.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["filename"].partition("/")[0] for row in rows] == [f"dfdc_train_part_{n}" for n in range(45, 50)]
    assert all(0.001 <= float(row["label"]) <= 0.999 for row in rows)
