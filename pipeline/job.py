"""One call of the extraction: what there is to do, doing it, trying again what failed."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.attempts import Retry, Task, after_failure
from pipeline.catalog import Videos, duplicate_in_index
from pipeline.cluster import ClusterError, Done, Engine, WorkerDiedError, run_in_process, run_on_cluster
from pipeline.config import Settings
from pipeline.errors import InputError
from pipeline.files import StoreFiles
from pipeline.ledger import Known, Ledger
from pipeline.plan import Pending, partition_number, usable_source
from pipeline.runs import AttemptLostError, Run, RunOverError, RunWatch, clear_settled, settle, was_begun
from pipeline.store import FaceStore
from pipeline.supervise import AttemptFailedError, Call, Limits, supervise
from pipeline.types import STATUSES, Partition, VideoOutcome, VideoRef, Work
from pipeline.writer import PartitionTakenError, PartitionWriter

FAILURES = ("decode_error", "failed")


@dataclass
class Todo:
    """What there is to do."""

    num_asked: int = 0
    num_pending: int = 0
    """Without a row in the store, or with one that is to be replaced."""
    pending_bytes: int = 0
    num_families: int = 0
    """Of the pending: an original and what was made from it is one worker's."""
    num_others: int = 0
    """Videos in the store that weren't asked for."""
    relabelled: list[VideoRef] = field(default_factory=list)
    """Known to the store with another label, original or group."""

    @property
    def num_done(self) -> int:
        return self.num_asked - self.num_pending


def take_stock(ledger: Ledger, videos: Videos, store: FaceStore | None, retry_failed: bool) -> Todo:
    """Compare what was asked for with what is in the store.

    Args:
        ledger: empty; holds both afterwards.
        videos: asked for.
        store: None if there is none yet.
        retry_failed: whether failures are to be done again.

    Raises:
        InputError: a video has changed since it was extracted, or comes twice.
    """
    columns = ["video_id", "status", "size_bytes", "label", "source_id", "group_id"]
    for rows in store.read_partitions("videos", columns) if store else ():
        ledger.learn(rows.to_pylist())
    todo = Todo()
    changed: list[tuple[VideoRef, Known]] = []
    for refs in videos.batches():
        for video_id in ledger.ask(refs):
            raise duplicate_in_index(videos.name, video_id)
        known = ledger.known([ref.video_id for ref in refs])
        todo.num_asked += len(refs)
        for ref in refs:
            row = known.get(ref.video_id)
            if row is None or (retry_failed and row.status in FAILURES):
                todo.num_pending += 1
                todo.pending_bytes += ref.size_bytes
            if row is not None and not row.has_labels_of(ref):
                todo.relabelled.append(ref)
            # One that failed may well have been mended since, and waits for --retry-failed.
            if row is not None and row.status not in FAILURES and row.size_bytes != ref.size_bytes:
                changed.append((ref, row))
    if changed:
        ref, row = changed[0]
        raise InputError(
            f"{len(changed)} videos are no longer those that {store.url if store else ''} was made of (such as "
            f"{ref.video_id!r}: {row.size_bytes:,} bytes then, {ref.size_bytes:,} now); remove that store or choose "
            "another"
        )
    for refs in videos.beyond_limit():
        ledger.mention(refs)
    todo.num_families = ledger.num_families(_not_counted(retry_failed))
    todo.num_others = ledger.num_known_unasked()
    return todo


def pending(ledger: Ledger, retry_failed: bool) -> Iterator[Pending]:
    """The videos to work on, those of an original one after the other; few are in memory at a time.

    Args:
        ledger: that stock was taken into.
        retry_failed: whether failures are to be done again.
    """
    for ref, original in ledger.without_row(_not_counted(retry_failed)):
        yield Pending(_found_anywhere(ref), usable_source(ref, original and _found_anywhere(original)))


def _not_counted(retry_failed: bool) -> tuple[str, ...]:
    """Statuses of rows that are to be replaced."""
    return FAILURES if retry_failed else ()


def _found_anywhere(ref: VideoRef) -> VideoRef:
    """The same with an absolute path: workers may run in another folder."""
    return replace(ref, path=str(Path(ref.path).absolute()))


@dataclass(frozen=True)
class Progress:
    """Videos that have got their rows just now."""

    num_videos: int
    num_tracks: int = 0
    num_failures: int = 0


class Extraction:
    """Works through partitions, each until it is committed or its videos are given up.

    Args:
        run: that has the store.
        settings: of the extraction.
        partitions: what each is to hold; taken as workers become free.
        used_names: of all partitions that the store has had.
        max_attempts: failures after which a video is given up.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        partitions: Iterable[Work],
        used_names: Iterable[str],
        max_attempts: int,
    ) -> None:
        self._files = StoreFiles(run.store_url)
        self._settings = settings
        self._max_attempts = max_attempts
        self._new = iter(partitions)
        self._again: deque[Retry] = deque()
        self._numbers = itertools.count(max(map(partition_number, used_names), default=-1) + 1)
        self.num_lost = 0
        """Attempts that ended without a commit."""

    def work(
        self,
        function: Callable[[Task], list[VideoOutcome]],
        engine: Engine | None,
        resources: Mapping[str, float] | None,
    ) -> Iterator[Progress]:
        """Until there is nothing left to do.

        Raises:
            ClusterError: the scheduler is lost, or another run has taken over.
            InputError, WriteError: what is wrong with the machine is wrong again and again.
        """
        if engine is None:
            results = run_in_process(function, self._take)
        else:
            results = run_on_cluster(engine, function, self._take, resources)
        for done in results:
            yield from self._finish(done)

    def _take(self) -> Task | None:
        if self._again:
            retry = self._again.popleft()
            return Task(self._partition(retry.work), retry.num_failed, retry.num_failed_over_original)
        work = next(self._new, None)
        return Task(self._partition(work)) if work else None

    def _partition(self, work: Work) -> Partition:
        return Partition(next(self._numbers), work.videos, work.sources)

    def _finish(self, done: Done[Task, list[VideoOutcome]]) -> Iterator[Progress]:
        partition = done.item.partition
        if done.error is None:
            yield _progress(partition, done.result or [])
            return
        if isinstance(done.error, InputError):
            raise done.error
        if isinstance(done.error, RunOverError):
            raise ClusterError(f"{done.error}; the same command again goes on, when that one is done")
        self.num_lost += 1
        is_innocent = isinstance(done.error, WorkerDiedError) and not was_begun(self._files, partition.name)
        failure = _as_failure(done.error)
        if settle(self._files, partition.name):
            yield _progress(partition, [])
        elif is_innocent:
            self._again.append(_again(done.item, 0))
        elif failure is None:
            if done.item.num_failed + 1 >= self._max_attempts:
                raise done.error
            self._again.append(_again(done.item, 1))
        else:
            retries, given_up = after_failure(done.item, failure, self._max_attempts)
            self._again.extend(retries)
            for outcome in given_up:
                self._commit(outcome)
                yield Progress(1, 0, 1)

    def _commit(self, outcome: VideoOutcome) -> None:
        """The row of a video that was given up."""
        name = Partition(next(self._numbers), (outcome.ref,)).name
        PartitionWriter(self._files, name, self._settings.crop.size, self._settings.store).commit([outcome], [])


def _again(task: Task, num_failed: int) -> Retry:
    """The same, after so many more failures."""
    work = Work(task.partition.videos, task.partition.sources)
    return Retry(work, task.num_failed + num_failed, task.num_failed_over_original)


def _progress(partition: Partition, outcomes: list[VideoOutcome]) -> Progress:
    return Progress(
        len(partition.videos),
        sum(outcome.num_tracks for outcome in outcomes),
        sum(outcome.status in FAILURES for outcome in outcomes),
    )


def _as_failure(error: BaseException) -> AttemptFailedError | None:
    """An attempt that died; None where it ended by itself, with an error that is no video's."""
    if isinstance(error, AttemptFailedError):
        return error
    if isinstance(error, AttemptLostError | WorkerDiedError | PartitionTakenError):
        reason = "its worker was lost: killed, out of memory, or cut off from the scheduler"
        return AttemptFailedError(reason, None)
    return None


def supervised(task: Task, call: Call, limits: Limits, run: Run) -> list[VideoOutcome]:
    """A task, by a child of the worker that this is called on."""
    try:
        outcomes: list[VideoOutcome] = supervise(task.partition, call, limits, RunWatch(run).check)
    except RunOverError:
        # The child was killed amid its work, which the run that took over may have settled long ago.
        with suppress(OSError):
            clear_settled(StoreFiles(run.store_url), task.partition.name)
        raise
    return outcomes


def unsupervised(task: Task, call: Call) -> list[VideoOutcome]:
    """A task, in this process."""
    outcomes: list[VideoOutcome] = call(task.partition, lambda _video_id: None)
    return outcomes


def count_outcomes(store: FaceStore, ledger: Ledger) -> dict[str, Counter[str]]:
    """What became of the videos asked for: by status their number, tracks, frames, bytes, and seconds of work."""
    totals: dict[str, Counter[str]] = {status: Counter() for status in STATUSES}
    columns = ["video_id", "status", "size_bytes", "num_tracks", "decode_seconds", "detect_seconds", "write_seconds"]
    parts = zip(
        store.read_partitions("videos", columns),
        store.read_partitions("tracks", ["video_id", "row_start", "row_stop"]),
        strict=True,
    )
    for videos, tracks in parts:
        rows = videos.to_pylist()
        asked = ledger.asked([row["video_id"] for row in rows])
        for row in (row for row in rows if row["video_id"] in asked):
            seconds = row["decode_seconds"] + row["detect_seconds"] + row["write_seconds"]
            total = totals[row["status"]]
            total.update(videos=1, tracks=row["num_tracks"], bytes=row["size_bytes"])
            total["seconds"] += seconds
        spans = ((t["row_start"], t["row_stop"]) for t in tracks.to_pylist() if t["video_id"] in asked)
        totals["ok"]["frames"] += sum(stop - start for start, stop in spans)
    return totals


def failed_rows(store: FaceStore, ledger: Ledger) -> Iterator[dict[str, str]]:
    """Rows of the videos asked for that failed: ``video_id, status, message``."""
    for rows in store.read_partitions("videos", ["video_id", "status", "message"]):
        failed = [row for row in rows.to_pylist() if row["status"] in FAILURES]
        asked = ledger.asked([row["video_id"] for row in failed]) if failed else ()
        yield from (row for row in failed if row["video_id"] in asked)
