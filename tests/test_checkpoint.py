"""Checkpoints: everything needed to score comes back, nothing is run, and half a file is never one."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.errors import InputError, WriteError
from pipeline.files import StoreFiles
from training.checkpoint import HEADER_KEY, CheckpointInfo, load_checkpoint, read_info, save_checkpoint
from training.models import build_model, model_spec

pytestmark = pytest.mark.usefixtures("one_torch_thread")

INFO = CheckpointInfo(
    spec=replace(model_spec("mc3_18"), input_size=64, clip_frames=8),
    num_classes=2,
    train_settings={"epochs": 3, "augment": {"crop_scale": [0.5, 1.0]}},
    store={"fingerprint": "0123456789abcdef", "settings": {"crop": {"size": 256}}},
    train_prior=2 / 3,
    epoch=3,
    metrics={"log_loss": 0.5},
    versions={"faceclips": "0.1.0"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``model.safetensors``, of a model with weights of its own."""
    path = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(3)
    save_checkpoint(StoreFiles(str(path)), "model.safetensors", build_model("mc3_18").state_dict(), INFO)
    return path


def changed(folder: Path, path: Path, change: dict[str, Any]) -> Path:
    """The checkpoint with another description."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()[HEADER_KEY])
    safetensors.torch.save_file(tensors, path, {HEADER_KEY: json.dumps(description | change)})
    return path


def test_the_model_and_its_description_come_back(folder: Path) -> None:
    model, info = load_checkpoint(folder / "model.safetensors")
    assert info == INFO
    torch.manual_seed(3)
    original = build_model("mc3_18").eval()
    clips = torch.rand(1, 3, 8, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(clips), original(clips))
    assert not model.training


def test_a_model_in_another_memory_layout_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    model, _ = load_checkpoint(folder / "model.safetensors")
    weights = model.to(memory_format=torch.channels_last_3d).state_dict()
    save_checkpoint(StoreFiles(str(tmp_path)), "model.safetensors", weights, INFO)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_its_weights_are_a_start_for_another_run(folder: Path) -> None:
    state = build_model("mc3_18", weights=folder / "model.safetensors").state_dict()
    expected = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_another_format_version_says_what_it_wants(folder: Path, tmp_path: Path) -> None:
    path = changed(folder, tmp_path / "new.safetensors", {"format_version": 2, "versions": {"faceclips": "9.1"}})
    with pytest.raises(InputError, match=r"format version 2, this code reads 1; it was written by faceclips 9\.1"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [{"spec": {"name": "mc3_18"}}, {"surprise": 1}])
def test_a_description_that_is_not_whole_is_refused(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"exactly the keys|no whole checkpoint"):
        read_info(changed(folder, tmp_path / "other.safetensors", change))


def test_bare_weights_are_no_checkpoint(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"holds weights, but not what is needed to score with them"):
        read_info(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 pickle", b"\xff" * 100])
def test_another_file_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"best\.pt can't be read as a checkpoint"):
        read_info(tmp_path / "best.pt")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_info(tmp_path / "nowhere.safetensors")


def test_a_full_disk_leaves_the_checkpoint_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, weights = StoreFiles(str(tmp_path)), {"fc.weight": torch.ones(2, 2)}
    save_checkpoint(files, "best.safetensors", weights, INFO)
    before = (tmp_path / "best.safetensors").read_bytes()

    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(WriteError, match=r"can't write .*best\.safetensors: .*No space left.*the one before is whole"):
        save_checkpoint(files, "best.safetensors", {"fc.weight": torch.zeros(2, 2)}, INFO)
    assert (tmp_path / "best.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
