"""Faults on purpose, in processes that a test can't reach: Python imports this by itself from a folder in its path.

FACECLIPS_FAULT says which: JSON with

- ``stage``: where, one of the keys of ``STAGES``.
- ``kind``: what happens there, one of ``exception, kill, hang, full``.
- ``video_id``: the victim.
- ``times``: how often at most, over all processes; null: always.
- ``folder``: takes an empty file for each time it happened, named after the process.
- ``ballast``: for ``full``, a file on the disk that is to be full; it takes all the room there is.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FAULT: dict[str, Any] = json.loads(os.environ.get("FACECLIPS_FAULT", "{}"))
IO_STAGES = ("array write", "commit")


def happen() -> None:
    folder = Path(FAULT["folder"])
    if FAULT["times"] is not None and len(list(folder.iterdir())) >= FAULT["times"]:
        return
    (folder / f"{os.getpid()}-{uuid.uuid4().hex}").touch()
    if FAULT["kind"] == "exception":
        raise OSError(errno.EIO, "injected") if FAULT["stage"] in IO_STAGES else RuntimeError("injected")
    if FAULT["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT["kind"] == "hang":
        ctypes.PyDLL(None).pause()  # Native code that never gives the interpreter back.
    else:
        fill_disk(Path(FAULT["ballast"]))


def fill_disk(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def inject(process: ModuleType) -> None:
    """Wrap what ``pipeline.process`` calls, so that the fault happens when the victim gets there."""
    current: list[str] = []

    def at(stage: str, function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if FAULT["stage"] == stage and when(*args):
                happen()
            return function(*args, **kwargs)

        return wrapped

    def is_victim(*_args: object) -> bool:
        return current[-1:] == [FAULT["video_id"]]

    def process_all(*args: Any) -> Any:
        *others, tell = args

        def note_and_tell(video_id: str | None) -> None:
            current.append(str(video_id))
            tell(video_id)

        return real_process_all(*others, note_and_tell)

    def commit(writer: Any, outcomes: Sequence[Any], tracks: Any) -> None:
        # Between its two files: the worst of moments.
        current.extend(o.ref.video_id for o in outcomes if o.ref.video_id == FAULT["video_id"])
        real_commit(writer, outcomes, tracks)

    import zarr  # noqa: PLC0415  not in every Python that happens to start

    module: Any = process
    array: Any = zarr.Array
    real_process_all, real_commit = module._process_all, module.PartitionWriter.commit
    module._process_all, module.PartitionWriter.commit = process_all, commit
    detector, files = module.FaceDetector, module.StoreFiles
    cutter: Any = sys.modules["pipeline.cutter"]
    reader: Any = sys.modules["pipeline.decode"].VideoReader
    reader._grab = at("decode", reader._grab, is_victim)
    detector.detect_batch = at("detect", detector.detect_batch, is_victim)
    cutter.crop_square = at("crop", cutter.crop_square, is_victim)
    array.__setitem__ = at("array write", array.__setitem__, is_victim)
    files.create = at("commit", files.create, lambda _files, name, _data: is_victim() and name.startswith("videos/"))


class InjectingFinder(importlib.abc.MetaPathFinder):
    """Finds ``pipeline.process`` as ever, and has it changed once it is loaded."""

    def find_spec(self, name: str, *_where: Any) -> importlib.machinery.ModuleSpec | None:
        if name != "pipeline.process":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec and spec.loader
        load = loader.exec_module

        def load_and_inject(module: ModuleType) -> None:
            load(module)
            inject(module)

        loader.exec_module = load_and_inject
        return spec


if FAULT:
    sys.meta_path.insert(0, InjectingFinder())
