"""Settings: every mistake in ``params.yaml`` is named, and whatever changes results changes the fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.settings import SECTIONS, ConfigError, load_settings, parse_settings
from pipeline.writer import StoreMismatchError, check_settings, create_or_resume

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"

CHANGES: dict[str, dict[str, Any]] = {
    "detect": {
        "max_frames": 100,
        "every_n_frames": 5,
        "whole_frame_every": 1,
        "long_side_pixels": 640,
        "min_face_pixels": 24,
        "thresholds": [0.6, 0.7, 0.7],
        "pyramid_factor": 0.8,
        "retry_scale": 1.5,
        "retry_thresholds": None,
        "batch_megapixels": 4,
    },
    "track": {
        "min_iou": 0.3,
        "max_gap_frames": 30,
        "min_frames": 16,
        "max_faces": 2,
        "segment_frames": 64,
        "cut_similarity": 0.4,
        "cut_face_similarity": 0.2,
    },
    "crop": {"mode": "follow", "size": 112, "margin": 0.2, "follow_scale": 1.3, "follow_percentile": 80},
    "pair": {"reuse_tracks": False, "max_frame_difference": 2, "min_change": 2.0},
    "store": {"codec": "lz4", "differences": False, "chunk_frames": 16, "shard_frames": 80},
    "extract": {"save_masks": True},
}
"""A value other than the default for every key that changes results."""


def message_of(document: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_settings(document, "params.yaml", Settings)
    return str(raised.value)


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, Settings)


def test_an_unknown_key_is_named_beside_those_its_section_has() -> None:
    message = message_of({"crop": {"sise": 224}})
    assert "params.yaml: unknown key 'crop.sise'" in message
    assert "allowed here: mode, size, margin, follow_scale, follow_percentile" in message


def test_a_key_of_another_section_is_told_rather_than_one_like_it() -> None:
    assert "did you mean 'detect.max_frames'?" in message_of({"track": {"max_frames": 30}})
    assert "did you mean 'track.min_frames'?" in message_of({"detect": {"min_frames": 30}})
    assert "did you mean 'max_faces'?" in message_of({"track": {"max_face": 3}})


def test_an_unknown_section_is_named_beside_all_sections_of_all_stages() -> None:
    message = message_of({"cropp": {}})
    assert "unknown key 'cropp'" in message
    assert all(name in message for name in SECTIONS)


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("detect", "every_n_frames", "often", "valid integer"),
        ("detect", "every_n_frames", 2.5, "valid integer"),
        ("detect", "every_n_frames", True, "valid integer"),
        ("detect", "retry_scale", True, "valid number"),
        ("detect", "every_n_frames", 0, "greater than or equal to 1"),
        ("detect", "max_frames", 0, "greater than or equal to 1"),
        ("detect", "batch_megapixels", 0, "greater than 0"),
        ("detect", "batch_megapixels", float("nan"), "finite number"),
        ("detect", "pyramid_factor", 1.0, "less than 0.95"),
        ("detect", "retry_scale", 8, "less than or equal to 4"),
        ("detect", "thresholds", 0.7, "valid tuple"),
        ("track", "min_iou", -0.1, "greater than or equal to 0"),
        ("crop", "margin", -0.5, "greater than -0.5"),
        ("crop", "mode", "onion", "'union' or 'follow'"),
        ("store", "codec", "jpeg", "'none', 'lz4' or 'zstd'"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(section: str, key: str, value: Any, allowed: str) -> None:
    message = message_of({section: {key: value}})
    assert f"'{section}.{key}' is {value!r}" in message
    assert allowed in message


def test_a_number_that_yaml_takes_for_text_is_told_how_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'crop\.margin' is '2e-1': .* write 0\.2 or 2\.0e-01"):
        load(tmp_path, "crop: {margin: 2e-1}")


def test_a_bad_entry_of_a_list_is_named_by_its_place() -> None:
    assert "'detect.thresholds.1' is 1.8: Input should be less than or equal to 1" in message_of(
        {"detect": {"thresholds": [0.7, 1.8, 0.9]}}
    )


def test_all_mistakes_are_told_at_once() -> None:
    message = message_of({"detect": {"every_n_frames": 0}, "crop": {"sise": 1}})
    assert "detect.every_n_frames" in message
    assert "crop.sise" in message


def test_a_section_that_is_no_section_is_an_error() -> None:
    assert "'detect' is 3" in message_of({"detect": 3})


@pytest.mark.parametrize("document", [["detect"], "detect"])
def test_a_file_that_has_no_sections_is_an_error(document: Any) -> None:
    assert f"expected sections such as 'detect:', got {type(document).__name__}" in message_of(document)


def test_shards_must_be_whole_chunks() -> None:
    assert "shard_frames must be a multiple of chunk_frames; got 100 and 8" in message_of(
        {"store": {"chunk_frames": 8, "shard_frames": 100}}
    )


def test_so_few_frames_that_no_track_is_long_enough_are_an_error() -> None:
    message = message_of({"detect": {"max_frames": 29}})
    assert "no track can be long enough, since max_frames, 29, is below track.min_frames, 30; " in message
    shorter = {"detect": {"max_frames": 29}, "track": {"min_frames": 29}}
    assert parse_settings(shorter, "params.yaml", Settings).detect.max_frames == 29
    assert "no track can be" not in message_of({"detect": {"max_frames": 29}, "track": {"min_frames": "few"}})


def test_sections_of_other_stages_are_none_of_our_business() -> None:
    others = {name: {"anything": [1, 2]} for name in set(SECTIONS) - set(Settings.model_fields)} | {"train": None}
    assert parse_settings({**others, "crop": {"size": 224}}, "params.yaml", Settings) == parse_settings(
        {"crop": {"size": 224}}, "params.yaml", Settings
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "detect:\n", "{}"])
def test_what_is_left_out_has_its_default(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Settings()


def test_values_arrive(tmp_path: Path) -> None:
    settings = load(tmp_path, "detect:\n  thresholds: [0.6, 0.7, 1]\n  retry_thresholds: null\ncrop:\n  mode: follow\n")
    assert settings.detect.thresholds == (0.6, 0.7, 1.0)
    assert settings.detect.retry_thresholds is None
    assert settings.crop.mode == "follow"


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().crop.size = 112  # type: ignore[misc]


def test_broken_yaml_is_told_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml is not valid YAML: .*line 2") as raised:
        load(tmp_path, "detect:\n  thresholds: [0.6, 0.7\ncrop: {}\n")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be read from .*nowhere\.yaml.*--params"):
        load_settings(tmp_path / "nowhere.yaml", Settings)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't be read"):
        load_settings(tmp_path / "params.yaml", Settings)


def test_the_table_of_changes_names_every_key_that_changes_results() -> None:
    defaults = Settings().results_settings()
    assert {section: set(keys) for section, keys in CHANGES.items()} == {
        section: set(keys) for section, keys in defaults.items()
    }


def test_every_value_that_changes_results_changes_the_fingerprint() -> None:
    fingerprints = [
        parse_settings({section: {key: value}}, "params.yaml", Settings).fingerprint()
        for section, keys in CHANGES.items()
        for key, value in keys.items()
    ]
    assert len({Settings().fingerprint(), *fingerprints}) == len(fingerprints) + 1


def test_how_work_is_cut_up_does_not_change_the_fingerprint() -> None:
    for changed in ({"videos_per_partition": 3}, {"megabytes_per_partition": 3}):
        other = parse_settings({"extract": changed}, "params.yaml", Settings)
        assert other != Settings()
        assert other.fingerprint() == Settings().fingerprint()


def test_a_default_that_is_spelled_out_does_not_change_the_fingerprint() -> None:
    spelled_out = parse_settings({"detect": {"retry_scale": 2, "thresholds": [0.7, 0.8, 0.9]}}, "params.yaml", Settings)
    assert spelled_out.fingerprint() == Settings().fingerprint()


def test_a_store_made_before_a_setting_was_there_is_extended_where_that_is_off(tmp_path: Path) -> None:
    files = create_or_resume(str(tmp_path / "store"), Settings())
    manifest = json.loads(files.read("store.json"))
    assert manifest["settings"]["detect"].pop("max_frames") is None
    files.write("store.json", json.dumps(manifest | {"fingerprint": "0123456789abcdef"}).encode())
    assert check_settings(str(tmp_path / "store"), Settings())
    limited = Settings.model_validate({"detect": {"max_frames": 100}})
    with pytest.raises(StoreMismatchError, match=r"\(detect\.max_frames: store null, now 100\)"):
        check_settings(str(tmp_path / "store"), limited)


def test_the_params_yaml_of_the_project_holds_the_defaults() -> None:
    assert load_settings(PARAMS, Settings) == Settings()
