"""Whole extractions for programs to time: on workers that are up, or here, in one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np

from pipeline.catalog import build_index
from pipeline.cluster import Engine
from pipeline.config import Settings
from pipeline.encode import Mp4Writer
from pipeline.job import Extraction, supervised
from pipeline.plan import Pending, partition_bounds, plan_partitions, settings_bounds
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.supervise import NO_LIMITS, Call
from pipeline.types import Partition, VideoOutcome, VideoRef, Work
from pipeline.writer import create_or_resume


def as_planned(videos: Sequence[VideoRef], num_workers: int) -> list[Work]:
    """The partitions that the command would make of these videos, in its order."""
    settings = Settings().extract
    bounds = partition_bounds(settings, len(videos), sum(ref.size_bytes for ref in videos), num_workers)
    return list(plan_partitions((Pending(ref, None) for ref in videos), bounds, settings_bounds(settings)))


def extract(engine: Engine, num_threads: int, works: Sequence[Work], settings: Settings, folder: str) -> None:
    """One extraction into a new store in this folder, with so many threads a worker."""
    with only_run(create_or_resume(folder, settings)) as run:
        keywords = {"run": run, "settings": settings, "device": "auto", "num_threads": num_threads}
        call = Call("pipeline.process:process_partition", keywords)
        extraction = Extraction(run, settings, works, (), max_attempts=1)
        for _ in extraction.work(partial(supervised, call=call, limits=NO_LIMITS, run=run), engine, None):
            pass


def warm_up(engine: Engine, num_workers: int, num_threads: int, folder: str) -> None:
    """Have every worker load its networks: it forgets them when it has had nothing to do for a minute."""
    path = Path(folder, "nobody.mp4")
    if not path.exists():
        with Mp4Writer(path, 64, 64) as writer:
            for _ in range(30):
                writer.write(np.full((64, 64, 3), 128, np.uint8))
    (ref,) = build_index(str(path))[0]
    works = [Work((replace(ref, video_id=f"{number}.mp4"),)) for number in range(2 * num_workers)]
    with tempfile.TemporaryDirectory() as target:
        extract(engine, num_threads, works, Settings(), target)


@contextmanager
def in_one_thread() -> Iterator[None]:
    """What is given to a pool of threads is done at once, by the thread that gives it.

    So parts of the work that otherwise go on side by side come one after the other, and their seconds can be added up.
    """

    def submit(_pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **keywords))
        except Exception as error:  # Whoever asks the future for its result gets it.
            future.set_exception(error)
        return future

    with mock.patch.object(ThreadPoolExecutor, "submit", submit):
        yield


def extract_here(videos: Sequence[VideoRef], settings: Settings) -> tuple[float, list[VideoOutcome]]:
    """One partition in this process, in one thread: seconds on the clock, and what became of the videos."""
    with (
        tempfile.TemporaryDirectory() as folder,
        only_run(create_or_resume(folder, settings)) as run,
        in_one_thread(),
    ):
        started = perf_counter()
        outcomes = process_partition(Partition(0, tuple(videos)), run, settings, "cpu", 1)
        return perf_counter() - started, outcomes
