"""How work is cut up: partitions of bounded size, an original with its fakes, long videos first, so that a run ends
without a long tail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.config import ExtractSettings
from pipeline.types import FAKE, Source, VideoRef, Work

WINDOW_VIDEOS = 4096
"""About so many videos are ordered by size at a time; they are all of the index that is in memory."""
PARTITIONS_PER_WORKER = 4
"""About so many for each, while there are videos enough, so that they end at nearly the same time."""


@dataclass(frozen=True)
class Bounds:
    """What a partition may hold; one video is always allowed."""

    videos: int
    size_bytes: int
    """Of the video files: known without opening them, and nearly proportional to the work."""

    def allow(self, num_videos: int, size_bytes: int) -> bool:
        """Whether so much may be one partition."""
        return num_videos <= self.videos and size_bytes <= self.size_bytes


@dataclass(frozen=True)
class Pending:
    """A video to be worked on."""

    ref: VideoRef
    source: Source | None
    """What it was made from; None: nothing that is known."""

    @property
    def family(self) -> str:
        """``video_id`` of the original."""
        return self.ref.video_id if self.ref.source_id is None else self.ref.source_id


def usable_source(ref: VideoRef, original: VideoRef | None) -> Source | None:
    """What a video can be compared with, or the reason why it can't.

    Args:
        ref: the video.
        original: that it names as its ``source_id``; None if that isn't among the videos.
    """
    if ref.source_id is None:
        return None
    if original is None:
        return "its original is not among the videos"
    if original.source_id is not None:
        return "its original was itself made from another video"
    if original.label == FAKE:
        return "its original is labelled FAKE"
    return original


def settings_bounds(settings: ExtractSettings) -> Bounds:
    """Those of long runs."""
    return Bounds(settings.videos_per_partition, settings.megabytes_per_partition * 10**6)


def num_tasks(settings: ExtractSettings, num_families: int, num_videos: int, size_bytes: int) -> int:
    """At how many things workers can be at once: a family is one worker's, unless it is too large for that.

    Args:
        settings: the bounds of long runs.
        num_families: to be worked on.
        num_videos: of all of them.
        size_bytes: of all of them.
    """
    most = settings_bounds(settings)
    num_full = max(-(-num_videos // most.videos), -(-size_bytes // most.size_bytes))
    return min(num_videos, max(num_families, num_full))


def partition_bounds(settings: ExtractSettings, num_videos: int, size_bytes: int, num_workers: int) -> Bounds:
    """As set, but less where workers would go without work.

    Args:
        settings: the bounds of long runs.
        num_videos: to be worked on.
        size_bytes: of all of them.
        num_workers: that share the work; 0 where that isn't known or doesn't matter.
    """
    shares = max(1, PARTITIONS_PER_WORKER * num_workers)
    most = settings_bounds(settings)
    return Bounds(
        max(1, min(most.videos, -(-num_videos // shares))), max(1, min(most.size_bytes, -(-size_bytes // shares)))
    )


def plan_partitions(videos: Iterable[Pending], bounds: Bounds, most: Bounds) -> Iterator[Work]:
    """The work of each partition, every video in exactly one.

    A family, an original with what was made from it, stays together up to ``most``, since apart from it each partition
    has to search the original again. Within a window of ``WINDOW_VIDEOS`` large families come first: what is begun last
    is short.

    Args:
        videos: those of a family one after the other, the original first.
        bounds: of a partition of several families.
        most: of a partition of one.
    """
    for window in _windows(videos):
        pieces = [piece for family in window for piece in _cut([[member] for member in family], most)]
        pieces.sort(key=lambda piece: (-_size_bytes(piece), piece[0].ref.video_id))
        yield from map(_work, _cut(pieces, bounds))


def _windows(videos: Iterable[Pending]) -> Iterator[list[list[Pending]]]:
    """Families, so many at a time that they have about ``WINDOW_VIDEOS`` videos."""
    window: list[list[Pending]] = []
    num_videos = 0
    for _, members in groupby(videos, key=lambda pending: pending.family):
        # In slices, since a family may be larger than memory.
        for family in _slices(members, WINDOW_VIDEOS):
            window.append(family)
            num_videos += len(family)
            if num_videos >= WINDOW_VIDEOS:
                yield window
                window, num_videos = [], 0
    if window:
        yield window


def _slices(members: Iterable[Pending], size: int) -> Iterator[list[Pending]]:
    taken: list[Pending] = []
    for member in members:
        taken.append(member)
        if len(taken) == size:
            yield taken
            taken = []
    if taken:
        yield taken


def _cut(pieces: Sequence[Sequence[Pending]], bounds: Bounds) -> Iterator[list[Pending]]:
    """Whole pieces in their order, as many together as the bounds allow, or one."""
    together: list[Pending] = []
    size_bytes = 0
    for piece in pieces:
        if together and not bounds.allow(len(together) + len(piece), size_bytes + _size_bytes(piece)):
            yield together
            together, size_bytes = [], 0
        together += piece
        size_bytes += _size_bytes(piece)
    if together:
        yield together


def _size_bytes(members: Iterable[Pending]) -> int:
    return sum(member.ref.size_bytes for member in members)


def _work(members: Sequence[Pending]) -> Work:
    sources = {str(m.ref.source_id): m.source for m in members if m.source is not None}
    return Work(tuple(member.ref for member in members), sources)


def partition_number(name: str) -> int:
    """``part-00007`` -> 7."""
    return int(name.removeprefix("part-"))
