"""What the figures of the benchmarks rest on: the baseline makes the same crops, boxes pair up, goals are judged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import all as benchmarks_all
from benchmarks.crops import crops_of_recipe, crops_of_store, num_crops, share_also_in
from benchmarks.decoding import in_batches
from benchmarks.detect_speed import num_matched, num_sampled
from benchmarks.extraction import in_one_thread
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.page import Record, page, read_records
from benchmarks.seed_recipe import Clip, export_video, faces_of_chunk, square_around
from benchmarks.timing import by_turns, ratio
from pipeline.catalog import build_index
from pipeline.config import Settings
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.store import FaceStore
from pipeline.types import Float32Array, Partition, UInt8Array, VideoOutcome, VideoRef
from pipeline.writer import create_or_resume
from tests.faces import Face, face_video

LEFT, RIGHT = (
    Face("hopper", side=150, start=(4, 30), speed=(0.2, 0.2)),
    Face("obama_1", side=150, start=(230, 40), speed=(0.1, 0.1)),
)


class BothWays(NamedTuple):
    """The clips of one video, by the recipe and by extraction."""

    clips: list[Clip]
    store: FaceStore


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> BothWays:
    folder = tmp_path_factory.mktemp("both")
    (ref,) = build_index(str(face_video(folder / "two.mp4", 64, (LEFT, RIGHT), 400, 240)))[0]
    clips = export_video(ref, str(folder))
    url, settings = str(folder / "store"), Settings()
    with only_run(create_or_resume(url, settings)) as run:
        process_partition(Partition(0, (ref,)), run, settings, "cpu", 1)
    return BothWays(clips, FaceStore.open(url))


def cut_to(picture: UInt8Array, square: tuple[float, ...], part: tuple[float, ...]) -> UInt8Array:
    """What one square shows of another one that lies within it, at the same size."""
    scale = len(picture) / (square[2] - square[0])
    offset = np.tile(square[:2], 2)
    left, top, right, bottom = (round(v) for v in (np.clip(part, square[:2] * 2, square[2:] * 2) - offset) * scale)
    return np.asarray(cv2.resize(picture[top:bottom, left:right], picture.shape[:2]), np.uint8)


def test_the_recipe_makes_a_clip_of_each_face(both: BothWays) -> None:
    assert len(both.clips) == 2
    for clip in both.clips:
        crops = np.load(clip.file)
        assert crops.shape == (clip.frame_stop - clip.frame_start, 256, 256, 3)
        assert crops.dtype == np.uint8
        assert (clip.frame_start, clip.frame_stop) == (0, 64)


def test_its_crops_are_of_the_same_faces_and_frames_as_ours(both: BothWays) -> None:
    theirs, ours = crops_of_recipe(both.clips), crops_of_store(both.store)
    assert num_crops(theirs) == num_crops(ours) == 128
    assert share_also_in(theirs, ours) == share_also_in(ours, theirs) == 1.0


def test_its_crops_show_what_ours_show(both: BothWays) -> None:
    """Frame 40 of the first face, without our margin; the colours in the same order."""
    clip = both.clips[0]
    theirs = np.load(clip.file)[40]
    rows = both.store.tracks.to_pylist()
    (row,) = (row for row in rows if abs(row["crop_xyxy"][40][0] - clip.square[0]) < 50)
    ours = cut_to(both.store.frames(row)[40], tuple(row["crop_xyxy"][40]), clip.square)
    for channel in range(3):
        assert np.corrcoef(theirs[..., channel].ravel(), ours[..., channel].ravel())[0, 1] > 0.97
    assert np.abs(theirs.mean((0, 1)) - ours.mean((0, 1))).max() < 3


def test_a_frame_without_a_face_is_bridged_by_what_its_neighbours_share() -> None:
    early, late = np.array([[10, 10, 30, 30]], np.float32), np.array([[20, 12, 40, 36]], np.float32)
    (face,) = faces_of_chunk([early, None, late], [[0.9], [None], [0.7]], 60, 80)  # type: ignore[list-item]
    assert (face.first, face.last) == (0, 2)
    assert face.box_xyxy == (10, 10, 40, 36)
    assert face.mean_probability == pytest.approx(0.8)


def test_faces_of_the_recipe_are_ordered_by_probability() -> None:
    boxes = np.array([[0, 0, 10, 10], [40, 40, 50, 50]], np.float32)
    faces = faces_of_chunk([boxes], [[0.7, 0.9]], 60, 80)
    assert [face.box_xyxy for face in faces] == [(40, 40, 50, 50), (0, 0, 10, 10)]
    assert faces_of_chunk([None, None], [[], []], 60, 80) == []


def test_a_square_has_the_longer_side_and_the_same_centre() -> None:
    assert square_around((10, 20, 30, 60), 0.5) == (0, 40, 80, 120)


def boxes(*rows: tuple[float, ...]) -> Float32Array:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_boxes_pair_up_one_to_one_from_a_least_overlap_on() -> None:
    here, close, off, far = (0, 0, 100, 100), (0, 0, 100, 98), (0, 0, 100, 90), (200, 0, 300, 100)
    assert num_matched(boxes(here, far), boxes(far, close), 0.95) == 2
    assert num_matched(boxes(here), boxes(close, here), 0.95) == 1
    assert num_matched(boxes(here, close), boxes(here), 0.95) == 1
    assert num_matched(boxes(here), boxes(off), 0.95) == 0
    assert num_matched(boxes(), boxes(here), 0.95) == num_matched(boxes(here), boxes(), 0.95) == 0


def test_searched_are_every_tenth_frame_and_the_last() -> None:
    ref = VideoRef("a.mp4", "a.mp4", 1, 1)
    outcomes = [VideoOutcome(ref, "ok", num_frames_decoded=number) for number in (0, 1, 10, 11, 300)]
    assert [num_sampled([outcome], 10) for outcome in outcomes] == [0, 1, 2, 2, 31]
    assert num_sampled(outcomes, 10) == 36


def test_a_pool_of_threads_works_at_once_in_this_thread() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    with in_one_thread(), ThreadPoolExecutor(1) as pool:
        future = pool.submit(done.append, 1)
        assert done == [1]
        assert future.result() is None
        assert isinstance(pool.submit(fail).exception(), ValueError)


def test_ways_are_timed_by_turns(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def way(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    seconds = by_turns({"slow": lambda: way("slow", 6), "fast": lambda: way("fast", 2)}, 2)
    assert order == ["slow", "fast", "slow", "fast"]
    assert ratio(seconds, "slow", "fast") == 3


def test_batches() -> None:
    assert list(in_batches(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


def test_a_goal_is_judged_before_its_figure_is_rounded() -> None:
    assert at_most("a", 1.3, 1.3, "{:.2f} x") == Figure("a", "1.30 x", "at most 1.30 x", reached=True)
    assert at_most("a", 1.3004, 1.3, "{:.2f} x") == Figure("a", "1.30 x", "at most 1.30 x", reached=False)
    assert at_least("a", 2.9996, 3, "{:.2f} x").reached is False
    assert at_least("a", float("nan"), 3, "{:.2f} x").reached is False


RECORD = Record(
    name="extract_speed",
    command="benchmarks.extract_speed videos",
    date="2030-01-01 12:00 UTC",
    seconds=90,
    exit_code=0,
    output="a machine\nread 1.0 s\n",
    figures=(at_most("over reading", 2, 1.3, "{:.2f} x"), at_least("recipe", 4, 3, "{:.2f} x"), Figure("size", "3 GB")),
)


def test_the_page_says_which_goals_are_reached() -> None:
    text = page([RECORD], "a machine\n")
    command = "`benchmarks.extract_speed videos`"
    assert f"| over reading | 2.00 x | at most 1.30 x | **not reached** | {command} |" in text
    assert f"| recipe | 4.00 x | at least 3.00 x | reached | {command} |" in text
    assert f"| size | 3 GB |  |  | {command} |" in text
    assert "Goals reached: 1 of 2." in text
    assert "2030-01-01 12:00 UTC, 1.5 minutes.\n\n```\nread 1.0 s\n```" in text
    assert "another machine" not in text


def test_the_page_says_what_failed_and_what_was_measured_elsewhere() -> None:
    failed = replace(RECORD, name="loader", exit_code=1, figures=())
    text = page([failed], "that machine")
    assert "| nothing: exit code 1 | | | **failed** |" in text
    assert "failed with exit code 1." in text
    assert "Goals reached: 0 of 0." in text
    assert "Measured with other code, or on another machine: loader." in text
    assert "```\na machine\nread 1.0 s\n```" in text


def test_records_keep_what_was_measured_before(tmp_path: Path) -> None:
    later = replace(RECORD, name="other")
    for record in (later, RECORD, replace(RECORD, seconds=60)):
        record.write(tmp_path)
    assert read_records(tmp_path, ["extract_speed"]) == [replace(RECORD, seconds=60), later]


def test_the_page_alone_can_be_written_anew(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    options = ["--only", "", "--records", str(tmp_path), "--page", str(tmp_path / "page.md")]
    assert CliRunner().invoke(benchmarks_all.main, options).exit_code == 0
    assert "over reading" in (tmp_path / "page.md").read_text()
    wrong = CliRunner().invoke(benchmarks_all.main, ["--only", "nothing"])
    assert wrong.exit_code == 2
    assert "nothing; there are extract_speed," in wrong.output


def test_every_program_is_there_and_is_told_where_videos_are(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for program in benchmarks_all.PROGRAMS:
        module, *arguments = program.arguments(str(tmp_path))
        assert (benchmarks_all.ROOT / f"{module.replace('.', '/')}.py").is_file()
        assert arguments[len(program.options) :] == [
            str(tmp_path / "clips" if program.videos == "clips" else tmp_path) for _ in [0] if program.videos
        ]
