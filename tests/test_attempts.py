"""Who is tried again and who is given up: each video ends once, and only for what it did itself."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attempts import Retry, Task, after_failure
from pipeline.supervise import AttemptFailedError
from pipeline.types import Partition, VideoOutcome, VideoRef

Fail = Callable[[Task], AttemptFailedError | None]


def ref(number: int) -> VideoRef:
    return VideoRef(f"{number}.mp4", f"/videos/{number}.mp4", size_bytes=1, modified_ns=1)


def task(*numbers: int, num_failed: int = 0) -> Task:
    return Task(Partition(3, tuple(map(ref, numbers))), num_failed)


def retry(*numbers: int, num_failed: int) -> Retry:
    return Retry(tuple(map(ref, numbers)), num_failed)


# One failure


def test_a_video_seen_killing_its_process_is_tried_alone_and_the_others_without_it() -> None:
    retries, given_up = after_failure(task(1, 2, 3, num_failed=1), AttemptFailedError("died", "2.mp4"), 3)
    assert retries == [retry(1, 3, num_failed=1), retry(2, num_failed=1)]
    assert given_up == []


def test_one_that_is_left_alone_is_not_charged_with_what_failed_before() -> None:
    died = AttemptFailedError("died", "2.mp4")
    assert after_failure(task(1, 2, num_failed=2), died, 3) == ([retry(1, num_failed=0), retry(2, num_failed=1)], [])


def test_where_nobody_was_seen_all_are_tried_again_and_at_last_one_by_one() -> None:
    died = AttemptFailedError("died", None)
    assert after_failure(task(1, 2), died, 3) == ([retry(1, 2, num_failed=1)], [])
    assert after_failure(task(1, 2, num_failed=1), died, 3) == ([retry(1, 2, num_failed=2)], [])
    assert after_failure(task(1, 2, num_failed=2), died, 3) == (
        [retry(1, num_failed=0), retry(2, num_failed=0)],
        [],
    )


@pytest.mark.parametrize("video_id", ["1.mp4", None])
def test_a_video_that_dies_alone_is_given_up_after_its_last_attempt(video_id: str | None) -> None:
    died = AttemptFailedError("its process was ended by SIGSEGV", video_id)
    assert after_failure(task(1, num_failed=1), died, 3) == ([retry(1, num_failed=2)], [])
    retries, (outcome,) = after_failure(task(1, num_failed=2), died, 3)
    assert retries == []
    assert (outcome.ref, outcome.status, outcome.error_type) == (ref(1), "failed", "ProcessDiedError")
    assert outcome.message == "3 attempts failed, the last one: its process was ended by SIGSEGV"


def test_with_one_attempt_the_first_death_is_the_last() -> None:
    retries, (outcome,) = after_failure(task(1, 2), AttemptFailedError("died", "2.mp4"), 1)
    assert retries == [retry(1, num_failed=0)]
    assert (outcome.ref, outcome.message) == (ref(2), "died")


def test_a_timeout_is_final_and_names_the_option() -> None:
    retries, (outcome,) = after_failure(task(1, 2), AttemptFailedError("not done after 5 s", "1.mp4", is_final=True), 3)
    assert retries == [retry(2, num_failed=0)]
    assert (outcome.ref, outcome.error_type) == (ref(1), "VideoTimeoutError")
    assert outcome.message == "not done after 5 s (--video-timeout)"


def test_a_video_of_another_partition_is_nobody_here() -> None:
    assert after_failure(task(1, 2), AttemptFailedError("died", "7.mp4"), 3) == ([retry(1, 2, num_failed=1)], [])


# Whole runs


@dataclass
class Ended:
    """What became of all videos."""

    done: Counter[str] = field(default_factory=Counter)
    given_up: list[VideoOutcome] = field(default_factory=list)
    failures: list[tuple[Task, AttemptFailedError]] = field(default_factory=list)

    @property
    def given_up_ids(self) -> list[str]:
        return sorted(outcome.ref.video_id for outcome in self.given_up)


def run(partitions: Iterable[Sequence[int]], fail: Fail, max_attempts: int, order: Iterable[int]) -> Ended:
    """Until nothing is left; ``order`` says which of the waiting tasks is next."""
    ended, waiting, choices = Ended(), deque(task(*numbers) for numbers in partitions), iter(order)
    while waiting:
        waiting.rotate(-next(choices, 0))
        work = waiting.popleft()
        failure = fail(work)
        if failure is None:
            ended.done.update(video.video_id for video in work.partition.videos)
            continue
        ended.failures.append((work, failure))
        retries, given_up = after_failure(work, failure, max_attempts)
        waiting.extend(Task(Partition(0, again.videos), again.num_failed) for again in retries)
        ended.given_up += given_up
    return ended


def always(killers: Mapping[int, str]) -> Fail:
    """Videos are worked on one after the other; the first killer ends its process, each time."""

    def fail(work: Task) -> AttemptFailedError | None:
        for video in work.partition.videos:
            how = killers.get(int(video.video_id.removesuffix(".mp4")))
            if how is not None:
                return AttemptFailedError(how, None if how == "unseen" else video.video_id, is_final=how == "timeout")
        return None

    return fail


@st.composite
def cuts(draw: st.DrawFn) -> list[list[int]]:
    """Up to a dozen videos in partitions."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    return [list(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(len(sizes))]


orders = st.lists(st.integers(0, 5), max_size=40)
killers = st.dictionaries(st.integers(0, 19), st.sampled_from(["seen", "unseen", "timeout"]), max_size=6)


@given(partitions=cuts(), killers=killers, max_attempts=st.integers(1, 4), order=orders)
def test_those_who_always_kill_are_given_up_and_all_others_done_once(
    partitions: list[list[int]], killers: dict[int, str], max_attempts: int, order: list[int]
) -> None:
    numbers = [number for partition in partitions for number in partition]
    killers = {number: how for number, how in killers.items() if number in numbers}
    ended = run(partitions, always(killers), max_attempts, order)

    assert ended.given_up_ids == sorted(ref(number).video_id for number in killers)
    assert ended.done == Counter(ref(number).video_id for number in numbers if number not in killers)
    seen = Counter(failure.video_id for _, failure in ended.failures)
    for number, how in killers.items():
        if how != "unseen":
            assert seen[ref(number).video_id] == (max_attempts if how == "seen" else 1)
    # Each as a whole, and then each of those alone.
    num_unseen = sum(how == "unseen" for how in killers.values())
    assert seen[None] <= max_attempts * (num_unseen + min(num_unseen, len(partitions)))


@given(partitions=cuts(), killers=killers, max_attempts=st.integers(1, 4), order=orders)
def test_the_order_of_work_decides_nothing(
    partitions: list[list[int]], killers: dict[int, str], max_attempts: int, order: list[int]
) -> None:
    one, other = (run(partitions, always(killers), max_attempts, choices) for choices in ((), order))
    assert one.done == other.done
    assert Counter(one.given_up) == Counter(other.given_up)


@given(partitions=cuts(), max_attempts=st.integers(1, 4), order=orders, chance=st.data())
def test_whatever_happens_each_video_ends_once_and_not_for_what_others_did(
    partitions: list[list[int]], max_attempts: int, order: list[int], chance: st.DataObject
) -> None:
    """Whatever happens: processes die over videos that do them no harm the next time, and machines go."""

    def fail(work: Task) -> AttemptFailedError | None:
        ids = [video.video_id for video in work.partition.videos]
        how = chance.draw(st.sampled_from(["done", "seen", "unseen", "timeout"]))
        if how == "done":
            return None
        video_id = None if how == "unseen" else chance.draw(st.sampled_from(ids))
        return AttemptFailedError(how, video_id, is_final=how == "timeout")

    ended = run(partitions, fail, max_attempts, order)
    numbers = [number for partition in partitions for number in partition]
    assert ended.done + Counter(ended.given_up_ids) == Counter(ref(number).video_id for number in numbers)
    for outcome in ended.given_up:
        own = [
            failure.is_final
            for work, failure in ended.failures
            if failure.video_id == outcome.ref.video_id or work.partition.videos == (outcome.ref,)
        ]
        assert any(own) or len(own) >= max_attempts
