"""What is tried again after a death, and what is given up: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.supervise import AttemptFailedError
from pipeline.types import Partition, VideoOutcome, VideoRef


@dataclass(frozen=True)
class Task:
    """A partition to be worked on."""

    partition: Partition
    num_failed: int = 0
    """Attempts at just these videos that have failed."""


@dataclass(frozen=True)
class Retry:
    """Videos to be tried again, as a partition of their own."""

    videos: tuple[VideoRef, ...]
    num_failed: int


def after_failure(task: Task, failure: AttemptFailedError, max_attempts: int) -> tuple[list[Retry], list[VideoOutcome]]:
    """What follows from an attempt that failed: what is tried again, and the rows of what is given up.

    A video that its process died over is taken out and tried alone, and the others go on without it. Where a whole
    machine went, no video can be named: the partition is tried again as it is, and after ``max_attempts`` video by
    video. So each death costs the others one retry at most, and a video is given up only for what it did alone or was
    seen doing.
    """
    videos = task.partition.videos
    culprit = next((ref for ref in videos if ref.video_id == failure.video_id), None)
    if culprit is None and len(videos) > 1:
        num_failed = task.num_failed + 1
        if num_failed < max_attempts:
            return [Retry(videos, num_failed)], []
        return [Retry((ref,), 0) for ref in videos], []
    others = tuple(ref for ref in videos if culprit is not None and ref != culprit)
    suspect = culprit or videos[0]
    # What failed before failed as a whole, for this video or another: it counts for none of them alone.
    num_failed = 1 if others else task.num_failed + 1
    retries = [Retry(others, task.num_failed if len(others) > 1 else 0)] if others else []
    if not failure.is_final and num_failed < max_attempts:
        return [*retries, Retry((suspect,), num_failed)], []
    return retries, [_given_up(suspect, failure, num_failed)]


def _given_up(ref: VideoRef, failure: AttemptFailedError, num_failed: int) -> VideoOutcome:
    if failure.is_final:
        return VideoOutcome(ref, "failed", "VideoTimeoutError", f"{failure.reason} (--video-timeout)")
    times = f"{num_failed} attempts failed, the last one: " if num_failed > 1 else ""
    return VideoOutcome(ref, "failed", "ProcessDiedError", f"{times}{failure.reason}")
