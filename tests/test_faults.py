"""Whatever dies, hangs or fills up: each video ends in one row, and the store is that of an undisturbed run.

These run the command as a user does, and take minutes: ``make test-faults``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import psutil
import pyarrow.compute as pc
import pytest

from pipeline.attempts import SOURCE_GIVEN_UP
from pipeline.cluster import remote_cluster
from pipeline.store import FaceStore
from pipeline.upkeep import find_orphans, verify_store
from tests.disks import small_disk
from tests.faces import Face, face_video
from tests.families import make_family
from tests.stores import change_table
from tests.test_cluster import dask_command, free_port

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 240
MAX_ATTEMPTS = 2
VIDEO_TIMEOUT_SECONDS = 8
PATIENT = ("--video-timeout", DEADLINE_SECONDS)
"""Where nothing hangs, a machine that is busy with other tests mustn't look as if something did."""
# Shards so small that each video writes some of its own.
PARAMS = "crop: {size: 48}\nstore: {chunk_frames: 4, shard_frames: 16}\nextract: {videos_per_partition: 2}\n"
SLOW_PARAMS = (
    PARAMS.replace("videos_per_partition: 2", "videos_per_partition: 1")
    + "detect: {every_n_frames: 1, whole_frame_every: 1}\n"
)
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


def fault(folder: Path, stage: str, kind: str, times: int | None, victim: str = VICTIM, **more: Any) -> dict[str, Any]:
    folder.mkdir()
    return {"stage": stage, "kind": kind, "video_id": victim, "times": times, "folder": str(folder), **more}


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


# --- families ---


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """An original and three fakes, cut in two partitions."""
    folder = tmp_path_factory.mktemp("family")
    videos, params, store = folder / "videos", folder / "params.yaml", folder / "undisturbed"
    videos.mkdir()
    make_family(videos)
    (folder / "labels.csv").write_text(
        "path,label,original\noriginal.mp4,REAL,\n"
        + "".join(f"{name}.mp4,FAKE,original.mp4\n" for name in ("copy", "left", "right"))
    )
    params.write_text(PARAMS)
    assert run(family_command(videos, store, params)).exit_code == 0
    assert_whole(store)
    return Inputs(videos, params, store, statuses(store))


def family_command(videos: Path, store: Path, params: Path) -> list[str]:
    return command(videos, store, params, "--labels", videos.parent / "labels.csv")


@pytest.mark.parametrize(
    ("victim", "stage"),
    [("original.mp4", "detect"), ("original.mp4", "crop"), ("left.mp4", "decode"), ("left.mp4", "crop")],
)
def test_a_death_in_a_family_changes_nothing(family: Inputs, tmp_path: Path, victim: str, stage: str) -> None:
    store = tmp_path / "store"
    once = fault(tmp_path / "log", stage, "kill", times=1, victim=victim)
    ended = run(family_command(family.videos, store, family.params), once)
    assert ended.exit_code == 0, ended.stderr
    assert ended.num_faults == 1
    assert digest(store) == digest(family.store)
    assert_whole(store)


@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_fakes_of_an_original_that_is_given_up_are_done_by_themselves(
    family: Inputs, tmp_path: Path, kind: str
) -> None:
    store = tmp_path / "store"
    always = fault(tmp_path / "log", "decode", kind, times=None, victim="original.mp4")
    ended = run(family_command(family.videos, store, family.params), always)
    assert ended.exit_code == 0, ended.stderr
    # Once for its own partition, once for the other that reads it.
    assert ended.num_faults == 2 * (MAX_ATTEMPTS if kind == "kill" else 1)
    assert statuses(store) == family.statuses | {"original.mp4": "failed"}
    of_fakes = [row for name, row in rows(store).items() if name != "original.mp4"]
    assert {(row["tracks_from"], row["pairing_note"]) for row in of_fakes} == {("own", SOURCE_GIVEN_UP)}
    assert_whole(store)


def test_a_fake_that_is_given_up_costs_no_other_its_original(family: Inputs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    always = fault(tmp_path / "log", "decode", "kill", times=None, victim="left.mp4")
    ended = run(family_command(family.videos, store, family.params), always)
    assert ended.exit_code == 0, ended.stderr
    assert ended.num_faults == MAX_ATTEMPTS
    assert statuses(store) == family.statuses | {"left.mp4": "failed"}
    assert digest_without(store, "left.mp4", tmp_path / "a") == digest_without(family.store, "left.mp4", tmp_path / "b")
    assert_whole(store)


# --- the client ---


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """More videos, each of them with more work."""
    folder = tmp_path_factory.mktemp("thirty")
    videos, params, store = folder / "videos", folder / "params.yaml", folder / "undisturbed"
    videos.mkdir()
    params.write_text(SLOW_PARAMS)
    for number in range(30):
        face_video(videos / f"{number:02d}.mp4", 50 + number, [Face(speed=(0.3, 0.2))])
    assert run(command(videos, store, params, "--workers", 2, *PATIENT)).exit_code == 0
    return Inputs(videos, params, store, statuses(store))


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Ended:
    try:
        _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert "Traceback" not in stderr, stderr[-3000:]
    return Ended(process.returncode, stderr)


def begun(store: Path) -> set[str]:
    """Attempts that are under way."""
    folder = store / "runs"
    return {path.name for path in folder.iterdir() if path.name.startswith("part-")} if folder.is_dir() else set()


def committed(store: Path) -> set[str]:
    folder = store / "videos"
    return {path.name for path in folder.iterdir() if path.name.startswith("part-")} if folder.is_dir() else set()


def wait_for_another(names: Callable[[Path], set[str]], store: Path, process: subprocess.Popen[str]) -> None:
    """Until there is a name more than at first: an attempt begun, or a partition committed."""
    before = names(store)
    deadline = monotonic() + DEADLINE_SECONDS
    between_looks = Event()
    while names(store) <= before:
        assert process.poll() is None, finish(process)
        assert monotonic() < deadline, "nothing happened"
        between_looks.wait(0.005)


def test_twenty_kills_of_the_client_lose_nothing(thirty: Inputs, tmp_path: Path) -> None:
    """At random moments: amid imports, amid the start of the cluster, amid the work of both workers."""
    rng = random.Random(20)
    store = tmp_path / "store"
    arguments = command(thirty.videos, store, thirty.params, "--workers", 2, *PATIENT)
    progress = []
    for _ in range(20):
        process = start(arguments)
        when = rng.choice(["any time", "amid an attempt", "after a commit"])
        if when == "any time":
            Event().wait(rng.uniform(0.1, 5))
        else:
            wait_for_another(begun if when == "amid an attempt" else committed, store, process)
            Event().wait(rng.uniform(0, 0.5))
        assert process.poll() is None, "it was killed at work"
        process.kill()
        process.communicate()
        progress.append(len(statuses(store)) if (store / "store.json").exists() else 0)
    assert progress == sorted(progress), "what was committed stays"
    assert 0 < progress[-1] < 30
    ended = finish(start(arguments))
    assert ended.exit_code == 0
    assert statuses(store) == thirty.statuses
    assert digest(store) == digest(thirty.store)
    assert_whole(store)


def test_two_clients_at_once_do_every_video_once(inputs: Inputs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = command(inputs.videos, store, inputs.params)
    both = [finish(process) for process in [start(arguments), start(arguments)]]
    assert sorted(ended.exit_code for ended in both) == [0, 1]
    (refused,) = [ended for ended in both if ended.exit_code]
    assert "another run" in refused.stderr
    assert digest(store) == digest(inputs.store)
    assert_whole(store)


# --- somebody's scheduler ---


@contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    """A ``dask scheduler`` without workers; its address."""
    port = free_port()
    here = ("--host", "127.0.0.1", "--no-dashboard", "--port", str(port))
    with dask_command("scheduler", *here):
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def worker(address: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    flags = ("--host", "127.0.0.1", "--no-dashboard", "--nthreads", "1", "--local-directory", str(folder))
    with dask_command("worker", address, *flags) as process:
        yield process


def stop_amid_work(worker_process: psutil.Process, store: Path, process: subprocess.Popen[str]) -> None:
    """Until a worker's child has begun an attempt, and is stopped before it has ended it."""
    deadline = monotonic() + DEADLINE_SECONDS
    between_looks = Event()
    while True:
        assert process.poll() is None, finish(process)
        assert monotonic() < deadline, "nothing happened"
        children = {child.pid: child for child in worker_process.children(recursive=True)}
        for path in [store / "runs" / name for name in begun(store)]:
            with suppress(FileNotFoundError, json.JSONDecodeError, KeyError, psutil.NoSuchProcess):
                child = children[json.loads(path.read_text())["pid"]]
                child.suspend()
                if path.exists():
                    return
                child.resume()
        between_looks.wait(0.005)


def test_a_worker_that_is_killed_and_one_that_comes_late(thirty: Inputs, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with (
        scheduler(tmp_path) as address,
        worker(address, tmp_path / "one"),
        worker(address, tmp_path / "two") as doomed,
        remote_cluster(address, timeout_seconds=DEADLINE_SECONDS) as engine,
    ):
        engine.client.wait_for_workers(2, timeout=DEADLINE_SECONDS)
        process = start(command(thirty.videos, store, thirty.params, "--scheduler", address, *PATIENT))
        stop_amid_work(psutil.Process(doomed.pid), store, process)
        # The machine is gone: the nanny first, or it would start another worker.
        for one in [psutil.Process(doomed.pid), *psutil.Process(doomed.pid).children(recursive=True)]:
            one.kill()
        with worker(address, tmp_path / "late"):
            ended = finish(process)
    assert ended.exit_code == 0
    assert "attempts were lost or failed, and made up for" in ended.stderr
    assert statuses(store) == thirty.statuses
    assert digest(store) == digest(thirty.store)
    assert_whole(store)


def test_workers_that_outlive_their_client_dont_meddle_with_the_next_one(thirty: Inputs, tmp_path: Path) -> None:
    """The next client comes at once, while the workers are still at what the killed one had asked for."""
    store = tmp_path / "store"
    with (
        scheduler(tmp_path) as address,
        worker(address, tmp_path / "one"),
        worker(address, tmp_path / "two"),
        remote_cluster(address, timeout_seconds=DEADLINE_SECONDS) as engine,
    ):
        engine.client.wait_for_workers(2, timeout=DEADLINE_SECONDS)
        arguments = command(thirty.videos, store, thirty.params, "--scheduler", address, *PATIENT)
        process = start(arguments)
        for _ in range(2):
            wait_for_another(begun, store, process)
        process.kill()
        process.communicate()
        assert begun(store), "they are still at work"
        ended = finish(start(arguments))
        # An attempt of the first client's may still be at work, until it learns that nobody waits for it.
        deadline = monotonic() + DEADLINE_SECONDS
        while any(engine.client.run(lambda dask_worker: list(dask_worker.active_threads)).values()):
            assert monotonic() < deadline, "it goes on for ever"
            Event().wait(0.1)
    assert ended.exit_code == 0
    assert statuses(store) == thirty.statuses
    assert digest(store) == digest(thirty.store)
    assert_whole(store)


def test_a_worker_that_is_told_to_go_costs_an_attempt(thirty: Inputs, tmp_path: Path) -> None:
    """SIGTERM, as a spot instance gets it two minutes before its end."""
    store = tmp_path / "store"
    with (
        scheduler(tmp_path) as address,
        worker(address, tmp_path / "one"),
        worker(address, tmp_path / "two") as leaving,
        remote_cluster(address, timeout_seconds=DEADLINE_SECONDS) as engine,
    ):
        engine.client.wait_for_workers(2, timeout=DEADLINE_SECONDS)
        process = start(command(thirty.videos, store, thirty.params, "--scheduler", address, *PATIENT))
        for _ in range(2):
            wait_for_another(begun, store, process)
        leaving.send_signal(signal.SIGTERM)
        leaving.wait(DEADLINE_SECONDS)
        ended = finish(process)
    assert ended.exit_code == 0
    assert statuses(store) == thirty.statuses
    assert digest(store) == digest(thirty.store)
    assert_whole(store)


# --- files of every kind of damage ---


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, a part cut off, or parts put elsewhere."""
    kind = rng.choice(["flip", "flip in the header", "truncate", "splice"])
    if kind == "truncate":
        return data[: rng.randrange(len(data))]
    if kind == "splice":
        first, second = sorted(rng.sample(range(len(data)), 2))
        at = rng.randrange(len(data))
        return data[:at] + data[first:second] + data[at:]
    changed = bytearray(data)
    # The tables of an MP4 lie at its end, those of the others at the beginning.
    parts = (
        [range(len(data))] if kind == "flip" else [range(min(2000, len(data))), range(len(data) * 9 // 10, len(data))]
    )
    for _ in range(rng.choice([1, 3, 10, 100])):
        changed[rng.choice(rng.choice(parts))] = rng.randrange(256)
    return bytes(changed)


def test_500_damaged_videos_have_500_rows(tmp_path: Path) -> None:
    rng = random.Random(500)
    folder, store, params = tmp_path / "videos", tmp_path / "store", tmp_path / "params.yaml"
    folder.mkdir()
    params.write_text("crop: {size: 32}\n")
    whole = [face_video(tmp_path / f"whole.{ending}", 40) for ending in ("mp4", "mkv", "avi")]
    for number in range(500):
        source = whole[number % 3]
        (folder / f"{number:03d}{source.suffix}").write_bytes(mutated(source.read_bytes(), rng))
    process = start(command(folder, store, params, "--workers", 2, "--video-timeout", 30))
    peaks: dict[int, int] = {}
    between_looks = Event()
    while process.poll() is None:
        for one in psutil.Process(process.pid).children(recursive=True):
            try:
                peaks[one.pid] = max(peaks.get(one.pid, 0), one.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        between_looks.wait(0.05)
    ended = finish(process)
    assert ended.exit_code == 0
    found = statuses(store)
    assert len(found) == 500
    counts = Counter(found.values())
    assert counts["decode_error"] > 50
    assert counts["ok"] > 50
    assert counts["failed"] == 0, "damage is what a decoder is for"
    assert max(peaks.values()) < 1.5e9
    assert_whole(store)
