"""A child process does the work; whatever becomes of it, the call comes back and the process is gone."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import supervise as module
from pipeline.supervise import NO_LIMITS, AttemptFailedError, Call, Limits, supervise

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 60
Progress = Callable[[str | None], None]

pytestmark = pytest.mark.cluster


# What children do


def double(item: int, progress: Progress) -> int:
    progress(f"{item}.mp4")
    progress(None)
    return 2 * item


def add(item: int, progress: Progress, to: int) -> int:
    return item + to


def pid(_item: object, progress: Progress) -> int:
    return os.getpid()


class OddError(Exception):
    """Can't be made again from its arguments."""

    def __init__(self, video_id: str, frame: int) -> None:
        super().__init__(f"{video_id} {frame}")


def fail(item: str, progress: Progress) -> None:
    raise ValueError("no good", item)


def fail_oddly(item: str, progress: Progress) -> None:
    raise OddError(item, 3)


class Unspeakable:
    """Can be neither pickled nor shown."""

    def __reduce__(self) -> str:
        raise OSError("no")

    def __repr__(self) -> str:
        raise OSError("no")


def nameless() -> None:
    """A function that isn't found under its name."""


nameless.__qualname__ = "<lambda>"


WHAT_CANT_BE_SENT: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "function": lambda: nameless,
    "local": lambda: lambda: None,
    "Unspeakable": Unspeakable,
}


def return_what_cant_be_sent(what: str, progress: Progress) -> Any:
    return WHAT_CANT_BE_SENT[what]()


def fail_with_what_cant_be_sent(what: str, progress: Progress) -> None:
    raise ValueError(WHAT_CANT_BE_SENT[what]())


def die(item: str, progress: Progress, how: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    progress("fine.mp4")
    progress(item)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(7)
    elif how == "raise":
        sys.exit(3)
    elif how == "real-time signal":
        os.kill(os.getpid(), signal.SIGRTMIN + 6)
    else:
        os.abort()


def hang(item: Path, progress: Progress, video_id: str | None = "slow.mp4", holds_gil: bool = False) -> None:
    """Leaves its number and never returns."""
    item.write_text(str(os.getpid()), encoding="ascii")
    progress(video_id)
    if holds_gil:
        ctypes.PyDLL(None).pause()
    time.sleep(1e6)


def say_so_and_hang(_item: object, progress: Progress, holds_gil: bool) -> None:
    print("hanging", flush=True)  # noqa: T201  for the one who started the parent
    if holds_gil:
        ctypes.PyDLL(None).pause()
    time.sleep(1e6)


def talk_without_end(item: Path, progress: Progress) -> None:
    item.touch()
    while True:
        progress("short.mp4")


def take_turns_without_end(item: Path, progress: Progress) -> None:
    item.write_text(str(os.getpid()), encoding="ascii")
    while True:
        progress("original.mp4")
        progress("fake.mp4")


def take_memory_and_hang(item: Path, progress: Progress) -> None:
    taken = b"x" * (300 << 20)
    hang(item, progress, f"{len(taken)}.mp4")


# What their parent sees


def call(function: Callable[..., Any], **keywords: Any) -> Call:
    return Call(f"{__name__}:{function.__name__}", keywords)


def unconcerned() -> None:
    """Nothing has happened that would end the work."""


def do(item: Any, what: Call, limits: Limits = NO_LIMITS, check: Callable[[], None] = unconcerned) -> Any:
    return supervise(item, what, limits, check)


def dismiss() -> None:
    """End the child of this thread."""
    child = getattr(module._of_thread, "child", None)
    module._of_thread.child = None
    if child is not None:
        child.kill()


@pytest.fixture(autouse=True)
def own_child(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new one for each test, started where it finds these functions, and looked at often."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("pipeline.supervise._LOOK_SECONDS", 0.02)
    dismiss()
    yield
    dismiss()


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "pid"


def is_gone(pid_file: Path) -> bool:
    return not psutil.pid_exists(int(pid_file.read_text(encoding="ascii")))


def test_a_call_is_a_function_by_name() -> None:
    told: list[str | None] = []
    assert call(double)(21, told.append) == 42
    assert told == ["21.mp4", None]
    assert call(add, to=3)(4, told.append) == 7


def test_results_come_back_from_one_child_after_the_other_item() -> None:
    assert [do(number, call(double)) for number in range(3)] == [0, 2, 4]
    assert do(1, call(add, to=2)) == 3
    first = do(None, call(pid))
    assert do(None, call(pid)) == first
    assert first != os.getpid()


def test_each_thread_has_a_child_of_its_own() -> None:
    pids = [do(None, call(pid))]

    def another() -> None:
        pids.append(do(None, call(pid)))
        dismiss()

    thread = threading.Thread(target=another)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    assert len({*pids, do(None, call(pid))}) == 2


def test_what_the_function_raises_comes_back_and_costs_no_child() -> None:
    before = do(None, call(pid))
    with pytest.raises(ValueError, match="no good") as caught:
        do("a.mp4", call(fail))
    assert caught.value.args == ("no good", "a.mp4")
    assert do(None, call(pid)) == before


def test_what_cant_be_sent_is_an_error_that_says_so() -> None:
    before = do(None, call(pid))
    for what, type_name in zip(WHAT_CANT_BE_SENT, ("lock", "function", "function", "Unspeakable"), strict=True):
        with pytest.raises(RuntimeError, match=rf"^its {type_name} can't be sent: "):
            do(what, call(return_what_cant_be_sent))
        with pytest.raises(RuntimeError, match=r"^its ValueError can't be sent: "):
            do(what, call(fail_with_what_cant_be_sent))
    assert do(None, call(pid)) == before


def test_an_error_that_cant_be_made_again_here_is_an_error_all_the_same() -> None:
    with pytest.raises(TypeError, match="frame"):
        do("a.mp4", call(fail_oddly))
    assert do(1, call(double)) == 2


def test_an_item_that_cant_be_sent_is_an_error_and_the_next_one_is_done() -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match="pickle"):
            do(threading.Lock(), call(double))
        assert do(1, call(double)) == 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("kill", "its process was ended by SIGKILL (by hand, or by the system when memory runs out)"),
        ("exit", "its process ended with exit code 7"),
        ("raise", "its process ended with exit code 3"),
        ("abort", "its process was ended by SIGABRT"),
        ("real-time signal", f"its process was ended by signal {signal.SIGRTMIN + 6}"),
    ],
)
def test_a_death_is_told_with_its_cause_and_the_video_and_the_next_item_is_done(how: str, reason: str) -> None:
    before = do(None, call(pid))
    with pytest.raises(AttemptFailedError) as caught:
        do("bad.mp4", call(die, how=how))
    failure = caught.value
    assert (failure.reason, str(failure), failure.video_id) == (reason, reason, "bad.mp4")
    assert not failure.is_final
    assert not psutil.pid_exists(before)
    assert do(None, call(pid)) != before


@pytest.mark.parametrize("holds_gil", [False, True])
def test_a_hang_over_a_video_is_ended_for_good(pid_file: Path, holds_gil: bool) -> None:
    with pytest.raises(AttemptFailedError, match=r"^not done after 0.3 s$") as caught:
        do(pid_file, call(hang, holds_gil=holds_gil), Limits(video_seconds=0.3))
    assert (caught.value.video_id, caught.value.is_final) == ("slow.mp4", True)
    assert is_gone(pid_file)
    assert do(1, call(double), Limits(video_seconds=60)) == 2


def test_a_hang_over_what_is_no_video_may_be_tried_again(pid_file: Path) -> None:
    with pytest.raises(AttemptFailedError, match=r"not done after 0.3 s") as caught:
        do(pid_file, call(hang, video_id=None), Limits(video_seconds=0.3))
    assert (caught.value.video_id, caught.value.is_final) == (None, False)
    assert is_gone(pid_file)


def test_a_child_that_never_gets_to_a_video_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.supervise.START_SECONDS", 0.1)
    with pytest.raises(AttemptFailedError, match=r"not done after 0.1 s") as caught:
        do(None, call(say_so_and_hang, holds_gil=False), Limits(video_seconds=1e6))
    assert (caught.value.video_id, caught.value.is_final) == (None, False)


def test_a_child_that_takes_too_much_memory_is_ended(pid_file: Path) -> None:
    with pytest.raises(
        AttemptFailedError, match=r"^its process took 0\.[2-9]\d GB, more than the 0.20 GB allowed$"
    ) as caught:
        do(pid_file, call(take_memory_and_hang), Limits(memory_bytes=200 * 10**6))
    assert caught.value.video_id in {None, f"{300 << 20}.mp4"}
    assert not caught.value.is_final
    if pid_file.exists():
        assert is_gone(pid_file)
    assert do(1, call(double), Limits(memory_bytes=200 * 10**6)) == 2


@pytest.mark.parametrize("item", ["small", "x" * 10**7])
def test_a_child_that_cant_start_is_a_death_without_a_video(monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.supervise.sys.executable", "/bin/false")
        with pytest.raises(AttemptFailedError, match=r"^its process ended with exit code 1$") as caught:
            do(item, call(double))
    assert (caught.value.video_id, caught.value.is_final) == (None, False)
    assert do(1, call(double)) == 2


class NotWantedError(BaseException):
    """As an interrupt."""


def test_what_the_check_raises_ends_child_and_call(pid_file: Path) -> None:
    def check() -> None:
        if pid_file.exists() and pid_file.read_text(encoding="ascii"):
            raise NotWantedError

    with pytest.raises(NotWantedError):
        do(pid_file, call(hang), check=check)
    assert is_gone(pid_file)
    assert do(1, call(double)) == 2


def test_a_child_that_talks_all_the_time_is_watched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"

    def check() -> None:
        if begun.exists():
            raise NotWantedError

    with pytest.raises(NotWantedError):
        do(begun, call(talk_without_end), check=check)
    begun.unlink()
    monkeypatch.setattr("pipeline.supervise._Child.memory_bytes", lambda _child: 10**9 if begun.exists() else 0)
    with pytest.raises(AttemptFailedError, match=r"took 1\.00 GB, more than the 0\.50 GB allowed"):
        do(begun, call(talk_without_end), Limits(memory_bytes=5 * 10**8))


def test_a_broken_pipe_of_the_check_is_no_death_of_the_child(pid_file: Path) -> None:
    def check() -> None:
        if pid_file.exists() and pid_file.read_text(encoding="ascii"):
            raise BrokenPipeError("of a store elsewhere")

    with pytest.raises(BrokenPipeError, match="of a store elsewhere"):
        do(pid_file, call(hang), check=check)
    assert is_gone(pid_file)
    assert do(1, call(double)) == 2


def test_videos_that_take_turns_without_end_are_ended(pid_file: Path) -> None:
    with pytest.raises(AttemptFailedError, match=r"^not done after 0.3 s$") as caught:
        do(pid_file, call(take_turns_without_end), Limits(video_seconds=0.3))
    assert caught.value.video_id in {"original.mp4", "fake.mp4"}
    assert caught.value.is_final
    assert is_gone(pid_file)


Message = tuple[str, Any]


class ScriptedChild:
    """Says what a script says, each message so many seconds after the last, and then nothing; time is its own."""

    def __init__(self, *script: tuple[float, Message]) -> None:
        self.connection = self
        self.now = 0.0
        times = accumulate(seconds for seconds, _ in script)
        self._script = deque(zip(times, (message for _, message in script), strict=True))

    def poll(self, seconds: float) -> bool:
        is_there = bool(self._script) and self._script[0][0] <= self.now + seconds
        self.now = self._script[0][0] if is_there else self.now + seconds
        return is_there

    def recv(self) -> Message:
        return self._script.popleft()[1]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Message]:
    """Watch a child that says these messages, looking after it once a second, 5 seconds allowed."""

    def run(*script: tuple[float, Message]) -> Message:
        child = ScriptedChild(*script)
        monkeypatch.setattr(module, "monotonic", lambda: child.now)
        monkeypatch.setattr(module, "_LOOK_SECONDS", 1.0)
        monkeypatch.setattr(module, "START_SECONDS", 100.0)
        return module._watch(child, Limits(video_seconds=5), unconcerned)  # type: ignore[arg-type]

    return run


def at(video_id: str | None) -> Message:
    return "at", video_id


TAKEN, DONE = ("taken", None), ("done", 3)


def test_all_turns_of_a_video_count(watch: Callable[..., Message]) -> None:
    turns = [(0, at("a")), (2, at("b")), (1, at("a")), (2, at("b")), (1, at("a"))]
    assert watch(*turns, (0.9, DONE)) == DONE
    with pytest.raises(AttemptFailedError, match=r"^not done after 5 s$") as caught:
        watch(*turns, (3, DONE))
    assert (caught.value.video_id, caught.value.is_final) == ("a", True)


def test_turns_of_others_dont_count(watch: Callable[..., Message]) -> None:
    turns = [turn for number in range(50) for turn in ((0.05, at(f"{number}")), (4, at("a")))]
    assert watch(*turns, (1, DONE)) == DONE


def test_it_is_the_video_that_took_too_long_which_is_named(watch: Callable[..., Message]) -> None:
    """Though another has its turn whenever somebody looks."""
    turns = [turn for _ in range(10) for turn in ((0.1, at("a")), (0.8, at("b")), (0.1, at("b")))]
    with pytest.raises(AttemptFailedError) as caught:
        watch(*turns, (0.1, DONE))
    assert caught.value.video_id == "a"


def test_what_concerns_all_has_a_time_of_its_own(watch: Callable[..., Message]) -> None:
    turns = [(90, at("a")), (4, at(None)), (3, at("b")), (4, at(None))]
    assert watch(*turns, (1.9, DONE)) == DONE, "the start counts for nobody"
    with pytest.raises(AttemptFailedError, match=r"^not done after 5 s$") as caught:
        watch(*turns, (4, DONE))
    assert (caught.value.video_id, caught.value.is_final) == (None, False)


def test_the_start_has_a_time_of_its_own(watch: Callable[..., Message]) -> None:
    assert watch((50, TAKEN), (49, at(None)), (4.9, DONE)) == DONE
    assert watch((50, TAKEN), (49, DONE)) == DONE
    with pytest.raises(AttemptFailedError, match=r"^not done after 100 s$") as caught:
        watch((50, TAKEN), (60, at("a")), (1, DONE))
    assert (caught.value.video_id, caught.value.is_final) == (None, False)


def test_an_idle_child_that_takes_nothing_any_more_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.supervise._KILL_SECONDS", 0.1)
    stopped = do(None, call(pid))
    os.kill(stopped, signal.SIGSTOP)
    assert do(None, call(pid)) != stopped
    assert not psutil.pid_exists(stopped)


def test_a_child_that_went_home_is_replaced_without_notice() -> None:
    idle = do(None, call(pid))
    os.kill(idle, signal.SIGKILL)
    # Waited for, but left for its parent to bury.
    os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
    assert do(None, call(pid)) != idle
    assert not psutil.pid_exists(idle)


def test_a_process_that_cant_be_killed_is_left_behind(pid_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for a disk that is gone."""
    spared: list[subprocess.Popen[bytes]] = []

    def spare(process: subprocess.Popen[bytes]) -> None:
        spared.append(process)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.supervise._KILL_SECONDS", 0.1)
        patch.setattr(subprocess.Popen, "kill", spare)
        # That its parent hangs up would end it, too, were it able to notice.
        with pytest.raises(AttemptFailedError, match="not done after") as caught:
            do(pid_file, call(hang, holds_gil=True), Limits(video_seconds=0.1))
    assert caught.value.video_id == "slow.mp4"
    (process,) = spared
    assert psutil.pid_exists(process.pid)
    assert do(1, call(double)) == 2
    process.kill()
    process.wait(DEADLINE_SECONDS)


def test_a_failure_stays_itself_on_its_way_between_processes() -> None:
    failure = AttemptFailedError("why", "a.mp4", is_final=True)
    again = pickle.loads(pickle.dumps(failure))  # noqa: S301
    assert vars(again) == vars(failure)
    assert str(again) == "why"


SUPERVISE_A_HANG = """
import sys
from pipeline.supervise import NO_LIMITS, Call, supervise
supervise(None, Call("tests.test_supervise:say_so_and_hang", {"holds_gil": sys.argv[1] == "True"}), NO_LIMITS, str)
"""


@pytest.mark.parametrize("holds_gil", [False, True])
def test_a_child_ends_with_its_parent(holds_gil: bool) -> None:
    command = [sys.executable, "-c", SUPERVISE_A_HANG, str(holds_gil)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "hanging\n"
        parent.kill()
        # Both have it open for writing, so it ends when both have ended.
        rest, _ = parent.communicate(timeout=DEADLINE_SECONDS)
        assert rest == ""
