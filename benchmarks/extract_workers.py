"""Two workers against one: ``python -m benchmarks.extract_workers FOLDER``.

Both work through each video as often as there are workers at most, the copies one after the other: so two workers are
given the same kind of work at the same time, and how evenly a few videos can be shared out isn't what is measured. Each
worker has one thread, for decoding, too. For comparison, how much faster two processes read files than one does, which
says what the machine gives: cores share memory and clock.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack
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
        engines = {number: stack.enter_context(local_cluster(number)) for number in (1, 2)}
        pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        read_seconds(pool, 2, videos)  # Starts the processes and loads the file cache.
        ways = {}
        for number, engine in engines.items():
            ways[f"extraction, {number} workers"] = partial(extract_seconds, engine, number, works, scratch)
            ways[f"read, {number} processes"] = partial(read_seconds, pool, number, videos)
        seconds = by_turns(ways, repeats)
    print(f"{len(videos)} videos, each {COPIES} times, 1 thread a worker")
    print("\n".join(time_rows(seconds, "extraction, 2 workers")))
    speedup = ratio(seconds, "extraction, 1 workers", "extraction, 2 workers")
    reading = ratio(seconds, "read, 1 processes", "read, 2 processes")
    return [
        at_least("one worker over two", speedup, MIN_SPEEDUP, "{:.2f} x"),
        Figure("one process that reads over two", f"{reading:.2f} x"),
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
