"""What is tried again after a death, and what is given up: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.supervise import AttemptFailedError
from pipeline.types import Partition, VideoOutcome, VideoRef, Work

SOURCE_GIVEN_UP = "its original ended the process that read it"


@dataclass(frozen=True)
class Task:
    """A partition to be worked on."""

    partition: Partition
    num_failed: int = 0
    """Attempts at just these videos that have failed."""
    num_failed_over_original: int = 0
    """And those that failed over the original that all of them are or were made from; they count for none of them."""


@dataclass(frozen=True)
class Retry:
    """Videos to be tried again, as a partition of their own."""

    work: Work
    num_failed: int
    num_failed_over_original: int = 0


def after_failure(task: Task, failure: AttemptFailedError, max_attempts: int) -> tuple[list[Retry], list[VideoOutcome]]:
    """What follows from an attempt that failed: what is tried again, and the rows of what is given up.

    A video that its process died over is taken out and tried alone, and the others go on without it. Where a whole
    machine went, no video can be named: the partition is tried again as it is, and after ``max_attempts`` video by
    video. So each death costs the others one retry at most, and a video is given up only for what it did alone or was
    seen doing.

    An original that its process died over is taken out with the fakes that wait for its tracks: what becomes of them
    must not depend on a death that won't come again. Only when it is given up they go on without it. So does a fake
    before it is given up where nobody was seen: it may have been its original.
    """
    videos = task.partition.videos
    fakes = tuple(ref for ref in videos if failure.video_id is not None and ref.source_id == failure.video_id)
    if fakes and isinstance(task.partition.sources.get(str(failure.video_id)), VideoRef):
        return _after_death_of_original(task, fakes, failure, max_attempts)
    culprit = next((ref for ref in videos if ref.video_id == failure.video_id), None)
    if culprit is None and len(videos) > 1:
        num_failed = task.num_failed + 1
        if num_failed < max_attempts:
            return [_retry(task, videos, num_failed, task.num_failed_over_original)], []
        return [_retry(task, (ref,), 0) for ref in videos], []
    others = tuple(ref for ref in videos if culprit is not None and ref != culprit)
    suspect = culprit or videos[0]
    # What failed before failed as a whole, for this video or another: it counts for none of them alone.
    num_failed, over_original = (1, 0) if others else (task.num_failed + 1, task.num_failed_over_original)
    retries = _go_on(task, others)
    if not failure.is_final and num_failed < max_attempts:
        return [*retries, _retry(task, (suspect,), num_failed, over_original)], []
    if culprit is None and isinstance(task.partition.sources.get(str(suspect.source_id)), VideoRef):
        return [_without_original(task, (suspect,), str(suspect.source_id))], []
    return retries, [_given_up(suspect, failure, num_failed)]


def _after_death_of_original(
    task: Task, fakes: tuple[VideoRef, ...], failure: AttemptFailedError, max_attempts: int
) -> tuple[list[Retry], list[VideoOutcome]]:
    family = tuple(ref for ref in task.partition.videos if ref in fakes or ref.video_id == failure.video_id)
    others = tuple(ref for ref in task.partition.videos if ref not in family)
    num_failed, over_original = (0, 1) if others else (task.num_failed, task.num_failed_over_original + 1)
    retries = _go_on(task, others)
    if not failure.is_final and over_original < max_attempts:
        return [*retries, _retry(task, family, num_failed, over_original)], []
    # One that isn't among the videos was extracted before, or isn't to be.
    given_up = [_given_up(ref, failure, over_original) for ref in family if ref.video_id == failure.video_id]
    return [*retries, _without_original(task, fakes, str(failure.video_id))], given_up


def _go_on(task: Task, others: tuple[VideoRef, ...]) -> list[Retry]:
    """Those that go on without a suspect."""
    return [_retry(task, others, task.num_failed if len(others) > 1 else 0)] if others else []


def _without_original(task: Task, fakes: tuple[VideoRef, ...], original_id: str) -> Retry:
    return Retry(Work(fakes, {**task.partition.sources, original_id: SOURCE_GIVEN_UP}), 0)


def _retry(task: Task, videos: tuple[VideoRef, ...], num_failed: int, num_failed_over_original: int = 0) -> Retry:
    return Retry(Work(videos, task.partition.sources), num_failed, num_failed_over_original)


def _given_up(ref: VideoRef, failure: AttemptFailedError, num_failed: int) -> VideoOutcome:
    if failure.is_final:
        return VideoOutcome(ref, "failed", "VideoTimeoutError", f"{failure.reason} (--video-timeout)")
    times = f"{num_failed} attempts failed, the last one: " if num_failed > 1 else ""
    return VideoOutcome(ref, "failed", "ProcessDiedError", f"{times}{failure.reason}")
