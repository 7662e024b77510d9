"""The settings of the training: the files that come with the project are read as they are meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.settings import ConfigError, load_settings, parse_settings
from training.config import Settings

PROJECT = Path(__file__).resolve().parents[1]


def test_the_params_yaml_of_the_project_holds_the_defaults_all_of_them() -> None:
    assert load_settings(PROJECT / "params.yaml", Settings) == Settings()
    spelled_out = yaml.safe_load((PROJECT / "params.yaml").read_text())["train"]
    assert spelled_out == Settings().train.model_dump(mode="json")


def test_the_demo_is_small_and_known() -> None:
    demo = load_settings(PROJECT / "params" / "demo.yaml", Settings).train
    assert (demo.input_size, demo.clip_frames) == (64, 8)


def test_boxes_of_the_pair_go_with_pairs() -> None:
    train = {"sampler": "paired", "label_column": "face_label", "cutmix": {"donor": "pair"}}
    parsed = parse_settings({"train": train}, "params.yaml", Settings).train
    assert (parsed.sampler, parsed.label_column, parsed.cutmix.donor) == ("paired", "face_label", "pair")


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ({"epoch": 3}, r"unknown key 'train.epoch'; did you mean 'epochs'\? allowed here: input_size, "),
        ({"augment": {"crop_scale": [0, 1]}}, r"crop_scale must be \[least, most\], above 0 and up to 1"),
        ({"augment": {"crop_ratio": [1.2, 0.9]}}, "crop_ratio must be"),
        ({"input_size": 32}, "greater than or equal to 64"),
        ({"clip_frames": 4}, "greater than or equal to 8"),
        ({"cutmix": {"mode": "mixup"}}, "'spatial', 'temporal' or 'cuboid'"),
        ({"cutmix": {"donor": "pair"}}, "cutmix.donor: pair needs pairs in a batch: set sampler: paired, or"),
        ({"cutmix": {"donor": "none"}}, "'any' or 'pair'"),
        ({"sampler": "pairs"}, "'balanced' or 'paired'"),
        ({"label_column": "change_score"}, "'label' or 'face_label'"),
        ({"precision": "int8"}, "'auto', 'none', 'bf16' or 'fp16'"),
        ({"batch_size": 1}, "greater than or equal to 2"),
    ],
)
def test_a_mistake_is_named(train: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_settings({"train": train}, "params.yaml", Settings)
