"""Who is tried again and who is given up: each video ends once, and only for what it did itself."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attempts import SOURCE_GIVEN_UP, Retry, Task, after_failure
from pipeline.supervise import AttemptFailedError
from pipeline.types import FAKE, Partition, Source, VideoOutcome, VideoRef, Work

Fail = Callable[[Task], AttemptFailedError | None]


def ref(number: int) -> VideoRef:
    return VideoRef(f"{number}.mp4", f"/videos/{number}.mp4", size_bytes=1, modified_ns=1)


def task(*numbers: int, num_failed: int = 0) -> Task:
    return Task(Partition(3, tuple(map(ref, numbers))), num_failed)


def retry(*numbers: int, num_failed: int) -> Retry:
    return Retry(Work(tuple(map(ref, numbers))), num_failed)


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


# One failure in a family: 1 is the original of 11 and 12, 2 of 21; 3 has nothing to do with them

FAKES = {
    number: VideoRef(f"{number}.mp4", f"/videos/{number}.mp4", 1, 1, FAKE, f"{number // 10}.mp4")
    for number in (11, 12, 21)
}
SOURCES: dict[str, Source] = {"1.mp4": ref(1), "2.mp4": ref(2)}
WITHOUT_1 = SOURCES | {"1.mp4": SOURCE_GIVEN_UP}


def refs(*numbers: int) -> tuple[VideoRef, ...]:
    return tuple(FAKES.get(number) or ref(number) for number in numbers)


def family_task(*numbers: int, failed: tuple[int, int] = (0, 0), sources: Mapping[str, Source] = SOURCES) -> Task:
    """Failed so often, and so often over the original."""
    return Task(Partition(3, refs(*numbers), sources), *failed)


def family_retry(*numbers: int, failed: tuple[int, int] = (0, 0), sources: Mapping[str, Source] = SOURCES) -> Retry:
    return Retry(Work(refs(*numbers), sources), *failed)


OVER_1 = AttemptFailedError("died", "1.mp4")
OVER_11 = AttemptFailedError("died", "11.mp4")
TIMEOUT_1 = AttemptFailedError("not done after 5 s", "1.mp4", is_final=True)
UNSEEN = AttemptFailedError("died", None)


def test_a_family_is_tried_again_as_one_when_its_original_died_once() -> None:
    retries, given_up = after_failure(family_task(1, 11, 12, 2, 21, 3, failed=(1, 0)), OVER_1, 3)
    assert retries == [family_retry(2, 21, 3, failed=(1, 0)), family_retry(1, 11, 12, failed=(0, 1))]
    assert given_up == []
    assert after_failure(family_task(1, 11, failed=(2, 1)), OVER_1, 3) == ([family_retry(1, 11, failed=(2, 2))], [])


def test_so_are_fakes_whose_original_is_elsewhere() -> None:
    assert after_failure(family_task(11, 12, 21), OVER_1, 3) == (
        [family_retry(21), family_retry(11, 12, failed=(0, 1))],
        [],
    )
    assert after_failure(family_task(11, failed=(2, 1)), OVER_1, 3) == ([family_retry(11, failed=(2, 2))], [])


@pytest.mark.parametrize(
    ("failure", "failed", "error_type"),
    [(OVER_1, (0, 2), "ProcessDiedError"), (TIMEOUT_1, (0, 0), "VideoTimeoutError")],
)
def test_when_the_original_is_given_up_its_fakes_go_on_without_it(
    failure: AttemptFailedError, failed: tuple[int, int], error_type: str
) -> None:
    retries, (outcome,) = after_failure(family_task(1, 11, 12, failed=failed), failure, 3)
    assert retries == [family_retry(11, 12, sources=WITHOUT_1)]
    assert (outcome.ref, outcome.status, outcome.error_type) == (ref(1), "failed", error_type)


@pytest.mark.parametrize(("failure", "failed"), [(OVER_1, (0, 2)), (TIMEOUT_1, (0, 0))])
def test_an_original_that_is_elsewhere_gets_no_row_here(failure: AttemptFailedError, failed: tuple[int, int]) -> None:
    assert after_failure(family_task(11, 12, failed=failed), failure, 3) == (
        [family_retry(11, 12, sources=WITHOUT_1)],
        [],
    )


def test_other_families_keep_their_original_when_one_is_given_up() -> None:
    retries, (outcome,) = after_failure(family_task(1, 11, 2, 21), TIMEOUT_1, 3)
    assert retries == [family_retry(2, 21), family_retry(11, sources=WITHOUT_1)]
    assert outcome.ref == ref(1)


def test_a_fake_that_died_is_tried_alone_with_its_original_and_the_family_without_it() -> None:
    assert after_failure(family_task(1, 11, 12), OVER_11, 3) == (
        [family_retry(1, 12), family_retry(11, failed=(1, 0))],
        [],
    )
    retries, (outcome,) = after_failure(family_task(11, failed=(2, 0)), OVER_11, 3)
    assert retries == []
    assert outcome.ref == FAKES[11]


def test_deaths_of_the_original_count_for_no_fake_and_the_other_way_round() -> None:
    assert after_failure(family_task(11, failed=(1, 2)), OVER_11, 3) == ([family_retry(11, failed=(2, 2))], [])
    assert after_failure(family_task(11, failed=(2, 1)), OVER_1, 3) == ([family_retry(11, failed=(2, 2))], [])
    assert after_failure(family_task(1, 11, failed=(0, 2)), UNSEEN, 3) == ([family_retry(1, 11, failed=(1, 2))], [])


def test_an_original_that_is_not_read_for_its_fakes_dies_alone() -> None:
    """They go by themselves, so that nothing that it does can reach them."""
    sources: dict[str, Source] = {"1.mp4": "its original is labelled FAKE"}
    retries, given_up = after_failure(family_task(1, 11, 12, sources=sources), OVER_1, 3)
    assert retries == [family_retry(11, 12, sources=sources), family_retry(1, failed=(1, 0), sources=sources)]
    assert given_up == []


def test_a_fake_alone_is_tried_without_its_original_before_it_is_given_up_unseen() -> None:
    """It may have been the original that took the machine along."""
    assert after_failure(family_task(11, failed=(1, 0)), UNSEEN, 3) == ([family_retry(11, failed=(2, 0))], [])
    orphan = family_retry(11, sources=WITHOUT_1)
    assert after_failure(family_task(11, failed=(2, 0)), UNSEEN, 3) == ([orphan], [])
    retries, (outcome,) = after_failure(family_task(11, failed=(2, 0), sources=WITHOUT_1), UNSEEN, 3)
    assert retries == []
    assert outcome.ref == FAKES[11]


def test_a_family_of_which_nobody_was_seen_is_tried_again_and_at_last_one_by_one_each_with_its_original() -> None:
    assert after_failure(family_task(1, 11), UNSEEN, 2) == ([family_retry(1, 11, failed=(1, 0))], [])
    assert after_failure(family_task(1, 11, failed=(1, 0)), UNSEEN, 2) == ([family_retry(1), family_retry(11)], [])


# Whole runs


@dataclass
class Ended:
    """What became of all videos."""

    done: Counter[str] = field(default_factory=Counter)
    without_original: dict[str, str] = field(default_factory=dict)
    """Of fakes that were done by themselves, why."""
    given_up: list[VideoOutcome] = field(default_factory=list)
    failures: list[tuple[Task, AttemptFailedError]] = field(default_factory=list)

    @property
    def given_up_ids(self) -> list[str]:
        return sorted(outcome.ref.video_id for outcome in self.given_up)


def run(partitions: Iterable[Work], fail: Fail, max_attempts: int, order: Iterable[int]) -> Ended:
    """Until nothing is left; ``order`` says which of the waiting tasks is next."""
    waiting = deque(Task(Partition(3, work.videos, work.sources)) for work in partitions)
    ended, choices = Ended(), iter(order)
    while waiting:
        waiting.rotate(-next(choices, 0))
        work = waiting.popleft()
        failure = fail(work)
        if failure is None:
            ended.done.update(video.video_id for video in work.partition.videos)
            for video in work.partition.videos:
                source = work.partition.sources.get(str(video.source_id))
                if isinstance(source, str):
                    ended.without_original[video.video_id] = source
            continue
        ended.failures.append((work, failure))
        retries, given_up = after_failure(work, failure, max_attempts)
        for again in retries:
            partition = Partition(0, again.work.videos, again.work.sources)
            waiting.append(Task(partition, again.num_failed, again.num_failed_over_original))
        ended.given_up += given_up
    return ended


def read(work: Task) -> list[VideoRef]:
    """What is read for a task: the originals of its fakes first."""
    sources = [work.partition.sources.get(str(video.source_id)) for video in work.partition.videos]
    return [source for source in sources if isinstance(source, VideoRef)] + list(work.partition.videos)


def always(killers: Mapping[int, str]) -> Fail:
    """Videos are worked on one after the other, originals also where they aren't to be stored; the first killer ends
    its process, each time."""

    def fail(work: Task) -> AttemptFailedError | None:
        for video in read(work):
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


def works_of(partitions: Sequence[Sequence[int]]) -> list[Work]:
    return [Work(tuple(map(ref, numbers))) for numbers in partitions]


UNUSABLE = "its original is labelled FAKE"


@st.composite
def family_cuts(draw: st.DrawFn) -> list[Work]:
    """Some videos made from others: from one beside them, from one elsewhere, from one that isn't to be done at all.

    Even numbers are originals, odd ones may be fakes.
    """
    unusable = draw(st.sets(st.sampled_from(range(0, 20, 2)), max_size=3))
    works = []
    for numbers in draw(cuts()):
        videos, sources = [], {}
        for number in numbers:
            original = draw(st.sampled_from([None, number - 1, number - 1, 2, 16])) if number % 2 else None
            if original is None:
                videos.append(ref(number))
            else:
                videos.append(replace(ref(number), label=FAKE, source_id=ref(original).video_id))
                sources[ref(original).video_id] = UNUSABLE if original in unusable else ref(original)
        works.append(Work(tuple(videos), sources))
    return works


def videos_in(works: Iterable[Work]) -> list[VideoRef]:
    return [video for work in works for video in work.videos]


orders = st.lists(st.integers(0, 5), max_size=40)
killers = st.dictionaries(st.integers(0, 19), st.sampled_from(["seen", "unseen", "timeout"]), max_size=6)


@given(partitions=cuts(), killers=killers, max_attempts=st.integers(1, 4), order=orders)
def test_those_who_always_kill_are_given_up_and_all_others_done_once(
    partitions: list[list[int]], killers: dict[int, str], max_attempts: int, order: list[int]
) -> None:
    numbers = [number for partition in partitions for number in partition]
    killers = {number: how for number, how in killers.items() if number in numbers}
    ended = run(works_of(partitions), always(killers), max_attempts, order)

    assert ended.given_up_ids == sorted(ref(number).video_id for number in killers)
    assert ended.done == Counter(ref(number).video_id for number in numbers if number not in killers)
    seen = Counter(failure.video_id for _, failure in ended.failures)
    for number, how in killers.items():
        if how != "unseen":
            assert seen[ref(number).video_id] == (max_attempts if how == "seen" else 1)
    # Each as a whole, and then each of those alone.
    num_unseen = sum(how == "unseen" for how in killers.values())
    assert seen[None] <= max_attempts * (num_unseen + min(num_unseen, len(partitions)))


@given(works=family_cuts(), killers=killers, max_attempts=st.integers(1, 4), order=orders)
def test_fakes_go_without_their_original_only_if_it_kills_and_however_they_are_cut(
    works: list[Work], killers: dict[int, str], max_attempts: int, order: list[int]
) -> None:
    ended = run(works, always(killers), max_attempts, order)
    killer_ids = {ref(number).video_id: how for number, how in killers.items()}
    videos = videos_in(works)
    assert ended.given_up_ids == sorted(video.video_id for video in videos if video.video_id in killer_ids)
    assert ended.done == Counter(video.video_id for video in videos if video.video_id not in killer_ids)
    usable = {name for work in works for name, source in work.sources.items() if isinstance(source, VideoRef)}
    expected = {
        video.video_id: SOURCE_GIVEN_UP if video.source_id in usable else UNUSABLE
        for video in videos
        if video.video_id in ended.done
        and video.source_id is not None
        and (video.source_id not in usable or video.source_id in killer_ids)
    }
    assert ended.without_original == expected
    seen = Counter(failure.video_id for _, failure in ended.failures)
    for video in videos:
        how = killer_ids.get(video.video_id)
        if how in {"seen", "timeout"} and video.video_id not in usable:
            assert seen[video.video_id] == (max_attempts if how == "seen" else 1), "as it would be without a family"
    # With each killer that is read: together with others, alone with its original, and alone.
    assert len(ended.failures) <= max_attempts * (3 * len(videos) + len(works))


@given(works=family_cuts(), killers=killers, max_attempts=st.integers(1, 4), order=orders)
def test_the_order_of_work_decides_nothing(
    works: list[Work], killers: dict[int, str], max_attempts: int, order: list[int]
) -> None:
    one, other = (run(works, always(killers), max_attempts, choices) for choices in ((), order))
    assert one.done == other.done
    assert Counter(one.given_up) == Counter(other.given_up)
    assert one.without_original == other.without_original


@given(
    works=st.one_of(cuts().map(works_of), family_cuts()), max_attempts=st.integers(1, 4), order=orders, chance=st.data()
)
def test_whatever_happens_each_video_ends_once_and_not_for_what_others_did(
    works: list[Work], max_attempts: int, order: list[int], chance: st.DataObject
) -> None:
    """Whatever happens: processes die over videos that do them no harm the next time, and machines go."""

    def fail(work: Task) -> AttemptFailedError | None:
        ids = [video.video_id for video in read(work)]
        how = chance.draw(st.sampled_from(["done", "seen", "unseen", "timeout"]))
        if how == "done":
            return None
        video_id = None if how == "unseen" else chance.draw(st.sampled_from(ids))
        return AttemptFailedError(how, video_id, is_final=how == "timeout")

    ended = run(works, fail, max_attempts, order)
    assert ended.done + Counter(ended.given_up_ids) == Counter(video.video_id for video in videos_in(works))
    for outcome in ended.given_up:
        assert was_enough(ended, outcome.ref, outcome.ref.video_id, max_attempts)
    for video in videos_in(works):
        if ended.without_original.get(video.video_id) == SOURCE_GIVEN_UP:
            by_original, by_itself = (
                was_enough(ended, video, str(name), max_attempts) for name in (video.source_id, video.video_id)
            )
            assert by_original or by_itself, "where nobody was seen it isn't known which of both it was"


def was_enough(ended: Ended, ref: VideoRef, seen_id: str, max_attempts: int) -> bool:
    """Whether a video was seen failing, or another was alone with it, as often as it takes."""
    own = [
        failure.is_final
        for work, failure in ended.failures
        if failure.video_id == seen_id or (failure.video_id is None and work.partition.videos == (ref,))
    ]
    return any(own) or len(own) >= max_attempts
