"""Two workers against one: ``python -m benchmarks.extract_workers FOLDER``.

All work through each video twice, the copies one after the other: so two workers are given the same kind of work at the
same time, and how evenly a few videos can be shared out isn't what is measured. A worker has one thread for decoding
and one for detecting, so that one alone keeps more than one core busy where there are more; beside it, therefore, one
that is given a single core. For comparison, how much faster two processes read files than one does, which says what the
machine gives: cores share memory and clock.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click

from benchmarks.decoding import read_all
from benchmarks.extraction import extract, warm_up
from benchmarks.figures import Figure, at_least, json_option, report_figures
from benchmarks.machine import describe_machine
from benchmarks.timing import MIN_REPEATS, by_turns, ratio, seconds_of, time_rows
from pipeline.catalog import build_index
from pipeline.cluster import Engine, local_cluster
from pipeline.config import Settings
from pipeline.types import VideoRef, Work

MIN_SPEEDUP = 1.8
COPIES = 2
ONE, CONFINED, TWO = "1 worker", "1 worker on 1 core", "2 workers"


@contextmanager
def on_one_core() -> Iterator[None]:
    """Threads and processes that are started inside stay on one core, with all that they start."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def copies_in_turn(videos: Sequence[VideoRef]) -> list[Work]:
    """Each video as often as there are workers, under names of their own."""
    return [Work((replace(ref, video_id=f"{n}/{ref.video_id}"),)) for ref in videos for n in range(COPIES)]


def extract_seconds(engine: Engine, num_workers: int, works: Sequence[Work], scratch: str) -> float:
    """One extraction into a new store."""
    warm_up(engine, num_workers, 1, scratch)
    with tempfile.TemporaryDirectory() as folder:
        return seconds_of(lambda: extract(engine, 1, works, Settings(), folder))


def read_seconds(pool: ProcessPoolExecutor, num_processes: int, videos: Sequence[VideoRef]) -> float:
    """All copies of all videos, as many in each process."""
    share = list(videos) * (COPIES // num_processes)
    return seconds_of(lambda: wait([pool.submit(read_all, share, 1) for _ in range(num_processes)]))


def measure(folder: str, repeats: int) -> list[Figure]:
    """Prints the table."""
    videos, _ = build_index(folder)
    works = copies_in_turn(videos)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        with on_one_core():
            confined = stack.enter_context(local_cluster(1))
            warm_up(confined, 1, 1, scratch)
        engines = {
            ONE: (1, stack.enter_context(local_cluster(1))),
            CONFINED: (1, confined),
            TWO: (2, stack.enter_context(local_cluster(2))),
        }
        pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        read_seconds(pool, 2, videos)  # Starts the processes and loads the file cache.
        ways = {
            name: partial(extract_seconds, engine, workers, works, scratch)
            for name, (workers, engine) in engines.items()
        }
        readers = {f"read, processes: {number}": partial(read_seconds, pool, number, videos) for number in (1, 2)}
        seconds = by_turns({**ways, **readers}, repeats)
    print(f"{len(videos)} videos, each {COPIES} times; decoding with 1 thread")
    print("\n".join(time_rows(seconds, TWO)))
    one_reader, two_readers = readers
    return [
        at_least("one worker's time over two workers'", ratio(seconds, ONE, TWO), MIN_SPEEDUP, "{:.2f} x"),
        Figure("the same, the one worker given one core", f"{ratio(seconds, CONFINED, TWO):.2f} x"),
        Figure("time of one process that reads over two's", f"{ratio(seconds, one_reader, two_readers):.2f} x"),
    ]


@click.command()
@click.argument("folder")
@click.option("--repeats", default=MIN_REPEATS, show_default=True)
@json_option
def main(folder: str, repeats: int, json_file: Path | None) -> None:
    """Prints seconds, and how much faster two are."""
    print(describe_machine())
    report_figures(measure(folder, repeats), json_file)


if __name__ == "__main__":
    main()
