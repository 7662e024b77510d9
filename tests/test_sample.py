"""The embedded sample: shaped like DFDC, the same for the same seed, its fakes aligned with their originals."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import click
import cv2
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
from pipeline.sample_plan import TEST_FAKE, TEST_REAL, SampleSettings, Take, fake_kind, plan, teams_of
from pipeline.talking_head import Portrait, Scene
from pipeline.types import Float32Array, UInt8Array

TINY = ["--seed", "3", "--real", "2", "--fake", "3", "--seconds", "0.5"]
NUM_FRAMES = 15
PAIRS = [
    *("--seed", "1", "--real", "2", "--fake", "4", "--seconds", "0.3", "--people", "2"),
    *("--crf", "20", "--crf", "40", "--misaligned"),
]


def run(out: Path, *options: str) -> Result:
    return CliRunner().invoke(sample.main, [str(out), *options])


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_video(path: Path) -> UInt8Array:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_labels(root: Path) -> dict[str, dict[str, str]]:
    with (root / "labels.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


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


def test_labels_say_who_is_in_each_video_and_whose_face_a_swap_wears(tiny: Path, portraits: list[Portrait]) -> None:
    metadata, rows = read_metadata(tiny), read_labels(tiny)
    assert {path: row["label"] for path, row in rows.items()} == {p: entry["label"] for p, entry in metadata.items()}
    assert {path: row["original"] for path, row in rows.items()} == {
        path: entry.get("original", "") for path, entry in metadata.items()
    }
    people = {portrait.person for portrait in portraits}
    for row in rows.values():
        assert row["group"] in people
        assert row["donor"] in people - {row["group"]} | {""}
        assert row["face"] == ("only" if row["original"] else "")
        assert (row["crf"], row["edit"]) == ("23", "none")
        if row["original"]:
            assert row["group"] == rows[row["original"]]["group"]
    assert any(row["donor"] for row in rows.values())


def test_a_sample_of_an_earlier_version_is_not_taken_for_this_one(tmp_path: Path) -> None:
    settings = SampleSettings("easy", 0, 1, 0, 0.5)
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
    assert len(rows) == TEST_REAL + TEST_FAKE


def test_same_seed_same_bytes(tiny: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "again", *TINY).exit_code == 0
    assert hashes(tmp_path / "again") == hashes(tiny)


def test_other_seed_other_videos(portraits: list[Portrait], tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    frames = []
    for seed in (3, 4):
        take = plan(SampleSettings("easy", seed, 1, 0, 0.1), portraits)[0]
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
    settings = SampleSettings("easy", 0, 1, 0, 0.5)
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    sample.write_tables([], tmp_path, settings)
    with pytest.raises(click.UsageError, match="'train': 0"):
        sample.is_finished(tmp_path, settings)


def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, portraits: list[Portrait], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(_takes: list[Take], root: Path, *_: object) -> None:
        (root / "train" / "half.mp4").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sample, "load_portraits", lambda: portraits)
    monkeypatch.setattr(sample, "render_all", disk_full)
    result = run(tmp_path / "out", *TINY)
    assert result.exit_code == 1
    assert "No space left on device; mend that and run the same command again" in result.output
    assert list(tmp_path.iterdir()) == []


@given(num_real=st.integers(1, 9), number=st.integers(0, 8))
def test_two_fakes_of_one_original_are_of_two_kinds(num_real: int, number: int) -> None:
    first = number % num_real
    assert {fake_kind(first, num_real), fake_kind(first + num_real, num_real)} == {"swap", "self_blend"}


def test_a_swap_never_puts_a_persons_own_face_on(portraits: list[Portrait]) -> None:
    takes = plan(SampleSettings("easy", 1, 20, 40, 1.0), portraits)
    assert {take.group for take in takes} == {"biden", "collins", "hopper", "obama"}
    assert all(clip.donor.person != take.portraits[0].person for take in takes for clip in take.clips)
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
        scene = Scene.staged([portrait], 480, 360, rng)
        for view in scene.views(rng, 30, 10):
            map_x, map_y = view.figures[0].map_xy
            assert np.diff(map_x, axis=1).min() > 0
            assert np.diff(map_y, axis=0).min() > 0
            assert map_y.max() < scene.portraits[0].matte.shape[0] - 1


def test_without_new_flags_the_videos_are_those_of_earlier_versions(portraits: list[Portrait]) -> None:
    def look(portrait: Portrait) -> str:
        return portrait.person + ("_2" if portrait is portraits[4] else "")

    takes = plan(SampleSettings("easy", 3, 2, 3, 0.5), portraits)
    assert [
        (take.size, look(take.portraits[0]), [(clip.name[:3], clip.kind, look(clip.donor)) for clip in take.clips])
        for take in takes
    ] == [
        ((640, 360), "biden", [("vce", "real", "hopper"), ("lqm", "swap", "hopper"), ("xnk", "self_blend", "obama_2")]),
        ((640, 360), "collins", [("hqs", "real", "hopper"), ("dib", "self_blend", "hopper")]),
        ((640, 360), "biden", [("anj", "real", "collins")]),
        ((640, 360), "collins", [("ghm", "real", "obama_2")]),
        ((640, 360), "hopper", [("rfv", "real", "biden")]),
        ((480, 360), "obama", [("rkx", "real", "collins")]),
        ((640, 360), "biden", [("wno", "swap", "collins")]),
        ((360, 480), "collins", [("eti", "self_blend", "obama")]),
        ((480, 360), "hopper", [("ezq", "swap", "obama_2")]),
        ((480, 360), "obama_2", [("njb", "self_blend", "collins")]),
        ((480, 360), "biden", [("dkm", "swap", "collins")]),
        ((640, 360), "collins", [("ysv", "self_blend", "biden")]),
    ]  # fmt: skip
    assert {(clip.seat, clip.crf, clip.edit) for take in takes for clip in take.clips} == {(0, 23, "none")}


@given(people=st.integers(1, 12), num_together=st.integers(1, 2))
def test_nobody_is_in_two_teams_and_nobody_in_none(people: int, num_together: int) -> None:
    names = [str(number) for number in range(people)]
    teams = teams_of(names, num_together)
    assert [name for team in teams for name in team] == names
    assert all(len(team) == num_together for team in teams[:-1])
    assert len(teams[-1]) < 2 * num_together


def test_of_three_in_a_team_everybody_is_seen_with_everybody(portraits: list[Portrait]) -> None:
    takes = plan(SampleSettings("easy", 0, 6, 0, 0.1, people=2), portraits[:3])
    assert {take.group for take in takes} == {"biden+collins+hopper"}
    seated = [tuple(portrait.person for portrait in take.portraits) for take in takes if take.folder == "train"]
    assert len(set(seated)) == 6
    assert all(left != right for left, right in seated)


def test_two_people_are_never_seen_with_others_and_each_is_changed_once(portraits: list[Portrait]) -> None:
    takes = plan(SampleSettings("easy", 1, 16, 32, 1.0, people=2, crf=(18, 40)), portraits)
    for take in takes:
        assert "+".join(sorted(portrait.person for portrait in take.portraits)) == take.group
        assert all(clip.donor.person != take.portraits[clip.seat].person for clip in take.clips)
    train = [take for take in takes if take.folder == "train"]
    assert {take.group for take in train} == {"biden+collins", "hopper+obama"}
    assert all([clip.kind == "real" for clip in take.clips] == [True, False, False] for take in train)
    assert all({clip.seat for clip in take.clips[1:]} == {0, 1} for take in train)
    assert all({clip.crf for clip in take.clips[1:]} == {18, 40} for take in train)
    assert {take.clips[0].crf for take in train} == {23}
    # Everything with everything: neither place nor quality nor kind tells whom a fake has changed.
    fakes = {(take.portraits[c.seat].person, c.kind, c.crf) for take in train for c in take.clips[1:]}
    assert len(fakes) == 4 * 2 * 2
    assert len({(take.portraits[c.seat].person, c.seat, c.kind) for take in train for c in take.clips[1:]}) == 4 * 2 * 2
    test_fakes = [
        (take.group, c.seat) for take in takes if take.folder == "test" for c in take.clips if c.kind != "real"
    ]
    assert len(set(test_fakes)) == 4


def raw_frames(take: Take, grade: GradeName) -> dict[str, Any]:
    frames: dict[str, list[UInt8Array]] = {clip.name: [] for clip in take.clips}
    for clip, rgb in sample.take_frames(take, GRADES[grade], 3):
        frames[clip.name].append(rgb)
    return {name: np.stack(rgbs).astype(int) for name, rgbs in frames.items()}


@pytest.mark.parametrize("grade", ["easy", "hard"])
def test_a_fake_changes_one_of_two_faces_and_no_other_pixel(portraits: list[Portrait], grade: GradeName) -> None:
    take = plan(SampleSettings(grade, 2, 1, 2, 0.1, people=2), portraits)[0]
    original, *fakes = take.clips
    frames, middle = raw_frames(take, grade), take.size[0] // 2
    for fake in fakes:
        difference = np.abs(frames[fake.name] - frames[original.name]).max(axis=3)
        halves = difference[:, :, :middle], difference[:, :, middle:]
        assert all(frame.max() > 20 for frame in halves[fake.seat])
        assert halves[1 - fake.seat].max() == 0


def test_misaligned_fakes_are_a_frame_early_or_cut_off(portraits: list[Portrait]) -> None:
    take = plan(SampleSettings("hard", 2, 1, 1, 0.1, people=2, misaligned=True), portraits)[0]
    assert [clip.edit for clip in take.clips] == ["none", "none", "shifted", "cropped"]
    original, _, shifted, cropped = take.clips
    frames, middle = raw_frames(take, "hard"), take.size[0] // 2
    assert {rgbs.shape for rgbs in frames.values()} == {(3, 360, 640, 3)}
    untouched = slice(middle, None) if shifted.seat == 0 else slice(middle)
    np.testing.assert_array_equal(frames[shifted.name][:-1, :, untouched], frames[original.name][1:, :, untouched])
    assert (frames[shifted.name][:-1, :, :] != frames[original.name][1:, :, :]).any()
    # What the cropped one shows is found in the original, smaller and elsewhere.
    shown = cv2.resize(frames[cropped.name][0].astype(np.uint8), (576, 324), interpolation=cv2.INTER_AREA)
    likeness = cv2.matchTemplate(frames[original.name][0].astype(np.uint8), shown, cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(likeness)
    assert best > 0.97
    assert best - likeness[18, 32] > 0.05
    assert (x, y) != (32, 18)


@given(seed=st.integers(0, 2**32))
def test_a_cropped_fake_shows_a_window_within_the_frame_and_off_its_middle(seed: int) -> None:
    rows, columns = sample.off_centre_window(640, 360, np.random.default_rng(seed))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (324, 576)
    for window, side in ((rows, 360), (columns, 640)):
        cut_before, cut_after = window.start, side - window.stop
        assert min(cut_before, cut_after) >= 0
        assert abs(cut_before - cut_after) >= side // 25


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, portraits: list[Portrait]) -> Path:
    out = tmp_path_factory.mktemp("sample") / "pairs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "load_portraits", lambda: portraits)
        result = run(out, *PAIRS)
    assert result.exit_code == 0, result.output
    assert "2 real and 8 fake (easy) videos in train/, 10 in test/" in result.output
    return out


def test_labels_of_two_people_say_what_sets_a_fake_apart(pairs: Path) -> None:
    rows, metadata = read_labels(pairs), read_metadata(pairs)
    assert sorted(rows) == sorted(metadata) == sorted(path.name for path in (pairs / "train").glob("*.mp4"))
    assert {row["group"] for row in rows.values()} == {"biden+collins", "hopper+obama"}
    for name, row in rows.items():
        assert (row["label"], row["original"]) == (metadata[name]["label"], metadata[name].get("original", ""))
        if row["label"] == "REAL":
            assert (row["original"], row["donor"], row["face"], row["crf"], row["edit"]) == ("", "", "", "23", "none")
            fakes = [fake for fake in rows.values() if fake["original"] == name]
            assert {fake["group"] for fake in fakes} == {row["group"]}
            assert sorted((fake["edit"], fake["face"], fake["crf"]) for fake in fakes) == [
                ("cropped", "right", "40"), ("none", "left", "20"), ("none", "right", "40"), ("shifted", "left", "20"),
            ]  # fmt: skip
            assert sorted(bool(fake["donor"]) for fake in fakes if fake["edit"] == "none") == [False, True]


def test_the_other_face_survives_compression_and_shifts_by_a_frame_where_it_should(pairs: Path) -> None:
    rows = read_labels(pairs)
    for name, row in rows.items():
        if not row["original"]:
            continue
        fake, original = (read_video(pairs / "train" / video).astype(int) for video in (name, row["original"]))
        assert fake.shape == original.shape == (9, 360, 640, 3)
        sides = {"left": slice(0, 320), "right": slice(320, 640)}
        changed = sides.pop(row["face"])
        (kept,) = sides.values()

        def distance(lag: int, side: slice, fake: Any = fake, original: Any = original) -> float:
            return float(np.abs(fake[: 9 - lag, :, side] - original[lag:, :, side]).mean())

        if row["edit"] == "cropped":
            assert distance(0, kept) > 10
        else:
            lag = 1 if row["edit"] == "shifted" else 0
            assert distance(lag, kept) < distance(1 - lag, kept)
            # At crf 40 the camera's grain is gone, which alone is 3 grey levels.
            assert distance(lag, kept) < 6
            assert distance(lag, changed) > distance(lag, kept)


def test_a_higher_crf_makes_a_smaller_file(pairs: Path) -> None:
    rows = read_labels(pairs)
    size = {name: (pairs / "train" / name).stat().st_size for name in rows}
    for original in (name for name, row in rows.items() if not row["original"]):
        fine, coarse = (
            [size[name] for name, row in rows.items() if (row["original"], row["crf"]) == (original, crf)]
            for crf in ("20", "40")
        )
        assert max(coarse) < size[original] / 2 < size[original] < min(fine)


def test_mtcnn_finds_both_of_two_faces(pairs: Path) -> None:
    detector = shared_detector(DetectSettings(), "cpu", 1)
    for name in [*read_metadata(pairs)][:4]:
        for found in detector.detect_batch(list(read_video(pairs / "train" / name)[::4])):
            boxes = found.boxes_xyxy[np.argsort(-found.scores)[:2]]
            (left, _, left_end, _), (right, _, right_end, _) = sorted(boxes.tolist())
            assert left_end < 320 < right
            assert min(left_end - left, right_end - right) > 60


def test_a_sample_with_all_flags_is_known_again(pairs: Path) -> None:
    assert "nothing to do" in run(pairs, *PAIRS).output
    assert json.loads((pairs / "sample.json").read_text())["crf"] == [20, 40]
    result = run(pairs, *PAIRS, "--crf", "23")
    assert result.exit_code == 2
    assert "[20, 40, 23]" in result.output


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
