"""How long workers stand idle at the end of a run: ``python -m benchmarks.tail``.

A simulation: each worker takes the next partition as it becomes free, over videos of lognormal length, most of them
seconds and a few hours. Work goes with length, and so do bytes, which is all that planning sees. Baselines: partitions
of 16 in the order of the index; and of 16, largest first, whatever they weigh. The last rows show what is left to gain:
largest first over the whole index, which had to be sorted for it.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator

import click

from benchmarks.machine import describe_machine
from pipeline.catalog import batched
from pipeline.config import ExtractSettings
from pipeline.plan import Bounds, Pending, partition_bounds, plan_partitions, settings_bounds
from pipeline.types import VideoRef

MEDIAN_SECONDS = 10.0
SIGMA = 2.0
"""Of the logarithm: one video in 600 has an hour or more."""
LONGEST_SECONDS = 4 * 3600.0
BYTES_PER_SECOND = 430_000
"""Of 1080p, as in ``ExtractSettings.megabytes_per_partition``."""
WORK_PER_SECOND = 2.4
"""Seconds that a worker takes for a second of video."""
VIDEOS_PER_PARTITION = ExtractSettings().videos_per_partition

Plan = Callable[[list[VideoRef], int], Iterable[tuple[VideoRef, ...]]]


def made_up_videos(num_videos: int, seed: int) -> list[VideoRef]:
    """An index in which lengths come in no order."""
    rng = random.Random(seed)  # noqa: S311
    drawn = (rng.lognormvariate(math.log(MEDIAN_SECONDS), SIGMA) for _ in range(num_videos))
    sizes = (int(min(seconds, LONGEST_SECONDS) * BYTES_PER_SECOND) for seconds in drawn)
    return [VideoRef(f"{i:06d}.mp4", f"{i:06d}.mp4", size_bytes, 0) for i, size_bytes in enumerate(sizes)]


def work_seconds(videos: Iterable[VideoRef]) -> float:
    """Of one worker."""
    return sum(ref.size_bytes for ref in videos) / BYTES_PER_SECOND * WORK_PER_SECOND


def list_schedule(partitions: Iterable[tuple[VideoRef, ...]], num_workers: int) -> tuple[float, float]:
    """Each partition to the worker that is free first.

    Returns:
        When the first worker finds nothing more to do, and when the last one is done; seconds.
    """
    free_at = [0.0] * num_workers
    for partition in partitions:
        heapq.heapreplace(free_at, free_at[0] + work_seconds(partition))
    return free_at[0], max(free_at)


def in_order_of_index(videos: list[VideoRef], _num_workers: int) -> Iterator[tuple[VideoRef, ...]]:
    return (tuple(batch) for batch in batched(videos, VIDEOS_PER_PARTITION))


def planned(videos: list[VideoRef], bounds: Bounds) -> Iterator[tuple[VideoRef, ...]]:
    """Of videos that nothing was made from: what is planned together is then one video."""
    pending = (Pending(ref, None) for ref in videos)
    return (work.videos for work in plan_partitions(pending, bounds, settings_bounds(ExtractSettings())))


def largest_first(videos: list[VideoRef], _num_workers: int) -> Iterator[tuple[VideoRef, ...]]:
    return planned(videos, Bounds(VIDEOS_PER_PARTITION, size_bytes=2**63))


def ours(videos: list[VideoRef], num_workers: int) -> Iterator[tuple[VideoRef, ...]]:
    total_bytes = sum(ref.size_bytes for ref in videos)
    return planned(videos, partition_bounds(ExtractSettings(), len(videos), total_bytes, num_workers))


def ours_over_a_sorted_index(videos: list[VideoRef], num_workers: int) -> Iterator[tuple[VideoRef, ...]]:
    return ours(sorted(videos, key=lambda ref: -ref.size_bytes), num_workers)


PLANS: dict[str, Plan] = {
    f"{VIDEOS_PER_PARTITION}, in order of the index": in_order_of_index,
    f"{VIDEOS_PER_PARTITION}, largest first": largest_first,
    "ours": ours,
    "ours, index sorted by size": ours_over_a_sorted_index,
}


HEADER = (
    f"{'videos':>8}{'1 h up':>8}{'workers':>9}  {'':<28}{'least':>7}{'makespan / ideal':>19}"
    f"{'tail / ideal':>17}{'tail':>10}"
)


def _median_and_worst(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({max(values):.3f})"


def _print_plans(draws: list[list[VideoRef]], num_workers: int) -> None:
    ideals = [work_seconds(draw) / num_workers for draw in draws]
    num_long = statistics.fmean(sum(ref.size_bytes >= 3600 * BYTES_PER_SECOND for ref in draw) for draw in draws)
    longest = [max(work_seconds([ref]) for ref in draw) for draw in draws]
    least = statistics.median(max(1.0, one / ideal) for one, ideal in zip(longest, ideals, strict=True))
    for name, plan in PLANS.items():
        ends = [list_schedule(plan(draw, num_workers), num_workers) for draw in draws]
        makespans = [end / ideal for (_, end), ideal in zip(ends, ideals, strict=True)]
        tails = [(end - dry) / ideal for (dry, end), ideal in zip(ends, ideals, strict=True)]
        hours = statistics.median(end - dry for dry, end in ends) / 3600
        print(
            f"{len(draws[0]):>8,}{num_long:>8,.1f}{num_workers:>9}  {name:<28}{least:>7.3f}"
            f"{_median_and_worst(makespans):>19}{_median_and_worst(tails):>17}{hours:>8.2f} h"
        )


@click.command()
@click.option("--draws", default=3, show_default=True, type=click.IntRange(min=1), help="Of each number of videos.")
def main(draws: int) -> None:
    """Prints makespan and tail over the ideal, which is all work evenly shared: medians over the draws (worst)."""
    print(describe_machine())
    print(f"{draws} draws. Ideal: work / workers. Tail: from the first worker without work to the end.")
    print(f"Least: what no plan can beat, since a video is one worker's.\n\n{HEADER}")
    for num_videos in (1_000, 10_000, 100_000):
        drawn = [made_up_videos(num_videos, seed) for seed in range(draws)]
        for num_workers in (8, 64):
            _print_plans(drawn, num_workers)


if __name__ == "__main__":
    main()
