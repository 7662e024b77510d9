"""Extraction against reading the files, and the seed's recipe: ``python -m benchmarks.extract_speed FOLDER``.

``read``: ``cv2.VideoCapture.read`` over every frame of every file, one file after the other, with the threads that
OpenCV chooses. ``recipe``: the same clips by ``benchmarks/seed_recipe.py``, with as many processes and threads.
``extraction``: all of ours, planned as by the command; the recipe is given its videos in that order. Workers of both
are up and have their networks loaded, as in any run longer than a minute. Last, the whole command from a cold start,
which a few short videos can't make up for.

The recipe's crops are counted and compared with ours. Where it makes more of them, the ratio of seconds flatters us,
where fewer, the ratio by crop: the goal is for the smaller one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.crops import Crops, crops_of_recipe, crops_of_store, num_crops, share_also_in
from benchmarks.decoding import read_all
from benchmarks.extraction import as_planned, extract, warm_up
from benchmarks.figures import Figure, at_least, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from benchmarks.seed_recipe import export, recipe_workers
from benchmarks.timing import MIN_REPEATS, by_turns, ratio, seconds_of, time_rows
from pipeline.catalog import build_index
from pipeline.cluster import Engine, local_cluster, threads_per_worker
from pipeline.config import Settings
from pipeline.store import FaceStore
from pipeline.types import VideoRef, Work

MAX_OVER_READ = 1.3
MIN_OVER_RECIPE = 3.0


class Extraction:
    """Runs of ours; all have to give the same store."""

    def __init__(self, engine: Engine, workers: int, works: Sequence[Work], scratch: str) -> None:
        self._engine, self._workers, self._works, self._scratch = engine, workers, works, scratch
        self._digest: str | None = None
        self.crops: Crops = {}

    def seconds(self) -> float:
        """Of one, into a new store."""
        num_threads = threads_per_worker(self._workers)
        warm_up(self._engine, self._workers, num_threads, self._scratch)
        with tempfile.TemporaryDirectory() as folder:
            seconds = seconds_of(lambda: extract(self._engine, num_threads, self._works, Settings(), folder))
            store = FaceStore.open(folder)
            if self._digest not in {None, store.digest()}:
                raise SystemExit("two runs gave different stores")
            self._digest, self.crops = store.digest(), crops_of_store(store)
        return seconds


class Recipe:
    """Runs of the seed's."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int, videos: Sequence[VideoRef]) -> None:
        self._pool, self._workers, self._videos = pool, workers, videos
        self.crops: Crops = {}

    def seconds(self) -> float:
        """Of one, into a new folder."""
        num_threads = threads_per_worker(self._workers)
        with tempfile.TemporaryDirectory() as folder:

            def work() -> None:
                self.crops = crops_of_recipe(export(self._pool, self._videos, folder, num_threads))

            return seconds_of(work)


def command_seconds(videos: str) -> float:
    """The command as typed, from the start of Python to its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline.extract", videos, str(Path(folder, "store"))]
        return seconds_of(lambda: subprocess.run(command, check=True, capture_output=True))  # noqa: S603 (our own)


def measure(folder: str, workers: int, repeats: int) -> list[Figure]:
    """Prints the tables."""
    videos, _ = build_index(folder)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        engine = stack.enter_context(local_cluster(workers))
        pool = stack.enter_context(recipe_workers(workers, threads_per_worker(workers)))
        works = as_planned(videos, workers)
        in_order = [ref for work in works for ref in work.videos]
        ours, recipe = Extraction(engine, workers, works, scratch), Recipe(pool, workers, in_order)
        ours.seconds(), recipe.seconds()  # Load the networks and the file cache.
        ways = {
            "read": lambda: seconds_of(lambda: read_all(videos)),
            "extraction": ours.seconds,
            "recipe": recipe.seconds,
        }
        seconds = dict(by_turns(ways, repeats))
    command = command_seconds(folder)
    print(f"{len(videos)} videos, {workers} workers with {threads_per_worker(workers)} threads each")
    print("\n".join(time_rows(seconds, "read")))
    print(f"{'whole command, cold, once':<36}{command:>9.2f}")
    counts = num_crops(ours.crops), num_crops(recipe.crops)
    print(f"\ncrops: extraction {counts[0]:,}, recipe {counts[1]:,}")
    for name, own, others in (("extraction", ours.crops, recipe.crops), ("recipe", recipe.crops, ours.crops)):
        print(f"    of those of {name}, the other has too: {100 * share_also_in(own, others):.1f} %")
    by_seconds = ratio(seconds, "recipe", "extraction")
    by_crop = by_seconds * counts[0] / max(1, counts[1])
    print(f"recipe over extraction: {by_seconds:.2f} x the seconds, {by_crop:.2f} x the seconds a crop")
    return [
        at_most("whole extraction over reading", ratio(seconds, "extraction", "read"), MAX_OVER_READ, "{:.2f} x"),
        at_least(
            "seed's recipe over extraction, seconds or seconds a crop",
            min(by_seconds, by_crop),
            MIN_OVER_RECIPE,
            "{:.2f} x",
        ),
    ]


@click.command()
@click.argument("folder")
@click.option("--workers", default=threads_per_worker(1), show_default="one a core")
@click.option("--repeats", default=MIN_REPEATS, show_default=True)
@json_option
def main(folder: str, workers: int, repeats: int, json_file: Path | None) -> None:
    """Prints seconds and ratios, medians over the repeats."""
    print(describe_machine())
    report_figures(measure(folder, workers, repeats), json_file)


if __name__ == "__main__":
    main()
