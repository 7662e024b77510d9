"""How work is cut up: every video once, families whole, within bounds, large ones first, never all of it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ExtractSettings
from pipeline.plan import (
    PARTITIONS_PER_WORKER,
    Bounds,
    Pending,
    num_tasks,
    partition_bounds,
    partition_number,
    plan_partitions,
    settings_bounds,
    usable_source,
)
from pipeline.types import FAKE, REAL, Partition, VideoRef, Work

WINDOW = 7
SETTINGS = ExtractSettings(videos_per_partition=16, megabytes_per_partition=256)
ANY = Bounds(WINDOW, 10**9)
"""As much as a window holds."""


def videos_of(sizes: Sequence[int]) -> list[VideoRef]:
    """In an order that isn't that of their names."""
    return [VideoRef(f"{i * 37 % 101:03d}.mp4", f"/{i}", size, modified_ns=1) for i, size in enumerate(sizes)]


def planned(videos: Sequence[VideoRef], bounds: Bounds) -> list[tuple[VideoRef, ...]]:
    """Of videos that nothing was made from."""
    return [work.videos for work in planned_families([Pending(ref, None) for ref in videos], bounds, ANY)]


def planned_families(pending: Sequence[Pending], bounds: Bounds, most: Bounds) -> list[Work]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.plan.WINDOW_VIDEOS", WINDOW)
        return list(plan_partitions(pending, bounds, most))


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

    def index() -> Iterator[Pending]:
        nonlocal num_taken
        for ref in videos_of(range(100)):
            num_taken += 1
            yield Pending(ref, None)

    partitions = plan_partitions(index(), Bounds(2, 1000), ANY)
    assert num_taken == 0
    num_planned = 0
    for work in partitions:
        # And the one after, by which it is known that a family is complete.
        assert num_taken == min(100, WINDOW * (num_planned // WINDOW + 1) + 1)
        num_planned += len(work.videos)
    assert num_planned == 100


# Families

Family = list[Pending]


def family_of(number: int, sizes: Sequence[int], has_original: bool, reason: str | None) -> Family:
    """An original, if it is pending, and its fakes, which know it or know why they can't be compared with it."""
    original = VideoRef(f"{number:03d}.mp4", f"/{number}", sizes[0], modified_ns=1, label=REAL)
    fakes = [
        VideoRef(f"{(number * 37 + i) % 101:03d}-{number}-{i}.mp4", "/fake", size, 1, FAKE, original.video_id)
        for i, size in enumerate(sizes[1:])
    ]
    members = [Pending(fake, reason or original) for fake in fakes]
    return [Pending(original, None), *members] if has_original or not fakes else members


@st.composite
def family_lists(draw: st.DrawFn) -> list[Family]:
    reasons = st.sampled_from([None, None, "its original is not among the videos"])
    return [
        family_of(number, draw(st.lists(st.integers(0, 50), min_size=1, max_size=12)), draw(st.booleans()), reason)
        for number, reason in enumerate(draw(st.lists(reasons, max_size=12)))
    ]


mosts = st.builds(Bounds, st.integers(1, WINDOW), st.integers(1, 300))


def fits(members: Sequence[Pending], most: Bounds) -> bool:
    return most.allow(len(members), sum(member.ref.size_bytes for member in members))


def places(family: Family, plan: Sequence[Work]) -> list[tuple[int, int]]:
    """Of each member, in the order of the family: its partition, and its number there."""
    place_of = {ref: (i, j) for i, work in enumerate(plan) for j, ref in enumerate(work.videos)}
    return [place_of[member.ref] for member in family]


@given(family_lists(), bounds, mosts)
def test_every_video_is_in_one_partition_and_a_family_lies_together_original_first(
    families: list[Family], bounds: Bounds, most: Bounds
) -> None:
    plan = planned_families(list(chain.from_iterable(families)), bounds, most)
    flat = [ref.video_id for work in plan for ref in work.videos]
    assert sorted(flat) == sorted(member.ref.video_id for family in families for member in family)
    for family in families:
        # None is cut that needn't be.
        if len(family) <= WINDOW and fits(family, most):
            (number, first), *_ = found = places(family, plan)
            assert found == [(number, first + i) for i in range(len(family))]


@given(family_lists(), bounds, mosts)
def test_each_partition_has_the_originals_that_its_videos_name(
    families: list[Family], bounds: Bounds, most: Bounds
) -> None:
    """Also where a family is cut, and where its original isn't pending."""
    source_of = {member.ref.video_id: member.source for family in families for member in family}
    for work in planned_families(list(chain.from_iterable(families)), bounds, most):
        known = {str(ref.source_id): source_of[ref.video_id] for ref in work.videos if ref.source_id is not None}
        assert dict(work.sources) == known


@given(family_lists(), bounds, mosts)
def test_partitions_of_families_keep_to_the_bounds_or_are_one_family(
    families: list[Family], bounds: Bounds, most: Bounds
) -> None:
    for work in planned_families(list(chain.from_iterable(families)), bounds, most):
        size_bytes = sum(ref.size_bytes for ref in work.videos)
        if len({ref.source_id or ref.video_id for ref in work.videos}) > 1:
            assert bounds.allow(len(work.videos), size_bytes)
        else:
            largest = Bounds(max(bounds.videos, most.videos), max(bounds.size_bytes, most.size_bytes))
            assert len(work.videos) == 1 or largest.allow(len(work.videos), size_bytes)


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=2), min_size=1, max_size=WINDOW // 2), bounds)
def test_large_families_come_first(sizes: list[list[int]], bounds: Bounds) -> None:
    families = [family_of(number, of_one, True, None) for number, of_one in enumerate(sizes)]
    plan = planned_families(list(chain.from_iterable(families)), bounds, ANY)
    flat = chain.from_iterable(work.videos for work in plan)
    in_order = [list(members) for _, members in groupby(flat, key=lambda ref: ref.source_id or ref.video_id)]
    keys = [(-sum(ref.size_bytes for ref in family), family[0].video_id) for family in in_order]
    assert keys == sorted(keys)
    assert len(in_order) == len(families)


def test_a_family_larger_than_a_partition_is_cut_and_each_piece_has_the_original() -> None:
    family = family_of(0, [10] * 8, True, None)
    original = family[0].ref
    pieces = planned_families(family[:7], Bounds(1, 10), Bounds(3, 1000))
    assert sorted(len(work.videos) for work in pieces) == [1, 3, 3]
    assert all(dict(work.sources) == {original.video_id: original} for work in pieces)
    by_size = planned_families(family[:7], Bounds(1, 10), Bounds(7, 40))
    assert [len(work.videos) for work in by_size] == [4, 3]


@pytest.mark.parametrize("num_fakes", [WINDOW - 1, WINDOW, 100])
def test_no_more_than_a_window_and_a_slice_of_a_family_is_taken_ahead(
    monkeypatch: pytest.MonkeyPatch, num_fakes: int
) -> None:
    monkeypatch.setattr("pipeline.plan.WINDOW_VIDEOS", WINDOW)
    num_taken = num_planned = 0
    families = [family_of(number, [1] * (num_fakes + 1), True, None) for number in range(5)]
    small = family_of(5, [1], True, None)

    def index() -> Iterator[Pending]:
        nonlocal num_taken
        for member in chain(small, *families):
            num_taken += 1
            yield member

    for work in plan_partitions(index(), Bounds(2, 1000), Bounds(3, 1000)):
        assert num_taken - num_planned <= 2 * WINDOW
        num_planned += len(work.videos)
    assert num_planned == 1 + 5 * (num_fakes + 1)


# What a video may be compared with

ORIGINAL = VideoRef("o.mp4", "/o.mp4", 1, 1, REAL)
A_FAKE = VideoRef("f.mp4", "/f.mp4", 1, 1, FAKE, "o.mp4")


def test_a_video_is_compared_with_the_original_that_it_names() -> None:
    assert usable_source(A_FAKE, ORIGINAL) == ORIGINAL
    assert usable_source(A_FAKE, replace(ORIGINAL, label=None)) == replace(ORIGINAL, label=None)
    assert usable_source(replace(A_FAKE, label=None), ORIGINAL) == ORIGINAL
    assert usable_source(ORIGINAL, None) is None, "it names none"


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (None, "its original is not among the videos"),
        (replace(ORIGINAL, source_id="older.mp4"), "its original was itself made from another video"),
        (replace(ORIGINAL, label=FAKE), "its original is labelled FAKE"),
        (replace(ORIGINAL, label=FAKE, source_id="older.mp4"), "its original was itself made from another video"),
        (replace(A_FAKE, source_id=A_FAKE.video_id), "its original was itself made from another video"),
    ],
)
def test_where_it_cant_be_compared_it_is_said_why(original: VideoRef | None, reason: str) -> None:
    assert usable_source(A_FAKE, original) == reason


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
    alike = [Pending(ref, None) for ref in videos_of([10**6] * num_videos)]
    bounds = partition_bounds(SETTINGS, num_videos, num_videos * 10**6, num_workers)
    plan = list(plan_partitions(alike, bounds, settings_bounds(SETTINGS)))
    assert len(plan) >= min(num_videos, PARTITIONS_PER_WORKER * num_workers)


# Workers


@pytest.mark.parametrize(
    ("num_families", "num_videos", "megabytes", "expected"),
    [
        (0, 0, 0, 0),
        (5, 5, 5, 5),
        (2, 10, 10, 2),  # A family is one worker's,
        (1, 40, 40, 3),  # unless it is cut: 16 + 16 + 8,
        (1, 4, 1000, 4),  # or has files of 250 MB each.
        (1, 1, 10**6, 1),  # A video is never cut.
    ],
)
def test_workers_can_be_at_as_many_things_as_there_are_families_or_full_partitions(
    num_families: int, num_videos: int, megabytes: int, expected: int
) -> None:
    assert num_tasks(SETTINGS, num_families, num_videos, megabytes * 10**6) == expected


@given(family_lists())
def test_there_are_partitions_for_all_those_workers(families: list[Family]) -> None:
    refs = [member.ref for family in families for member in family]
    settings = ExtractSettings(videos_per_partition=3)
    tasks = num_tasks(settings, len(families), len(refs), sum(ref.size_bytes for ref in refs))
    plan = planned_families(list(chain.from_iterable(families)), Bounds(1, 1), settings_bounds(settings))
    assert len(plan) >= tasks


# Names


@given(st.integers(0, 10**9))
def test_a_partition_is_known_by_its_number(number: int) -> None:
    assert partition_number(Partition(number, ()).name) == number
