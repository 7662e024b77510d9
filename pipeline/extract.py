"""``python -m pipeline.extract VIDEOS STORE``: the main job, videos in, face-clip store out."""

from __future__ import annotations

import itertools
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import click
import torch
from tqdm import tqdm

from pipeline.catalog import build_index
from pipeline.cli import (
    EXIT_INTERRUPTED,
    EXIT_TOO_MANY_FAILURES,
    RunFailedError,
    debug_option,
    device_option,
    listed,
    machine_option,
    params_option,
    plain_errors,
    printable,
)
from pipeline.cluster import (
    ClusterError,
    Done,
    WorkerDiedError,
    local_cluster,
    remote_cluster,
    run_in_process,
    run_on_cluster,
    threads_per_worker,
)
from pipeline.config import Settings
from pipeline.device import Device, choose_device
from pipeline.errors import InputError
from pipeline.plan import partition_number, plan_partitions
from pipeline.process import process_partition
from pipeline.relabel import labels_changed, relabel
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.types import STATUSES, Partition, VideoOutcome, VideoRef
from pipeline.upkeep import forget_videos, remove_orphans
from pipeline.versions import code_digest
from pipeline.writer import PartitionWriter, check_settings, create_or_resume

FAILURES = ("decode_error", "failed")
MAX_LISTED_FAILURES = 10


def _absolute(store: str) -> str:
    """Workers may run in another folder."""
    return store if "://" in store else str(Path(store).absolute())


def _default_workers(device: str, num_pending: int) -> int:
    """One process a GPU or a core, but none for what a single process does as fast."""
    available = torch.cuda.device_count() if device == "cuda" else threads_per_worker(1)
    workers = min(available, num_pending)
    return 0 if workers <= 1 else workers


def _commit_as_failed(job: _Job, partition: Partition, error: BaseException) -> list[VideoOutcome]:
    """The row of a video that no worker survived."""
    outcomes = [VideoOutcome(ref, "failed", type(error).__name__, str(error)) for ref in partition.videos]
    files = create_or_resume(job.store, job.settings)
    PartitionWriter(files, partition.name, job.settings.crop.size, job.settings.store).commit(outcomes, [])
    return outcomes


def _closing_table(store: FaceStore, video_ids: set[str]) -> Iterator[str]:
    """What became of these videos, by status."""
    columns = ("video_id", "status", "size_bytes", "num_tracks", "decode_seconds", "detect_seconds", "write_seconds")
    totals: dict[str, Counter[str]] = {status: Counter() for status in STATUSES}
    for row in store.read_table("videos", columns).to_pylist():
        if row["video_id"] in video_ids:
            seconds = row["decode_seconds"] + row["detect_seconds"] + row["write_seconds"]
            totals[row["status"]].update(videos=1, tracks=row["num_tracks"], bytes=row["size_bytes"])
            totals[row["status"]]["seconds"] += seconds
    for row in store.read_table("tracks", ["video_id", "row_start", "row_stop"]).to_pylist():
        if row["video_id"] in video_ids:
            totals["ok"]["frames"] += row["row_stop"] - row["row_start"]
    yield f"{'status':<14}{'videos':>10}{'tracks':>10}{'frames':>12}{'seconds':>12}{'bytes':>16}"
    for status, total in [*totals.items(), ("total", sum(totals.values(), Counter()))]:
        if total["videos"] or status == "total":
            counts = f"{total['videos']:>10,}{total['tracks']:>10,}{total['frames']:>12,}"
            yield f"{status:<14}{counts}{total['seconds']:>12,.1f}{total['bytes']:>16,}"


def _report(job: _Job) -> int:
    """Prints what became of all videos asked for, and returns how many failed."""
    store = FaceStore.open(job.store)
    video_ids = {ref.video_id for ref in job.index}
    for line in _closing_table(store, video_ids):
        click.echo(line)
    rows = store.read_table("videos", ["video_id", "status", "error_type", "message"]).to_pylist()
    failed = [row for row in rows if row["status"] in FAILURES and row["video_id"] in video_ids]
    for row in failed[:MAX_LISTED_FAILURES]:
        click.echo(printable(f"{row['status']}: {row['video_id']}: {row['message']}"), err=True)
    if len(failed) > MAX_LISTED_FAILURES:
        click.echo(f"... and {len(failed) - MAX_LISTED_FAILURES} more failures: see the videos table", err=True)
    return len(failed)


def _work(
    partitions: Iterator[Partition],
    first_free_number: int,
    process: Callable[[Partition], list[VideoOutcome]],
    engine: AbstractContextManager[object],
) -> Iterator[Done[Partition, list[VideoOutcome]]]:
    """The partitions through the engine; one that kills its workers is tried video by video."""
    numbers = itertools.count(first_free_number)

    def split(partition: Partition) -> list[Partition]:
        videos = partition.videos if len(partition.videos) > 1 else ()
        return [Partition(next(numbers), (video,)) for video in videos]

    with engine as client:
        if client is None:
            yield from run_in_process(process, partitions)
        else:
            yield from run_on_cluster(client, process, partitions, split)


@dataclass(frozen=True)
class _Job:
    """What one call of the command has to do, and with what."""

    store: str
    settings: Settings
    index: list[VideoRef]
    """All videos asked for."""
    pending: list[VideoRef]
    """Those without a row in the store."""
    workers: int
    """Processes on this machine; 0: this one, or the scheduler's."""
    scheduler: str | None
    device: Device
    relabelled: list[VideoRef]
    """Videos that the store knows with other labels."""
    num_others: int
    """Videos in the store that weren't asked for."""

    @property
    def partition_size(self) -> int:
        """As set, but smaller where workers would go without work: two partitions a worker even out long videos."""
        for_all = -(-len(self.pending) // max(1, 2 * self.workers))
        return max(1, min(self.settings.extract.videos_per_partition, for_all))

    @property
    def num_done(self) -> int:
        return len(self.index) - len(self.pending)

    def engine(self) -> AbstractContextManager[object]:
        """A dask client, or None for in-process."""
        if self.scheduler:
            return remote_cluster(self.scheduler)
        return local_cluster(self.workers) if self.workers else nullcontext()


def _run(job: _Job) -> None:
    """Work through what is pending, committing partition by partition, with a progress bar on stderr."""
    used_numbers = [partition_number(name) for name in FaceStore.open(job.store).partition_names]
    partitions = list(plan_partitions(job.pending, (), used_numbers, job.partition_size))
    if not partitions:
        return
    process = partial(
        process_partition,
        store_url=job.store,
        settings=job.settings,
        device=job.device,
        # What else runs on a machine of somebody's cluster is not known here.
        num_threads=1 if job.scheduler else threads_per_worker(job.workers),
    )
    faces = failures = 0
    with tqdm(total=len(job.pending), unit=" videos", dynamic_ncols=True) as bar:
        for done in _work(iter(partitions), partitions[-1].number + 1, process, job.engine()):
            if isinstance(done.error, WorkerDiedError):
                outcomes = _commit_as_failed(job, done.item, done.error)
            elif done.error is not None:
                raise done.error
            else:
                outcomes = done.result or []
            faces += sum(outcome.num_tracks for outcome in outcomes)
            failures += sum(outcome.status in FAILURES for outcome in outcomes)
            bar.set_postfix(faces=faces, failures=failures)
            bar.update(len(done.item.videos))


def _plan(
    index: list[VideoRef],
    store: str,
    settings: Settings,
    workers: int | None,
    scheduler: str | None,
    device: Device,
    retry_failed: bool,
    may_relabel: bool,
) -> _Job:
    """What is left to do in that store; nothing is written.

    Raises:
        InputError: a video has changed since it was extracted, or its label, and that isn't to be written.
    """
    chosen_device = choose_device(device)
    rows, relabelled = [], []
    if check_settings(store, settings):
        opened = FaceStore.open(store)
        rows = opened.read_table("videos", ["video_id", "status", "size_bytes"]).to_pylist()
        relabelled = labels_changed(opened, index)
    if relabelled and not may_relabel:
        names = listed([ref.video_id for ref in relabelled], most=3)
        raise InputError(
            f"{len(relabelled)} videos have another label, original or group now than in {store} ({names}); --relabel "
            "writes the new ones into it. Was --labels left out?"
        )
    redone = FAILURES if retry_failed else ()
    done = {row["video_id"] for row in rows if row["status"] not in redone}
    # One that failed may well have been mended since, and waits for --retry-failed.
    extracted = {row["video_id"]: row["size_bytes"] for row in rows if row["status"] not in FAILURES}
    changed = [ref for ref in index if extracted.get(ref.video_id, ref.size_bytes) != ref.size_bytes]
    if changed:
        first = changed[0]
        raise InputError(
            f"{len(changed)} videos are no longer those that {store} was made of (such as {first.video_id!r}: "
            f"{extracted[first.video_id]:,} bytes then, {first.size_bytes:,} now); remove that store or choose another"
        )
    # Workers may run in another folder.
    index = [replace(ref, path=str(Path(ref.path).absolute())) for ref in index]
    pending = [ref for ref in index if ref.video_id not in done]
    if scheduler:
        workers = 0
    elif workers is None:
        workers = _default_workers(chosen_device, len(pending))
    num_others = len({row["video_id"] for row in rows} - {ref.video_id for ref in index})
    return _Job(store, settings, index, pending, workers, scheduler, device, relabelled, num_others)


def _code_note(job: _Job) -> str | None:
    """That what is there was made by other code, which no setting tells."""
    made_by = FaceStore.open(job.store).manifest["versions"].get("code")
    if not job.num_done or made_by in (None, code_digest("pipeline")):
        return None
    return (
        f"note: {job.num_done} videos were extracted by other code than this; they stay as they are. "
        f"To do them again, remove {printable(job.store)} or choose another store"
    )


def _who(job: _Job) -> str:
    if job.scheduler:
        return f"the workers of {job.scheduler}"
    return f"{job.workers} worker processes" if job.workers else "this process"


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


@click.command()
@click.argument("videos")
@click.argument("store")
@params_option
@click.option("--labels", metavar="FILE", help="Labels: DFDC's metadata.json, Celeb-DF's list, or a CSV.")
@machine_option(
    "--workers",
    type=click.IntRange(min=0),
    envvar="FACECLIPS_WORKERS",
    help="Processes; 0: in this one. Default: one a core or GPU.",
)
@machine_option(
    "--scheduler", metavar="ADDRESS", envvar="FACECLIPS_SCHEDULER", help="A running dask scheduler, tcp://host:port."
)
@device_option
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N videos, sorted by name.")
@click.option("--retry-failed", is_flag=True, help="Also do again what ended in decode_error or failed.")
@click.option("--relabel", "relabel_videos", is_flag=True, help="Write labels and groups that have changed into STORE.")
@click.option("--max-failures", type=click.IntRange(min=0), metavar="N", help="More failures than this: exit code 3.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@debug_option
def main(
    videos: str,
    store: str,
    params: str | None,
    labels: str | None,
    workers: int | None,
    scheduler: str | None,
    device: Device,
    limit: int | None,
    retry_failed: bool,
    relabel_videos: bool,
    max_failures: int | None,
    dry_run: bool,
    debug: bool,
) -> None:
    """Find, track and cut out every face of every video in VIDEOS, into the face-clip store STORE.

    VIDEOS is a folder (searched through), one video, a quoted glob, or an index (videos.parquet). STORE is a folder or
    an fsspec URL such as s3://bucket/store. Each video ends in exactly one row that says what became of it. The same
    command again does what is left and nothing twice.

    \b
    Example:   python -m pipeline.extract videos/ store/
    Exit code: 0 every video has a row, 1 the store can't be written or the cluster is lost, 2 bad usage,
               3 more failures than --max-failures, 130 interrupted (resumable).
    """
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    started = perf_counter()
    with plain_errors(debug):
        if scheduler and workers is not None:
            raise click.UsageError("--scheduler has workers of its own; leave --workers out")
        settings = load_settings(params, Settings)
        index, report = build_index(videos, labels)
        for line in report.lines():
            click.echo(line, err=True)
        job = _plan(index[:limit], _absolute(store), settings, workers, scheduler, device, retry_failed, relabel_videos)
        if job.num_others and not limit:
            click.echo(f"note: {job.num_others} videos of the store are not among these; they stay in it", err=True)
        if dry_run:
            click.echo(f"would extract {len(job.pending)} videos, {job.num_done} are done, into {printable(job.store)}")
            click.echo(f"in partitions of {job.partition_size}, by {_who(job)}")
            return
        create_or_resume(job.store, settings)
        if job.relabelled:
            relabel(FaceStore.open(job.store), job.relabelled)
            click.echo(f"{len(job.relabelled)} videos have been given other labels or groups", err=True)
        if note := _code_note(job):
            click.echo(note, err=True)
        if retry_failed:
            forget_videos(FaceStore.open(job.store), FAILURES)
        remove_orphans(FaceStore.open(job.store))
        signal.signal(signal.SIGTERM, _stop)
        try:
            _run(job)
        except KeyboardInterrupt:
            num_done = FaceStore.open(job.store).read_table("videos", ["video_id"]).num_rows
            click.echo(f"interrupted; {num_done} videos are committed, the same command goes on from there", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        except ClusterError as error:
            raise RunFailedError(str(error)) from error
        num_failures = _report(job)
        click.echo("seconds: spent by workers; bytes: of the videos")
        click.echo(f"{len(job.pending)} videos in {perf_counter() - started:.1f} s, {job.num_done} were done before")
    if max_failures is not None and num_failures > max_failures:
        click.echo(f"{num_failures} failures, more than the {max_failures} allowed", err=True)
        raise SystemExit(EXIT_TOO_MANY_FAILURES)


if __name__ == "__main__":
    main()
