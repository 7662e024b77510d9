"""How work is cut up: partitions of bounded size, long videos first, so that a run ends without a long tail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.config import ExtractSettings
from pipeline.types import VideoRef

WINDOW_VIDEOS = 4096
"""So many videos are ordered by size at a time; they are all of the index that is in memory."""
PARTITIONS_PER_WORKER = 4
"""About so many for each, while there are videos enough, so that they end at nearly the same time."""


@dataclass(frozen=True)
class Bounds:
    """What a partition may hold; one video is always allowed."""

    videos: int
    size_bytes: int
    """Of the video files: known without opening them, and nearly proportional to the work."""


def partition_bounds(settings: ExtractSettings, num_videos: int, size_bytes: int, num_workers: int) -> Bounds:
    """As set, but less where workers would go without work.

    Args:
        settings: the bounds of long runs.
        num_videos: to be worked on.
        size_bytes: of all of them.
        num_workers: that share the work; 0 where that isn't known or doesn't matter.
    """
    shares = max(1, PARTITIONS_PER_WORKER * num_workers)
    return Bounds(
        max(1, min(settings.videos_per_partition, -(-num_videos // shares))),
        max(1, min(settings.megabytes_per_partition * 10**6, -(-size_bytes // shares))),
    )


def plan_partitions(videos: Iterable[VideoRef], bounds: Bounds) -> Iterator[tuple[VideoRef, ...]]:
    """The videos of each partition, every video in exactly one.

    Within a window of ``WINDOW_VIDEOS`` large files come first: what is begun last is short.
    """
    remaining = iter(videos)
    while window := list(islice(remaining, WINDOW_VIDEOS)):
        window.sort(key=lambda ref: (-ref.size_bytes, ref.video_id))
        yield from _cut(window, bounds)


def _cut(videos: Sequence[VideoRef], bounds: Bounds) -> Iterator[tuple[VideoRef, ...]]:
    partition: list[VideoRef] = []
    size_bytes = 0
    for ref in videos:
        if partition and (len(partition) == bounds.videos or size_bytes + ref.size_bytes > bounds.size_bytes):
            yield tuple(partition)
            partition, size_bytes = [], 0
        partition.append(ref)
        size_bytes += ref.size_bytes
    if partition:
        yield tuple(partition)


def partition_number(name: str) -> int:
    """``part-00007`` -> 7."""
    return int(name.removeprefix("part-"))
