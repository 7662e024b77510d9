"""Whatever dies, hangs or fills up: each video ends in one row, and the store is that of an undisturbed run.

These run the command as a user does, and take minutes: ``make test-faults``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline.store import FaceStore
from pipeline.upkeep import find_orphans, verify_store
from tests.disks import small_disk
from tests.faces import Face, face_video
from tests.stores import change_table

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 240
MAX_ATTEMPTS = 2
VIDEO_TIMEOUT_SECONDS = 8
# Shards so small that each video writes some of its own.
PARAMS = "crop: {size: 48}\nstore: {chunk_frames: 4, shard_frames: 16}\nextract: {videos_per_partition: 2}\n"
NUM_VIDEOS = 12
VICTIM = "07.mp4"
STAGES = ("decode", "detect", "crop", "array write", "commit")


@dataclass(frozen=True)
class Inputs:
    """Videos, and what an undisturbed run makes of them."""

    videos: Path
    params: Path
    store: Path
    statuses: dict[str, str]


def command(videos: Path, store: Path, params: Path, *arguments: object) -> list[str]:
    flags = ("--params", params, "--max-attempts", MAX_ATTEMPTS, "--video-timeout", VIDEO_TIMEOUT_SECONDS, "--workers")
    has_workers = "--workers" in arguments or "--scheduler" in arguments
    return [
        *(sys.executable, "-m", "pipeline.extract"),
        *map(str, (videos, store, *(flags[:-1] if has_workers else (*flags, 1)), *arguments)),
    ]


@dataclass(frozen=True)
class Ended:
    exit_code: int
    stderr: str
    num_faults: int = 0


def run(arguments: list[str], fault: dict[str, Any] | None = None) -> Ended:
    """The command as a process of its own, with a fault in it or in any process that it starts."""
    environment = dict(os.environ)
    if fault is not None:
        environment |= {"FACECLIPS_FAULT": json.dumps(fault), "PYTHONPATH": str(ROOT / "tests" / "injected")}
    ended = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert "Traceback" not in ended.stderr, ended.stderr[-3000:]
    return Ended(ended.returncode, ended.stderr, len(list(Path(fault["folder"]).iterdir())) if fault is not None else 0)


def rows(store: Path) -> dict[str, dict[str, Any]]:
    """By video; each must have one row only."""
    found = FaceStore.open(str(store)).videos.to_pylist()
    assert max(Counter(row["video_id"] for row in found).values(), default=0) <= 1
    return {row["video_id"]: row for row in found}


def statuses(store: Path) -> dict[str, str]:
    return {video_id: row["status"] for video_id, row in rows(store).items()}


def digest(store: Path) -> str:
    return FaceStore.open(str(store)).digest()


def digest_without(store: Path, video_id: str, scratch: Path) -> str:
    """Of all that the store holds of other videos."""
    copy = Path(shutil.copytree(store, scratch))
    for name in FaceStore.open(str(copy)).partition_names:
        for table in ("tracks", "videos"):
            change_table(copy, table, name, lambda t: t.filter(pc.field("video_id") != video_id))
    found = digest(copy)
    shutil.rmtree(copy)
    return found


def assert_whole(store: Path) -> None:
    opened = FaceStore.open(str(store))
    assert list(verify_store(opened)) == []
    assert find_orphans(opened) == []


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("faults")
    videos, params, store = folder / "videos", folder / "params.yaml", folder / "undisturbed"
    videos.mkdir()
    params.write_text(PARAMS)
    for number in range(NUM_VIDEOS):
        face_video(videos / f"{number:02d}.mp4", 40 + number, [Face(speed=(0.3, 0.2))])
    assert run(command(videos, store, params)).exit_code == 0
    assert_whole(store)
    return Inputs(videos, params, store, statuses(store))


def test_the_undisturbed_run_finds_a_face_in_every_video(inputs: Inputs) -> None:
    assert inputs.statuses == {f"{number:02d}.mp4": "ok" for number in range(NUM_VIDEOS)}


def fault(folder: Path, stage: str, kind: str, times: int | None, **more: Any) -> dict[str, Any]:
    folder.mkdir()
    return {"stage": stage, "kind": kind, "video_id": VICTIM, "times": times, "folder": str(folder), **more}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["exception", "kill", "hang"])
def test_what_happens_once(inputs: Inputs, tmp_path: Path, stage: str, kind: str) -> None:
    """A death costs one more attempt; what a video's own code does, and what takes too long, isn't tried again."""
    store = tmp_path / "store"
    ended = run(command(inputs.videos, store, inputs.params), fault(tmp_path / "log", stage, kind, times=1))
    assert ended.exit_code == 0, ended.stderr
    assert ended.num_faults == 1
    assert_whole(store)
    videos_own = (kind == "exception" and stage in {"decode", "detect", "crop"}) or (
        kind == "hang" and stage != "commit"
    )
    if videos_own:
        assert statuses(store) == inputs.statuses | {VICTIM: "failed"}
        row = rows(store)[VICTIM]
        expected = ("RuntimeError", "injected") if kind == "exception" else ("VideoTimeoutError", "not done after 8 s")
        assert row["error_type"] == expected[0]
        assert row["message"].startswith(expected[1])
        assert digest_without(store, VICTIM, tmp_path / "a") == digest_without(inputs.store, VICTIM, tmp_path / "b")
    else:
        assert digest(store) == digest(inputs.store)


@pytest.mark.parametrize("stage", STAGES)
def test_a_video_that_always_kills_its_process_is_given_up_and_no_other(
    inputs: Inputs, tmp_path: Path, stage: str
) -> None:
    store = tmp_path / "store"
    ended = run(command(inputs.videos, store, inputs.params), fault(tmp_path / "log", stage, "kill", times=None))
    assert ended.exit_code == 0, ended.stderr
    # In the commit it can't be told which of the two videos it was, until each is alone.
    assert ended.num_faults == (2 * MAX_ATTEMPTS if stage == "commit" else MAX_ATTEMPTS)
    assert statuses(store) == inputs.statuses | {VICTIM: "failed"}
    row = rows(store)[VICTIM]
    assert row["error_type"] == "ProcessDiedError"
    assert row["message"].startswith("2 attempts failed, the last one: its process was ended by SIGKILL")
    assert digest_without(store, VICTIM, tmp_path / "a") == digest_without(inputs.store, VICTIM, tmp_path / "b")
    assert_whole(store)


def test_a_commit_that_always_hangs_is_given_up(inputs: Inputs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ended = run(command(inputs.videos, store, inputs.params), fault(tmp_path / "log", "commit", "hang", times=None))
    assert ended.num_faults == 2 * MAX_ATTEMPTS
    assert statuses(store) == inputs.statuses | {VICTIM: "failed"}
    assert "not done after 8 s" in rows(store)[VICTIM]["message"]
    assert_whole(store)


@pytest.mark.parametrize("stage", ["array write", "commit"])
def test_a_store_that_cant_be_written_ends_the_run_and_loses_nothing(
    inputs: Inputs, tmp_path: Path, stage: str
) -> None:
    store = tmp_path / "store"
    arguments = command(inputs.videos, store, inputs.params)
    ended = run(arguments, fault(tmp_path / "log", stage, "exception", times=None))
    assert ended.exit_code == 1
    assert "injected" in ended.stderr
    assert "run the same command again" in ended.stderr
    assert ended.num_faults == MAX_ATTEMPTS
    assert set(statuses(store).values()) <= {"ok"}, "no video is blamed for the disk"
    assert VICTIM not in statuses(store)
    assert run(arguments).exit_code == 0
    assert digest(store) == digest(inputs.store)
    assert_whole(store)


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_ends_the_run_and_loses_nothing(inputs: Inputs, tmp_path: Path, stage: str) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        store, ballast = disk / "store", disk / "ballast"
        arguments = command(inputs.videos, store, inputs.params)
        ended = run(arguments, fault(tmp_path / "log", stage, "full", times=1, ballast=str(ballast)))
        assert ended.exit_code == 1
        assert "No space left on device" in ended.stderr
        assert ended.num_faults == 1
        assert list(verify_store(FaceStore.open(str(store)))) == []
        assert set(statuses(store).values()) <= {"ok"}, "no video is blamed for the disk"
        assert VICTIM not in statuses(store)
        ballast.unlink()
        assert run(arguments).exit_code == 0
        assert digest(store) == digest(inputs.store)
        assert_whole(store)
