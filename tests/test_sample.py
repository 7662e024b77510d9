"""The embedded sample: shaped like DFDC, the same for the same seed, its fakes aligned with their originals."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sample
from pipeline.config import DetectSettings
from pipeline.detect import shared_detector
from pipeline.encode import Mp4Writer
from pipeline.face_swap import GRADES, FaceLayer, Flicker, GradeName, paste, similarity, swapped_face
from pipeline.talking_head import Portrait, Scene
from pipeline.types import Float32Array, UInt8Array

TINY = ["--seed", "3", "--real", "2", "--fake", "3", "--seconds", "0.5"]
NUM_FRAMES = 15


def run(out: Path, *options: str) -> Result:
    return CliRunner().invoke(sample.main, [str(out), *options])


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_video(path: Path) -> UInt8Array:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_metadata(root: Path) -> dict[str, dict[str, Any]]:
    metadata: dict[str, dict[str, Any]] = json.loads((root / "train" / "metadata.json").read_text())
    return metadata


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "tiny"
    result = run(out, *TINY)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def portraits() -> list[Portrait]:
    return sample.load_portraits()


def test_has_the_shape_of_dfdc(tiny: Path) -> None:
    metadata = read_metadata(tiny)
    assert sorted(metadata) == sorted(path.name for path in (tiny / "train").glob("*.mp4"))
    real = {name for name, row in metadata.items() if row == {"label": "REAL", "split": "train"}}
    fakes = {name: row for name, row in metadata.items() if name not in real}
    assert (len(real), len(fakes)) == (2, 3)
    for row in fakes.values():
        assert row == {"label": "FAKE", "split": "train", "original": row["original"]}
        assert row["original"] in real


def test_labels_say_who_is_in_each_video_and_whose_face_a_swap_wears(tiny: Path) -> None:
    metadata = read_metadata(tiny)
    with (tiny / "labels.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert {path: row["label"] for path, row in rows.items()} == {p: entry["label"] for p, entry in metadata.items()}
    assert {path: row["original"] for path, row in rows.items()} == {
        path: entry.get("original", "") for path, entry in metadata.items()
    }
    people = {portrait.person for portrait in sample.load_portraits()}
    for row in rows.values():
        assert row["group"] in people
        assert row["donor"] in people - {row["group"]} | {""}
        if row["original"]:
            assert row["group"] == rows[row["original"]]["group"]
    assert any(row["donor"] for row in rows.values())


def test_a_sample_of_an_earlier_version_is_not_taken_for_this_one(tmp_path: Path) -> None:
    settings = sample.SampleSettings("easy", 0, 1, 0, 0.5)
    (tmp_path / "train").mkdir()
    sample.write_tables([], tmp_path, settings)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(click.UsageError, match=r"of an earlier version, without labels\.csv"):
        sample.is_finished(tmp_path, settings)


def test_submission_has_the_test_videos_and_no_answer(tiny: Path) -> None:
    with (tiny / "sample_submission.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == sorted(path.name for path in (tiny / "test").iterdir())
    assert {row["label"] for row in rows} == {"0.5"}
    assert len(rows) == sample.TEST_REAL + sample.TEST_FAKE


def test_same_seed_same_bytes(tiny: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "again", *TINY).exit_code == 0
    assert hashes(tmp_path / "again") == hashes(tiny)


def test_other_seed_other_videos(portraits: list[Portrait], tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    frames = []
    for seed in (3, 4):
        take = sample.plan(sample.SampleSettings("easy", seed, 1, 0, 0.1), portraits)[0]
        take = replace(take, size=(480, 360))
        sample.render_take(take, tmp_path, GRADES["easy"], 1)
        frames.append(read_video(tmp_path / "train" / take.clips[0].name).astype(int))
    assert np.abs(frames[0] - frames[1]).mean() > 10


def test_fakes_differ_from_their_original_in_the_face_alone(tiny: Path) -> None:
    for name, row in read_metadata(tiny).items():
        if "original" in row:
            fake, original = (read_video(tiny / "train" / video).astype(int) for video in (name, row["original"]))
            assert fake.shape == original.shape
            assert len(fake) == NUM_FRAMES
            difference = np.abs(fake - original).max(axis=3)
            height, width = difference.shape[1:]
            face = difference[:, height // 4 : height * 2 // 3, width // 4 : width * 3 // 4]
            border = np.concatenate([difference[:, :, : width // 8], difference[:, :, -width // 8 :]], axis=2)
            # H.264 spends its bits differently, so the rest is near the original, not equal to it.
            assert border.mean() < 4
            assert np.percentile(face, 98) > 25


def test_real_people_move_and_leave_no_hole(tiny: Path) -> None:
    for name, row in read_metadata(tiny).items():
        if row["label"] == "REAL":
            frames = read_video(tiny / "train" / name).astype(int)
            assert all(np.abs(after - before).mean() > 1 for before, after in pairwise(frames[::5]))
            bottom = frames[:, -4:, frames.shape[2] * 2 // 5 : frames.shape[2] * 3 // 5]
            assert bottom.std() > 1


def test_mtcnn_finds_a_face_in_every_sampled_frame(tiny: Path) -> None:
    detector = shared_detector(DetectSettings(), "cpu", 1)
    for folder in ("train", "test"):
        for path in sorted((tiny / folder).glob("*.mp4"))[:3]:
            frames = read_video(path)[::7]
            assert all(len(found) for found in detector.detect_batch(list(frames))), path


def test_same_command_again_does_nothing(tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    result = run(tiny, *TINY)
    assert result.exit_code == 0
    assert "nothing to do" in result.output
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_refuses_other_settings_and_names_both(tiny: Path) -> None:
    before = hashes(tiny)
    result = run(tiny, *TINY, "--grade", "hard")
    assert result.exit_code == 2
    assert "'easy'" in result.output
    assert "'hard'" in result.output
    assert hashes(tiny) == before


def test_refuses_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    result = run(tmp_path, *TINY)
    assert result.exit_code == 2
    assert "no sample" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_refuses_a_sample_with_a_video_missing(tmp_path: Path) -> None:
    settings = sample.SampleSettings("easy", 0, 1, 0, 0.5)
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    sample.write_tables([], tmp_path, settings)
    with pytest.raises(click.UsageError, match="'train': 0"):
        sample.is_finished(tmp_path, settings)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(_takes: list[sample.Take], root: Path, *_: object) -> None:
        (root / "train" / "half.mp4").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(sample, "render_all", disk_full)
    result = run(tmp_path / "out", *TINY)
    assert isinstance(result.exception, OSError)
    assert list(tmp_path.iterdir()) == []


@given(num_real=st.integers(1, 9), number=st.integers(0, 8))
def test_two_fakes_of_one_original_are_of_two_kinds(num_real: int, number: int) -> None:
    first = number % num_real
    assert {sample.fake_kind(first, num_real), sample.fake_kind(first + num_real, num_real)} == {"swap", "self_blend"}


def test_a_swap_never_puts_a_persons_own_face_on(portraits: list[Portrait]) -> None:
    takes = sample.plan(sample.SampleSettings("easy", 1, 20, 40, 1.0), portraits)
    assert {take.portrait.person for take in takes} == {"biden", "collins", "hopper", "obama"}
    assert all(clip.donor.person != take.portrait.person for take in takes for clip in take.clips)
    assert all(len(take.clips) == 1 for take in takes if take.folder == "test")


def test_easy_fakes_flicker_and_hard_ones_are_steady(portraits: list[Portrait], rng: np.random.Generator) -> None:
    target, donor = portraits[0], portraits[1]

    def change_between_frames(grade: GradeName) -> float:
        layer = swapped_face(target, donor, GRADES[grade], rng)
        flicker = Flicker.of(GRADES[grade].flicker, 2, rng)
        return float(np.abs(paste(target.rgb, layer, flicker, 0) - paste(target.rgb, layer, flicker, 1)).mean())

    assert change_between_frames("hard") == 0
    assert change_between_frames("easy") > 0.2


def test_pasting_leaves_the_portrait_and_its_surroundings_alone(portraits: list[Portrait]) -> None:
    target = portraits[0]
    before = target.rgb.copy()
    mask = np.zeros_like(target.matte)
    mask[100:120, 90:140] = 1
    layer = FaceLayer(np.full_like(target.rgb, 7), mask, (115.0, 110.0), 50.0)
    pasted = paste(target.rgb, layer, Flicker.of(0.0, 1, np.random.default_rng(0)), 0)
    np.testing.assert_array_equal(target.rgb, before)
    np.testing.assert_array_equal(pasted[mask == 1], 7)
    np.testing.assert_array_equal(pasted[mask == 0], before[mask == 0])


def test_the_warp_never_folds_nor_shows_the_portraits_lower_edge(portraits: list[Portrait]) -> None:
    for number, portrait in enumerate(portraits):
        rng = np.random.default_rng(number)
        scene = Scene.staged(portrait, 480, 360, rng)
        for view in scene.views(rng, 30, 10):
            map_x, map_y = view.map_xy
            assert np.diff(map_x, axis=1).min() > 0
            assert np.diff(map_y, axis=0).min() > 0
            assert map_y.max() < scene.portrait.matte.shape[0] - 1


@given(
    scale=st.floats(0.3, 3), angle=st.floats(-3, 3), shift=st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
)  # fmt: skip
def test_similarity_recovers_a_known_one(scale: float, angle: float, shift: tuple[float, float]) -> None:
    source: Float32Array = np.array([[0, 0], [40, 2], [21, 20], [4, 44], [38, 43]], np.float32)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = (source @ linear.T + shift).astype(np.float32)
    np.testing.assert_allclose(similarity(source, target), np.column_stack([linear, shift]), atol=2e-3)


def test_an_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even width and height, got 63x48"):
        Mp4Writer(tmp_path / "odd.mp4", 63, 48)
