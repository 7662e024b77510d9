"""One run at a time, and of each attempt one end: committed, or settled so that it never will be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import job
from pipeline.attempts import Task
from pipeline.files import StoreFiles
from pipeline.job import supervised
from pipeline.runs import (
    CHECK_SECONDS,
    SILENT_SECONDS,
    AttemptLostError,
    Run,
    RunOverError,
    RunWatch,
    StoreBusyError,
    attempts_left,
    begin_attempt,
    clear_settled,
    end_attempt,
    latest_run,
    only_run,
    settle,
    was_begun,
)
from pipeline.store import FaceStore
from pipeline.supervise import NO_LIMITS, Call
from pipeline.types import Partition
from pipeline.upkeep import find_orphans, verify_store
from pipeline.writer import PartitionTakenError, PartitionWriter, _GrowingArray, create_or_resume
from tests.stores import SETTINGS, SHARD, SIZE, append, make_video, write_partition

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 60
NAME = "part-00001"
BEFORE, LATE = make_video("before.mp4", [3]), make_video("late.mp4", [SHARD + 1])


class Killed(BaseException):
    """Nothing more is done, not even what an error would bring about."""


@pytest.fixture(params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFiles]:
    """Of a store with one committed partition, ``part-00000``."""
    url = str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid4().hex}/store"
    made = create_or_resume(url, SETTINGS)
    write_partition(made, "part-00000", [BEFORE])
    yield made
    fsspec.filesystem("memory").store.clear()


def put(files: StoreFiles, run: Run) -> Run:
    """A run's file, as its own machine would write it."""
    files.make_folder("runs")
    files.write(run.file_name, json.dumps(asdict(run)).encode())
    return run


def run_elsewhere(files: StoreFiles, number: int = 1, renewed: float = 0.0) -> Run:
    return put(files, Run(files.url, number, "abcd", "elsewhere boot pid:[1]", 4321, "5", renewed))


def problems(files: StoreFiles) -> list[str]:
    store = FaceStore.open(files.url)
    return [*verify_store(store), *find_orphans(store)]


def digest(files: StoreFiles) -> str:
    return FaceStore.open(files.url).digest()


# Runs


def test_a_second_run_is_refused_and_told_who_has_the_store(files: StoreFiles) -> None:
    with (
        only_run(files) as first,
        pytest.raises(StoreBusyError, match=rf"process {os.getpid()} on {first.machine.split()[0]}, heard of 0 s ago"),
        only_run(files),
    ):
        raise AssertionError("two have it")


def test_after_it_ended_the_next_has_the_next_number(files: StoreFiles) -> None:
    for number in (1, 2, 3):
        with only_run(files) as run:
            assert run.number == number
            assert run.is_alive()
            assert latest_run(files) == run
        assert latest_run(files) == replace(run, has_ended=True)
        assert files.names("runs") == [f"run-{number:05d}.json"]


def test_a_run_that_fails_has_ended_too(files: StoreFiles) -> None:
    with pytest.raises(ZeroDivisionError), only_run(files) as run:
        raise ZeroDivisionError
    assert latest_run(files) == replace(run, has_ended=True)


TAKE_IT_AND_WAIT = """
import sys
from pathlib import Path
from pipeline.files import StoreFiles
from pipeline.runs import only_run
Path("/proc/self/comm").write_text("name) Z (1 2")
with only_run(StoreFiles(sys.argv[1])):
    print("taken", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_had_is_free_at_once(tmp_path: Path) -> None:
    files = create_or_resume(str(tmp_path / "store"), SETTINGS)
    command = [sys.executable, "-c", TAKE_IT_AND_WAIT, files.url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(StoreBusyError, match=f"process {process.pid} on "), only_run(files):
            raise AssertionError("two have it")
        process.kill()
        # Of a zombie the number is still taken.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with only_run(files) as run:
            assert run.number == 2


def test_another_process_with_the_number_of_a_dead_one_is_not_that_run(files: StoreFiles) -> None:
    with only_run(files) as run:
        assert not replace(run, process_start=f"{run.process_start}0").is_alive()


def test_a_clock_that_is_set_makes_nobody_dead(files: StoreFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil's times of a process are times of day, reckoned anew each time it is asked."""
    clock = iter(range(10**9))
    monkeypatch.setattr(psutil.Process, "create_time", lambda _process: float(next(clock)))
    with only_run(files) as run:
        assert run.is_alive()


@pytest.mark.parametrize(
    ("silent_seconds", "is_alive"), [(0, True), (SILENT_SECONDS - 1, True), (SILENT_SECONDS, False), (-60, True)]
)
def test_a_run_of_another_machine_lives_until_it_is_silent_for_long(
    files: StoreFiles, monkeypatch: pytest.MonkeyPatch, silent_seconds: float, is_alive: bool
) -> None:
    run = run_elsewhere(files, number=7, renewed=1e9)
    monkeypatch.setattr("pipeline.runs.time", lambda: 1e9 + silent_seconds)
    assert run.is_alive() == is_alive
    if is_alive:
        with pytest.raises(StoreBusyError, match="process 4321 on elsewhere, heard of"), only_run(files):
            raise AssertionError("two have it")
    else:
        with only_run(files) as next_run:
            assert next_run.number == 8


def test_of_two_that_take_over_at_the_same_moment_one_wins(files: StoreFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = run_elsewhere(files)
    with only_run(files) as winner:
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.runs.latest_run", lambda _files: dead)
            with pytest.raises(StoreBusyError, match="another run has just begun to write"), only_run(files):
                raise AssertionError("two have it")
        assert latest_run(files) == winner


def test_one_that_looked_long_ago_does_not_take_the_store_from_a_later_run(
    files: StoreFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others came and went since, so that the number that it takes is free, but not the latest."""
    seen_long_ago = [run_elsewhere(files)]
    with only_run(files):
        pass
    with only_run(files) as latest:
        monkeypatch.setattr(
            "pipeline.runs.latest_run", lambda files: seen_long_ago.pop() if seen_long_ago else latest_run(files)
        )
        with pytest.raises(StoreBusyError, match="another run has just begun to write"), only_run(files):
            raise AssertionError("two have it")
        latest.check()
        assert files.names("runs") == ["run-00003.json"]


def about_a_run(**changes: object) -> bytes:
    """What the file of a run of another machine holds that is alive, with changes."""
    run = Run("", 4, "abcd", "elsewhere boot pid:[1]", 4321, "5", 1e12)
    return json.dumps(asdict(run) | changes).encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"number": 4}',
        about_a_run(renewed=None),
        about_a_run(renewed="today"),
        about_a_run(pid=[1]),
        about_a_run(pid=float("inf")),
    ],
)
def test_a_damaged_run_file_is_of_a_dead_run(files: StoreFiles, damaged: bytes) -> None:
    files.make_folder("runs")
    files.write("runs/run-00004.json", damaged)
    with only_run(files) as run:
        assert run.number == 5
    assert files.names("runs") == ["run-00005.json"]


def test_a_run_has_the_number_in_the_name_of_its_file_whatever_is_in_it(files: StoreFiles) -> None:
    files.make_folder("runs")
    files.write("runs/run-00004.json", about_a_run(number=2, has_ended=True))
    with only_run(files) as run:
        assert run.number == 5
        run.check()
    assert files.names("runs") == ["run-00005.json"]


@pytest.mark.parametrize("name", ["run-notes-of-mine.txt", "run-00007.json.bak", "run-.json", ".run-00007.json.0a.tmp"])
def test_what_is_not_called_like_a_run_is_none(files: StoreFiles, name: str) -> None:
    files.make_folder("runs")
    files.write(f"runs/{name}", about_a_run())
    for number in (1, 2, 3):
        with only_run(files) as run:
            assert run.number == number
    assert files.names("runs") == sorted([name, "run-00003.json"])


def test_a_number_in_fewer_digits_is_one_too(files: StoreFiles) -> None:
    files.make_folder("runs")
    files.write("runs/run-4.json", about_a_run())
    with pytest.raises(StoreBusyError), only_run(files):
        raise AssertionError("it is alive")
    files.write("runs/run-4.json", about_a_run(has_ended=True))
    with only_run(files) as run:
        assert run.number == 5


def test_a_run_is_renewed_while_it_lives(files: StoreFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    write = StoreFiles.write

    def spy(files: StoreFiles, name: str, data: bytes) -> None:
        write(files, name, data)
        renewed.set()

    monkeypatch.setattr(StoreFiles, "write", spy)
    monkeypatch.setattr("pipeline.runs.RENEW_SECONDS", 0.001)
    ticks = iter(range(1000, 10**9))
    monkeypatch.setattr("pipeline.runs.time", lambda: float(next(ticks)))
    with only_run(files) as run:
        assert renewed.wait(DEADLINE_SECONDS)
        latest = latest_run(files)
        assert latest is not None
        assert latest.renewed > run.renewed
        assert replace(latest, renewed=run.renewed) == run


def test_a_run_that_cant_be_renewed_goes_on(files: StoreFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def gone(_files: StoreFiles, _name: str, _data: bytes) -> None:
        tried.set()
        raise OSError("the disk is gone")

    monkeypatch.setattr(StoreFiles, "write", gone)
    monkeypatch.setattr("pipeline.runs.RENEW_SECONDS", 0.001)
    with only_run(files) as run:
        assert tried.wait(DEADLINE_SECONDS)
        run.check()


def test_a_run_that_was_taken_for_dead_leaves_the_file_of_its_successor_alone(files: StoreFiles) -> None:
    with only_run(files) as run:
        successor = run_elsewhere(files, number=run.number + 1)
        files.remove(run.file_name)
        with pytest.raises(RunOverError, match="another run has taken over"):
            run.check()
    assert latest_run(files) == successor
    assert files.names("runs") == ["run-00002.json"]


def test_work_for_a_run_that_ended_is_over(files: StoreFiles) -> None:
    with only_run(files) as run:
        run.check()
    with pytest.raises(RunOverError, match="has ended"):
        run.check()


# Watching a run


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The watcher's; that of the run may show any time."""
    made = Clock()
    monkeypatch.setattr("pipeline.runs.monotonic", made)
    return made


def test_a_watcher_tells_when_the_run_has_ended(files: StoreFiles, clock: Clock) -> None:
    with only_run(files) as run:
        watch = RunWatch(run)
        clock.now += CHECK_SECONDS
        watch.check()
    clock.now += CHECK_SECONDS
    with pytest.raises(RunOverError, match="has ended"):
        watch.check()


def test_a_watcher_tells_when_another_run_has_taken_over(files: StoreFiles, clock: Clock) -> None:
    run = run_elsewhere(files)
    watch = RunWatch(run)
    run_elsewhere(files, number=2)
    put(files, replace(run, number=2, token="another"))  # noqa: S106  tells runs apart
    clock.now += CHECK_SECONDS
    with pytest.raises(RunOverError, match="another run has taken over"):
        watch.check()


def test_a_watcher_gives_up_a_run_that_is_silent_by_the_watchers_clock(files: StoreFiles, clock: Clock) -> None:
    run = run_elsewhere(files, renewed=1e12)
    watch = RunWatch(run)
    clock.now += SILENT_SECONDS
    watch.check()
    # Any change is a sign of life, be it back in time.
    put(files, replace(run, renewed=3.0))
    clock.now += CHECK_SECONDS
    watch.check()
    clock.now += SILENT_SECONDS
    watch.check()
    clock.now += CHECK_SECONDS
    with pytest.raises(RunOverError, match="is silent"):
        watch.check()


def test_a_watcher_does_not_look_all_the_time(files: StoreFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_elsewhere(files)
    looked: set[float] = set()

    def look(files: StoreFiles) -> Run | None:
        looked.add(clock.now - 5000)
        return latest_run(files)

    monkeypatch.setattr("pipeline.runs.latest_run", look)
    watch = RunWatch(run)
    for _ in range(35):
        watch.check()
        clock.now += 1
    assert looked == {CHECK_SECONDS, 2 * CHECK_SECONDS, 3 * CHECK_SECONDS}


# Attempts


@pytest.fixture
def run(files: StoreFiles) -> Iterator[Run]:
    with only_run(files) as run:
        yield run


@dataclass
class Attempt:
    """A writer at work on ``late.mp4``, which fills a shard and begins another one."""

    files: StoreFiles
    run: Run
    name: str = NAME

    def __post_init__(self) -> None:
        self.writer = PartitionWriter(self.files, self.name, SIZE, SETTINGS.store)

    def begin(self) -> None:
        begin_attempt(self.files, self.run, self.name, self.writer.array_name)

    def append(self) -> None:
        self.tracks = append(self.writer, [LATE])

    def commit(self) -> None:
        self.writer.commit([LATE.outcome], self.tracks)

    def work(self) -> bool:
        """As ``process_partition`` does; returns whether it committed."""
        self.begin()
        try:
            self.append()
            self.commit()
        except PartitionTakenError:
            self.writer.discard()
            return False
        finally:
            end_attempt(self.files, self.name)
        return True


def test_an_attempt_is_known_from_beginning_to_end(files: StoreFiles, run: Run) -> None:
    begin_attempt(files, run, NAME, "an array")
    assert was_begun(files, NAME)
    assert attempts_left(files) == [NAME]
    end_attempt(files, NAME)
    assert not was_begun(files, NAME)
    assert attempts_left(files) == []
    end_attempt(files, NAME)


def test_an_attempt_is_begun_once(files: StoreFiles, run: Run) -> None:
    begin_attempt(files, run, NAME, "one array")
    with pytest.raises(AttemptLostError, match=f"{NAME} was begun before"):
        begin_attempt(files, run, NAME, "another array")
    assert attempts_left(files) == [NAME]
    begin_attempt(files, run, "part-00002", "another array")


def test_no_attempt_begins_after_another_run_took_over(files: StoreFiles, run: Run) -> None:
    run_elsewhere(files, number=run.number + 1)
    with pytest.raises(RunOverError):
        begin_attempt(files, run, NAME, "an array")
    assert attempts_left(files) == []


def test_no_attempt_begins_while_another_run_takes_over(
    files: StoreFiles, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have listed the attempts before this one was among them."""
    create = StoreFiles.create

    def taken_over_meanwhile(files: StoreFiles, name: str, data: bytes) -> bool:
        run_elsewhere(files, number=run.number + 1)
        return create(files, name, data)

    monkeypatch.setattr(StoreFiles, "create", taken_over_meanwhile)
    with pytest.raises(RunOverError):
        begin_attempt(files, run, NAME, "an array")
    assert attempts_left(files) == []


class Steps:
    """What is done to a store, step by step; one of them can be the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_left: int | None = None
        for owner, name in [
            *((StoreFiles, name) for name in ("create", "write", "remove", "sync")),
            (_GrowingArray, "_write"),
        ]:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.num_left is not None:
                if self.num_left == 0:
                    raise Killed
                self.num_left -= 1
            return method(*args, **kwargs)

        return step

    def do(self, what: Callable[[], object], num_steps: int) -> bool:
        """Do no more than so many steps of it; returns whether that was all."""
        self.num_left = num_steps
        try:
            what()
        except Killed:
            return False
        finally:
            self.num_left = None
        return True


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


STEPS_OF_AN_ATTEMPT = 8
"""Its file; a shard, the rest, what the array is; made durable; tracks, videos; its file."""
STEP_OF_COMMIT = 7


def killed_after(steps: Steps, files: StoreFiles, run: Run, num_steps: int) -> Attempt:
    """An attempt of which no more than so many steps were done; it might go on from where it was."""
    attempt = Attempt(files, run)

    def work() -> None:
        attempt.begin()
        attempt.append()
        attempt.commit()
        end_attempt(files, NAME)

    steps.do(work, num_steps)
    return attempt


def test_an_attempt_has_as_many_steps_as_these_tests_think(files: StoreFiles, run: Run, steps: Steps) -> None:
    for num_steps, is_all in ((STEPS_OF_AN_ATTEMPT, True), (STEPS_OF_AN_ATTEMPT - 1, False)):
        attempt = Attempt(files, run, f"part-{num_steps:05d}")
        assert steps.do(attempt.work, num_steps) == is_all
    killed_after(steps, files, run, STEP_OF_COMMIT - 1)
    assert NAME not in FaceStore.open(files.url).partition_names
    assert f"{NAME}.parquet" in files.names("tracks")


@pytest.mark.parametrize("num_steps", range(STEP_OF_COMMIT, STEPS_OF_AN_ATTEMPT + 1))
def test_settling_leaves_what_is_committed_as_it_is(files: StoreFiles, run: Run, steps: Steps, num_steps: int) -> None:
    attempt = killed_after(steps, files, run, num_steps)
    before = digest(files)
    tables = [files.read(f"{folder}/{NAME}.parquet") for folder in ("tracks", "videos")]
    assert settle(files, NAME)
    assert [files.read(f"{folder}/{NAME}.parquet") for folder in ("tracks", "videos")] == tables
    assert digest(files) == before
    assert attempt.writer.is_committed()
    assert attempts_left(files) == problems(files) == []


@pytest.mark.parametrize("num_steps", range(STEP_OF_COMMIT))
def test_settling_removes_what_is_not_committed(files: StoreFiles, run: Run, steps: Steps, num_steps: int) -> None:
    before = digest(files)
    attempt = killed_after(steps, files, run, num_steps)
    assert not settle(files, NAME)
    assert attempt.writer.array_name not in files.names("arrays")
    assert attempts_left(files) == problems(files) == []
    assert digest(files) == before
    for folder in ("tracks", "videos"):
        assert FaceStore.open(files.url).read_partition(folder, NAME).num_rows == 0
    write_partition(files, "part-00002", [LATE])
    assert problems(files) == []


@pytest.mark.parametrize("num_steps", range(1, STEP_OF_COMMIT))
def test_an_attempt_that_was_only_slow_finds_itself_settled(
    files: StoreFiles, run: Run, steps: Steps, num_steps: int
) -> None:
    attempt = killed_after(steps, files, run, num_steps)
    settle(files, NAME)
    if not hasattr(attempt, "tracks"):
        attempt = replace(attempt)
        attempt.append()
    before = digest(files)
    with pytest.raises(PartitionTakenError, match=f"{NAME} of .* has been taken by another attempt"):
        attempt.commit()
    attempt.writer.discard()
    end_attempt(files, NAME)
    assert digest(files) == before
    assert problems(files) == []


def test_what_an_attempt_writes_after_it_was_settled_is_cleared_when_it_is_killed(files: StoreFiles, run: Run) -> None:
    attempt = Attempt(files, run, NAME)
    attempt.begin()
    settle(files, NAME)
    attempt.append()
    array = attempt.writer.array_name
    assert problems(files) == [f"arrays/{array}"]
    clear_settled(files, NAME)
    assert problems(files) == []
    clear_settled(files, NAME)


def test_a_worker_whose_run_is_over_leaves_nothing(
    files: StoreFiles, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt(files, run, NAME)

    def goes_on_and_is_killed(*_: object) -> None:
        attempt.begin()
        settle(files, NAME)
        attempt.append()
        raise RunOverError("another run has taken over")

    monkeypatch.setattr(job, "supervise", goes_on_and_is_killed)
    task = Task(Partition(1, (LATE.outcome.ref,)), 0, 0)
    with pytest.raises(RunOverError):
        supervised(task, Call("not called", {}), NO_LIMITS, run)
    assert attempt.writer.array_name not in files.names("arrays")
    assert attempts_left(files) == problems(files) == []


def test_of_attempts_that_are_not_settled_nothing_is_cleared(files: StoreFiles, run: Run) -> None:
    write_partition(files, NAME, [LATE])
    at_work = Attempt(files, run, "part-00002")
    at_work.begin()
    at_work.append()
    before = sorted(files.names("arrays"))
    for name in ("part-00000", NAME, at_work.name, "part-00003"):
        clear_settled(files, name)
    assert sorted(files.names("arrays")) == before
    assert len(before) == 3


@pytest.mark.parametrize("of_attempt", range(STEPS_OF_AN_ATTEMPT))
def test_settling_can_be_killed_at_any_step_and_done_again(
    files: StoreFiles, run: Run, steps: Steps, of_attempt: int
) -> None:
    is_committed = of_attempt >= STEP_OF_COMMIT
    attempt = killed_after(steps, files, run, of_attempt)
    # Each time one step further than the time before.
    num_steps = 0
    while not steps.do(lambda: settle(files, NAME), num_steps):
        num_steps += 1
    assert num_steps >= 1
    assert attempt.writer.is_committed() == is_committed
    assert attempts_left(files) == problems(files) == []
    ids = FaceStore.open(files.url).videos["video_id"].to_pylist()
    assert ids == ["before.mp4", "late.mp4"][: 1 + is_committed]


@pytest.mark.parametrize(
    "about",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"array": 3}',
        b'{"array": "THEIRS"}',
        b'{"array": "part-00001-/../THEIRS"}',
        b'{"array": "../arrays/THEIRS"}',
        b'{"array": ""}',
        b'{"array": ".."}',
        b'{"array": "part-00001-*"}',
        b'{"array": "part-00001"}',
        b'{"array": "part-00001-\\u0000"}',
        b'{"array": "part-00001-0123abcd.zarr/../THEIRS"}',
        b'{"array": "part-00001-0123abcd.zarr\\n"}',
    ],
)
def test_an_attempt_file_of_a_foreign_hand_removes_nothing(files: StoreFiles, run: Run, about: bytes) -> None:
    (theirs,) = files.names("arrays")
    files.write("arrays/part-00001-0.zarr", b"not named by it")
    files.write(f"runs/{NAME}.json", about.replace(b"THEIRS", theirs.encode()))
    before = digest(files)
    assert not settle(files, NAME)
    assert files.names("arrays") == sorted([theirs, "part-00001-0.zarr"])
    assert attempts_left(files) == []
    assert digest(files) == before
    assert list(verify_store(FaceStore.open(files.url))) == []


# At the same time


class Turns:
    """Lets threads do their steps on a store in a given order: ``who`` does the next one, and so on."""

    def __init__(self, order: Sequence[str], patch: pytest.MonkeyPatch) -> None:
        self._order = deque(order)
        self._at_work = {"writer", "settler"}
        self._turn = threading.Condition()
        self._of_thread = threading.local()
        for owner, names in (
            (StoreFiles, ("create", "write", "remove", "sync", "exists", "read")),
            (_GrowingArray, ("_write",)),
        ):
            for name in names:
                patch.setattr(owner, name, self._in_turn(getattr(owner, name)))

    def _next(self) -> str:
        while self._order and self._order[0] not in self._at_work:
            self._order.popleft()
        return self._order[0] if self._order else min(self._at_work)

    def _in_turn(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            who = getattr(self._of_thread, "who", None)
            if who is None:  # Amid another step.
                return method(*args, **kwargs)
            with self._turn:
                self._turn.wait_for(lambda: self._next() == who)
                if self._order:
                    self._order.popleft()
                self._of_thread.who = None
                try:
                    return method(*args, **kwargs)
                finally:
                    self._of_thread.who = who
                    self._turn.notify_all()

        return step

    def play(self, who: str, part: Callable[[], bool]) -> bool:
        self._of_thread.who = who
        try:
            return part()
        finally:
            with self._turn:
                self._at_work.discard(who)
                self._turn.notify_all()


@settings(max_examples=60, deadline=None)
@given(order=st.lists(st.sampled_from(["writer", "settler"]), min_size=20, max_size=20))
def test_whatever_the_order_of_their_steps_one_of_writer_and_settler_wins(order: list[str]) -> None:
    files = create_or_resume(f"memory://{uuid4().hex}/store", SETTINGS)
    write_partition(files, "part-00000", [BEFORE])
    with only_run(files) as run:
        attempt = Attempt(files, run)
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
            turns = Turns(order, patch)
            writer = threads.submit(turns.play, "writer", attempt.work)
            settler = threads.submit(turns.play, "settler", lambda: settle(files, NAME))
            has_committed, is_committed = writer.result(DEADLINE_SECONDS), settler.result(DEADLINE_SECONDS)
        assert has_committed == is_committed
        assert problems(files) == []
        if not is_committed:
            write_partition(files, "part-00002", [LATE])
        assert problems(files) == attempts_left(files) == []
        assert FaceStore.open(files.url).videos["video_id"].to_pylist() == ["before.mp4", "late.mp4"]
    fsspec.filesystem("memory").store.clear()
