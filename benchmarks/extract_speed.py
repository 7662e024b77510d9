"""Extraction against merely reading the same files: ``python -m benchmarks.extract_speed FOLDER``.

Baseline: ``cv2.VideoCapture.read`` over every frame of every file, one file after the other. Ours: the whole
extraction with workers that are up and have their networks loaded, as in any run longer than a minute. Last, the whole
command from a cold start, which a few short videos can't make up for. Runs alternate, so that drift hits both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import click
import cv2

from benchmarks.machine import describe_machine
from pipeline.catalog import build_index
from pipeline.cluster import Engine, local_cluster, threads_per_worker
from pipeline.config import Settings
from pipeline.job import Extraction, supervised
from pipeline.runs import only_run
from pipeline.store import FaceStore
from pipeline.supervise import NO_LIMITS, Call
from pipeline.types import VideoRef, Work
from pipeline.writer import create_or_resume


def read_seconds(index: list[VideoRef]) -> float:
    """Every frame of every file, decoded and converted, nothing else."""
    started = perf_counter()
    for ref in index:
        capture = cv2.VideoCapture(ref.path)
        while capture.read()[0]:
            pass
        capture.release()
    return perf_counter() - started


def extract_seconds(engine: Engine, workers: int, index: list[VideoRef], settings: Settings) -> tuple[float, str]:
    """One extraction into a new store; its digest with it."""
    with tempfile.TemporaryDirectory() as folder:
        started = perf_counter()
        with only_run(create_or_resume(folder, settings)) as run:
            keywords = {"run": run, "settings": settings, "device": "auto", "num_threads": threads_per_worker(workers)}
            call = Call("pipeline.process:process_partition", keywords)
            extraction = Extraction(run, settings, [Work((ref,)) for ref in index], (), max_attempts=1)
            for _ in extraction.work(partial(supervised, call=call, limits=NO_LIMITS, run=run), engine, None):
                pass
        seconds = perf_counter() - started
        return seconds, FaceStore.open(folder).digest()


def command_seconds(videos: str) -> float:
    """The command as typed, from the start of Python to its end."""
    with tempfile.TemporaryDirectory() as folder:
        started = perf_counter()
        command = [sys.executable, "-m", "pipeline.extract", videos, str(Path(folder, "store"))]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 (our own command)
        return perf_counter() - started


@click.command()
@click.argument("folder")
@click.option("--workers", default=threads_per_worker(1), show_default="one a core")
@click.option("--repeats", default=5, show_default=True)
def main(folder: str, workers: int, repeats: int) -> None:
    """Prints seconds and the ratio to reading alone, medians over the repeats."""
    print(describe_machine())
    index, _ = build_index(folder)
    settings = Settings()
    reads: list[float] = []
    extracts: list[float] = []
    with local_cluster(workers) as engine:
        _, digest = extract_seconds(engine, workers, index, settings)  # Loads the networks and the file cache.
        for _ in range(repeats):
            reads.append(read_seconds(index))
            seconds, again = extract_seconds(engine, workers, index, settings)
            extracts.append(seconds)
            if again != digest:
                raise SystemExit("two runs gave different stores")
    command = command_seconds(folder)
    read = statistics.median(reads)
    print(f"{len(index)} videos, {workers} workers, median of {repeats} (least, most)")
    for name, values in (("cv2 read", reads), ("extraction", extracts), ("whole command, cold", [command])):
        median = statistics.median(values)
        print(f"{name:<22}{median:>8.2f} s ({min(values):.2f}, {max(values):.2f}){median / read:>8.2f} x")


if __name__ == "__main__":
    main()
