"""What is left to do: input videos without a row, cut into partitions with numbers of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from pipeline.types import Partition, VideoRef


def plan_partitions(
    videos: Sequence[VideoRef],
    done_video_ids: Collection[str],
    used_numbers: Collection[int],
    videos_per_partition: int,
) -> Iterator[Partition]:
    """Partitions that hold each video that isn't done exactly once, in the order given.

    Args:
        videos: the index.
        done_video_ids: those that have a row in the store; sets answer fastest.
        used_numbers: numbers of partitions in the store; new ones go on above them.
        videos_per_partition: at most so many each.
    """
    pending = [video for video in videos if video.video_id not in done_video_ids]
    first = max(used_numbers, default=-1) + 1
    for i, start in enumerate(range(0, len(pending), videos_per_partition)):
        yield Partition(first + i, tuple(pending[start : start + videos_per_partition]))


def partition_number(name: str) -> int:
    """``part-00007`` -> 7."""
    return int(name.removeprefix("part-"))
