"""Work that may crash or hang, done by a child process that is watched from outside.

Native code (decoders, GPU drivers) can't be interrupted from Python, and when it crashes it takes its process along. So
a dask worker decodes nothing itself: each of its threads has a child for that, knows which video the child is at, and
ends it where it takes too long or too much. Nothing heavy is imported here: that is for the child.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import psutil

START_SECONDS = 600.0
"""For imports and for loading the networks, from a slow network disk, too."""
_LOOK_SECONDS = 1.0
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What a child may take."""

    video_seconds: float | None = None
    """For one video, and for what concerns a whole partition, however often it comes back to it; None: any time."""
    memory_bytes: int | None = None
    """Resident memory; None: as much as there is."""


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Call:
    """What a child does with an item: ``function(item, progress=..., **keywords)``."""

    target: str
    """``module:function``, so that its module is imported in the child only."""
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, item: Any, progress: Callable[[str | None], None]) -> Any:
        """Do it, in this process."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)(item, progress=progress, **self.keywords)


class AttemptFailedError(Exception):
    """The child ended, or was ended, before it was done.

    Attributes:
        reason: what happened, to follow a colon.
        video_id: what it was at; None: nothing that concerns one video alone.
        is_final: trying again would cost as much and end as badly.
    """

    def __init__(self, reason: str, video_id: str | None, is_final: bool = False) -> None:
        super().__init__(reason, video_id, is_final)
        self.reason, self.video_id, self.is_final = reason, video_id, is_final

    def __str__(self) -> str:
        return self.reason


class _Child:
    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(  # noqa: S603  this very program
            [sys.executable, "-m", "pipeline.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.connection: Connection = self._connection

    def memory_bytes(self) -> int:
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def kill(self) -> None:
        """End it, if it hasn't ended; what waits for a dead disk goes when the disk comes back."""
        self._connection.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_SECONDS)

    def how_it_ended(self) -> str:
        code = self._process.returncode
        if code is None:
            return "its process broke the connection"
        if code >= 0:
            return f"its process ended with exit code {code}"
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        hint = " (by hand, or by the system when memory runs out)" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{hint}"


_of_thread = threading.local()


def supervise(item: Any, call: Call, limits: Limits, check: Callable[[], None]) -> Any:
    """Have the child of this thread do something; it is started when first needed, and again after each death.

    Args:
        item: goes to the child, pickled.
        call: what to do with it.
        limits: beyond which the child is killed.
        check: called about once a second; what it raises ends the child and this call.

    Returns:
        What the function returned.

    Raises:
        AttemptFailedError: the child died or was killed.
        Exception: what the function raised.
    """
    child: _Child | None = getattr(_of_thread, "child", None)
    if child is not None and not _taken(child, item, call):
        child = None  # It went home since it had nothing to do.
    try:
        if child is None:
            child = _of_thread.child = _Child()
            with suppress(BrokenPipeError):  # It's dead; how it ended will be told as of any other.
                child.connection.send((item, call))
        kind, value = _watch(child, limits, check)
    except BaseException:
        _of_thread.child = None
        if child is not None:
            child.kill()
        raise
    if kind == "error":
        raise value
    return value


def _taken(child: _Child, item: Any, call: Call) -> bool:
    """Whether a child that has worked before takes another item; one that doesn't is ended."""
    try:
        child.connection.send((item, call))
        if child.connection.poll(_KILL_SECONDS) and child.connection.recv() == ("taken", None):
            return True
    except (EOFError, OSError):
        pass
    child.kill()
    return False


def _watch(child: _Child, limits: Limits, check: Callable[[], None]) -> tuple[str, Any]:
    """The child's answer."""
    video_id: str | None = None
    allowed_seconds: float | None = START_SECONDS
    has_begun = False
    # Videos may take turns: the time up to each message is that of the video that it was at.
    seconds_of: defaultdict[str | None, float] = defaultdict(float)
    last = looked = monotonic()
    while True:
        kind, value = "", None
        try:
            if child.connection.poll(_LOOK_SECONDS):
                kind, value = child.connection.recv()
        except (EOFError, OSError):
            child.kill()
            raise AttemptFailedError(child.how_it_ended(), video_id) from None
        if kind in {"done", "error"}:
            return kind, value
        now = monotonic()
        seconds_of[video_id] += now - last
        last = now
        if allowed_seconds is not None and seconds_of[video_id] > allowed_seconds:
            raise AttemptFailedError(f"not done after {allowed_seconds:g} s", video_id, is_final=video_id is not None)
        if kind == "at":
            if not has_begun:
                has_begun, allowed_seconds = True, limits.video_seconds
                seconds_of.clear()
            video_id = value
        if now - looked < _LOOK_SECONDS:
            continue
        looked = now
        if limits.memory_bytes is not None and (used := child.memory_bytes()) > limits.memory_bytes:
            allowed_gb = limits.memory_bytes / 1e9
            raise AttemptFailedError(
                f"its process took {used / 1e9:.2f} GB, more than the {allowed_gb:.2f} GB allowed", video_id
            )
        check()
