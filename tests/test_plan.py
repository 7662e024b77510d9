"""How work is cut up: every video once, within bounds, large ones first, and never the whole index in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ExtractSettings
from pipeline.plan import PARTITIONS_PER_WORKER, Bounds, partition_bounds, partition_number, plan_partitions
from pipeline.types import Partition, VideoRef

WINDOW = 7
SETTINGS = ExtractSettings(videos_per_partition=16, megabytes_per_partition=256)


def videos_of(sizes: Sequence[int]) -> list[VideoRef]:
    """In an order that isn't that of their names."""
    return [VideoRef(f"{i * 37 % 101:03d}.mp4", f"/{i}", size, modified_ns=1) for i, size in enumerate(sizes)]


def planned(videos: Sequence[VideoRef], bounds: Bounds) -> list[tuple[VideoRef, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.plan.WINDOW_VIDEOS", WINDOW)
        return list(plan_partitions(videos, bounds))


def windows(videos: Sequence[VideoRef]) -> list[Sequence[VideoRef]]:
    return [videos[start : start + WINDOW] for start in range(0, len(videos), WINDOW)]


videos = st.lists(st.integers(0, 50), max_size=40).map(videos_of)
bounds = st.builds(Bounds, st.integers(1, 10), st.integers(1, 100))


@given(videos, bounds)
def test_partitions_hold_every_video_once_and_large_ones_first(videos: list[VideoRef], bounds: Bounds) -> None:
    flat = list(chain.from_iterable(planned(videos, bounds)))
    assert sorted(flat, key=lambda ref: ref.path) == sorted(videos, key=lambda ref: ref.path)
    for took, given_videos in zip(windows(flat), windows(videos), strict=True):
        assert set(took) == set(given_videos)
        assert all(
            (large.size_bytes, small.video_id) > (small.size_bytes, large.video_id) for large, small in pairwise(took)
        )


@given(videos, bounds)
def test_partitions_keep_to_the_bounds_or_are_one_video(videos: list[VideoRef], bounds: Bounds) -> None:
    for partition in planned(videos, bounds):
        assert 1 <= len(partition) <= bounds.videos
        assert len(partition) == 1 or sum(ref.size_bytes for ref in partition) <= bounds.size_bytes


@given(videos, bounds)
def test_a_partition_ends_only_where_the_next_video_would_not_fit(videos: list[VideoRef], bounds: Bounds) -> None:
    num_before = 0
    for partition, following in pairwise(planned(videos, bounds)):
        num_before += len(partition)
        size_bytes = sum(ref.size_bytes for ref in (*partition, following[0]))
        is_full = len(partition) == bounds.videos or size_bytes > bounds.size_bytes
        assert is_full or num_before % WINDOW == 0


@given(st.permutations(videos_of(range(WINDOW))), bounds)
def test_the_order_within_a_window_decides_nothing(shuffled: list[VideoRef], bounds: Bounds) -> None:
    assert planned(shuffled, bounds) == planned(videos_of(range(WINDOW)), bounds)


def test_only_one_window_is_taken_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.WINDOW_VIDEOS", WINDOW)
    num_taken = 0

    def index() -> Iterator[VideoRef]:
        nonlocal num_taken
        for ref in videos_of(range(100)):
            num_taken += 1
            yield ref

    partitions = plan_partitions(index(), Bounds(2, 1000))
    assert num_taken == 0
    num_planned = 0
    for partition in partitions:
        assert num_taken == min(100, WINDOW * (num_planned // WINDOW + 1))
        num_planned += len(partition)
    assert num_planned == 100


# Bounds

counts = st.integers(0, 10**6)
workers = st.integers(0, 500)


@given(counts, st.integers(0, 10**15), workers)
def test_bounds_are_never_nothing_and_never_more_than_was_set(num: int, size_bytes: int, num_workers: int) -> None:
    bounds = partition_bounds(SETTINGS, num, size_bytes, num_workers)
    assert 1 <= bounds.videos <= 16
    assert 1 <= bounds.size_bytes <= 256 * 10**6


@given(counts, counts, workers, workers)
def test_bounds_shrink_with_fewer_videos_and_more_workers(num: int, more: int, num_workers: int, others: int) -> None:
    few, many = (partition_bounds(SETTINGS, n, n * 10**6, num_workers) for n in (num, num + more))
    assert few.videos <= many.videos
    assert few.size_bytes <= many.size_bytes
    shared = partition_bounds(SETTINGS, num, num * 10**6, num_workers + others)
    assert shared.videos <= few.videos
    assert shared.size_bytes <= few.size_bytes


@pytest.mark.parametrize(
    ("num_videos", "num_workers", "expected"),
    [(10**6, 100, (16, 256 * 10**6)), (64, 4, (4, 4 * 10**6)), (3, 4, (1, 187_500)), (64, 0, (16, 64 * 10**6))],
)
def test_bounds_are_as_set_unless_workers_would_go_without(
    num_videos: int, num_workers: int, expected: tuple[int, int]
) -> None:
    assert partition_bounds(SETTINGS, num_videos, num_videos * 10**6, num_workers) == Bounds(*expected)


@given(st.integers(1, 400), st.integers(1, 50))
def test_each_worker_has_its_share_while_there_are_videos(num_videos: int, num_workers: int) -> None:
    alike = videos_of([10**6] * num_videos)
    bounds = partition_bounds(SETTINGS, num_videos, num_videos * 10**6, num_workers)
    assert len(list(plan_partitions(alike, bounds))) >= min(num_videos, PARTITIONS_PER_WORKER * num_workers)


# Names


@given(st.integers(0, 10**9))
def test_a_partition_is_known_by_its_number(number: int) -> None:
    assert partition_number(Partition(number, ()).name) == number
