"""Who writes to a store: one run at a time, and of each partition one attempt.

A run is one call of the extraction. Its file ``runs/run-00003.json`` is renewed while it lives, so that a second run is
refused. That is a courtesy, not what keeps a store whole: a client may be killed while its workers go on, a worker may
be cut off from its scheduler and finish hours later, clocks may differ. What keeps it whole:

- A partition's number is for one attempt. It begins by creating ``runs/part-00007.json``, which only one can, and then
  looks whether its run is still the latest. The file goes when the attempt ends, however it ends; where it is left, the
  attempt was killed, or is still at work somewhere.
- An attempt commits by creating ``videos/part-00007.parquet``, which only one can. :func:`settle` creates it first,
  without rows: then that attempt can't commit any more, its array may be removed, and its videos be given to another
  one, under a new number.

So a run that takes over settles all attempts that are left, and needs to know of none whether it still lives.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from time import monotonic, time
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import WriteError
from pipeline.files import StoreFiles
from pipeline.schema import TRACKS_SCHEMA, VIDEOS_SCHEMA, masks_name
from pipeline.writer import to_parquet

logger = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
SILENT_SECONDS = 90.0
"""A run on another machine that hasn't been renewed for so long is taken for dead."""
CHECK_SECONDS = 10.0
"""How often an attempt looks whether its run goes on."""

_FOLDER = "runs"
_RUN_FILE = re.compile(r"run-(\d+)\.json")
_TYPES: dict[Any, Callable[[Any], Any]] = {"int": int, "str": str, "float": float, "bool": bool}
"""Of a run's fields, by their annotations: what is read from a file is not trusted to have them."""


class StoreBusyError(WriteError):
    """Another run writes to the store."""


class RunOverError(Exception):
    """The run that this work belongs to has ended, or another one has taken over."""


class AttemptLostError(Exception):
    """An attempt at this partition was begun before and has not come to an end."""


@dataclass(frozen=True)
class Run:
    """A call of the extraction that writes to a store; goes to the workers."""

    store_url: str
    number: int
    token: str
    """Random: tells two runs of the same number apart."""
    machine: str
    pid: int
    process_start: str
    """When that process began; a process number may come again."""
    renewed: float
    """Seconds since the epoch, by the clock of the run's machine."""
    has_ended: bool = False

    @property
    def file_name(self) -> str:
        return f"{_FOLDER}/run-{self.number:05d}.json"

    def is_alive(self) -> bool:
        """Whether it still writes, as far as can be known from here."""
        if self.has_ended:
            return False
        if self.machine == _this_machine():
            return _process_start(self.pid) == self.process_start
        return time() - self.renewed < SILENT_SECONDS

    def is_latest(self) -> bool:
        """Whether no other run has taken over."""
        latest = latest_run(StoreFiles(self.store_url))
        return latest is not None and latest.token == self.token

    def check(self) -> None:
        """Raises RunOverError: it has ended, or another one has taken over."""
        latest = latest_run(StoreFiles(self.store_url))
        if latest is None or latest.token != self.token:
            raise RunOverError(f"another run has taken over {self.store_url}")
        if latest.has_ended:
            raise RunOverError(f"the run that this work was for has ended: {self.store_url}")


class RunWatch:
    """Tells a worker when the run that it works for is over, or hasn't been heard of for long."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._looked = monotonic()
        self._renewed = run.renewed
        self._changed = self._looked

    def check(self) -> None:
        """Look, but not more often than is reasonable.

        Raises:
            RunOverError: nobody waits for this work any more.
        """
        now = monotonic()
        if now - self._looked < CHECK_SECONDS:
            return
        self._looked = now
        self._run.check()
        latest = latest_run(StoreFiles(self._run.store_url))
        # By this machine's clock alone: the other one's may be wrong.
        if latest is not None and latest.renewed != self._renewed:
            self._renewed, self._changed = latest.renewed, now
        if now - self._changed > SILENT_SECONDS:
            raise RunOverError(f"the client that this work is for is silent: {self._run.store_url}")


@cache
def _this_machine() -> str:
    """Where a process number means the same process: host, boot, and container."""
    parts = [socket.gethostname()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", Path.readlink)):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            parts.append("?")
    return " ".join(parts)


def _process_start(pid: int) -> str | None:
    """When a process of this machine began; None if there is none.

    On Linux in ticks since the system was booted: times of day change when a clock is set.
    """
    try:
        if Path("/proc/self/stat").exists():
            # Fields 3 and 22 of proc(5); the second is a name in parentheses, and may hold some itself.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return None if fields[0] == "Z" else fields[19]
        return str(psutil.Process(pid).create_time())
    except (OSError, psutil.NoSuchProcess):
        return None


def latest_run(files: StoreFiles) -> Run | None:
    """The run that has, or last had, the store; None if there never was one."""
    names = {int(match[1]): name for name in files.names(_FOLDER) if (match := _RUN_FILE.fullmatch(name))}
    if not names:
        return None
    nobody = Run(files.url, max(names), "", "", 0, "", 0.0, has_ended=True)
    from_file = [field for field in fields(Run) if field.name not in {"store_url", "number"}]
    try:
        values = json.loads(files.read(f"{_FOLDER}/{names[nobody.number]}"))
        return replace(nobody, **{field.name: _TYPES[field.type](values[field.name]) for field in from_file})
    except FileNotFoundError:
        return latest_run(files)  # A later run has replaced it since it was listed.
    except (ValueError, TypeError, KeyError, OverflowError):
        return nobody  # Damaged. Whoever it was, fences keep the store whole.


def _as_json(values: Any) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"


@contextmanager
def only_run(files: StoreFiles) -> Iterator[Run]:
    """Have the store alone, for as long as the block lasts.

    Raises:
        StoreBusyError: another run has it.
        WriteError: it can't be written.
    """
    before = latest_run(files)
    if before is not None and before.is_alive():
        host = before.machine.split(" ")[0] or "some machine"
        silent_seconds = max(0.0, time() - before.renewed)
        raise StoreBusyError(
            f"another run writes to {files.url} (process {before.pid} on {host}, heard of {silent_seconds:.0f} s ago); "
            f"wait for it or stop it. If it was killed, that is known {SILENT_SECONDS:.0f} s after it was last heard of"
        )
    run = Run(
        files.url,
        before.number + 1 if before else 1,
        secrets.token_hex(8),
        _this_machine(),
        os.getpid(),
        _process_start(os.getpid()) or "",
        time(),
    )
    try:
        files.make_folder(_FOLDER)
        is_first = files.create(run.file_name, _as_json(asdict(run)))
        if is_first and not run.is_latest():
            # Others came and went, and one has come, since it was looked at.
            files.remove(run.file_name)
            is_first = False
        if is_first and before is not None:
            files.remove(before.file_name)
    except OSError as error:
        raise WriteError(f"can't write to {files.url}: {error}") from error
    if not is_first:
        raise StoreBusyError(f"another run has just begun to write to {files.url}; wait for it or stop it")
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(files, run, over), name="renew the run", daemon=True)
    renewing.start()
    try:
        yield run
    finally:
        over.set()
        renewing.join()
        _write_quietly(files, replace(run, has_ended=True))


def _renew(files: StoreFiles, run: Run, over: threading.Event) -> None:
    while not over.wait(RENEW_SECONDS):
        _write_quietly(files, replace(run, renewed=time()))


def _write_quietly(files: StoreFiles, run: Run) -> None:
    """A run that can't be renewed goes on: what is wrong with the store, its work will meet and say better."""
    try:
        run.check()
        files.write(run.file_name, _as_json(asdict(run)))
    except Exception as error:  # Libraries behind a URL raise errors of all kinds.
        logger.info("%s was not renewed: %s", run.file_name, error)


def _attempt_file(partition_name: str) -> str:
    return f"{_FOLDER}/{partition_name}.json"


def begin_attempt(files: StoreFiles, run: Run, partition_name: str, array_name: str) -> None:
    """Say that a partition is being worked on, before anything of it is written.

    Raises:
        AttemptLostError: somebody has begun it before.
        RunOverError: the work isn't wanted any more.
    """
    about = {"run": run.number, "array": array_name, "machine": _this_machine(), "pid": os.getpid()}
    if not files.create(_attempt_file(partition_name), _as_json(about)):
        raise AttemptLostError(f"{partition_name} was begun before, by a worker that has not been heard of since")
    try:
        # In this order: whoever takes over lists the attempts after creating the file of its run.
        run.check()
    except BaseException:
        end_attempt(files, partition_name)
        raise


def end_attempt(files: StoreFiles, partition_name: str) -> None:
    """The attempt is over, committed or not, and left nothing behind."""
    files.remove(_attempt_file(partition_name))


def was_begun(files: StoreFiles, partition_name: str) -> bool:
    """Whether an attempt at it was begun and hasn't ended."""
    return files.exists(_attempt_file(partition_name))


def attempts_left(files: StoreFiles) -> list[str]:
    """Partitions that were begun and not ended: being worked on, or by somebody who was killed."""
    names = [name for name in files.names(_FOLDER) if name.startswith("part-") and name.endswith(".json")]
    return [name.removesuffix(".json") for name in names]


def settle(files: StoreFiles, partition_name: str) -> bool:
    """Make certain that an attempt has been committed or never will be, and remove what it left in the latter case.

    The partition is then committed in its place, without rows. Also where its process is known to be dead: an engine
    may have given the same attempt to two of them.

    Returns:
        Whether it has been committed.

    Raises:
        WriteError: the store can't be written.
    """
    tracks, videos = f"tracks/{partition_name}.parquet", f"videos/{partition_name}.parquet"
    no_tracks, no_videos = to_parquet(TRACKS_SCHEMA.empty_table()), to_parquet(VIDEOS_SCHEMA.empty_table())
    try:
        files.create(tracks, no_tracks)
        committed = not files.create(videos, no_videos) and _has_rows(files, videos)
        if not committed and _has_rows(files, tracks):
            files.write(tracks, no_tracks)
        if not committed and (array := _array_of_attempt(files, partition_name)):
            for name in (array, masks_name(array)):
                files.remove(f"arrays/{name}")
        end_attempt(files, partition_name)
    except OSError as error:
        raise WriteError(f"can't write to {files.url}: {error}") from error
    return committed


def clear_settled(files: StoreFiles, partition_name: str) -> None:
    """Remove what an attempt wrote after it was settled; only by who has seen it end, and not where it wasn't settled.

    An attempt that doesn't know yet that its run is over goes on, and its array comes again, of which by now no attempt
    file tells.
    """
    videos = f"videos/{partition_name}.parquet"
    if not files.exists(videos) or _has_rows(files, videos):
        return
    for name in files.names("arrays"):
        if name.startswith(f"{partition_name}-"):
            files.remove(f"arrays/{name}")


def _array_of_attempt(files: StoreFiles, partition_name: str) -> str | None:
    try:
        name = str(json.loads(files.read(_attempt_file(partition_name)))["array"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    # It is removed with all that is in it, so a file that somebody else wrote must not choose what.
    return name if re.fullmatch(rf"{re.escape(partition_name)}-[0-9a-f]{{8}}\.zarr", name) else None


def _has_rows(files: StoreFiles, name: str) -> bool:
    try:
        with pq.ParquetFile(pa.BufferReader(files.read(name))) as file:
            return bool(file.metadata.num_rows)
    except pa.ArrowException:
        return True  # Damaged: that is for ``verify`` to say, and nothing is removed for it.
