"""``python -m pipeline.extract VIDEOS STORE``: the main job, videos in, face-clip store out."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import click
from tqdm import tqdm

from pipeline.catalog import Videos
from pipeline.cli import (
    EXIT_INTERRUPTED,
    EXIT_TOO_MANY_FAILURES,
    FILE,
    FOLDER,
    OneGlob,
    OneOf,
    RunFailedError,
    debug_option,
    device_option,
    listed,
    machine_option,
    params_option,
    plain_errors,
    printable,
    raise_interrupts,
)
from pipeline.cluster import ClusterError, Engine
from pipeline.cluster_options import KINDS, ClusterOptionsError, TlsFiles
from pipeline.config import Settings
from pipeline.device import DecodeDevice, Device
from pipeline.errors import InputError
from pipeline.files import StoreFiles
from pipeline.job import FAILURES, Extraction, Todo, count_outcomes, failed_rows, pending, take_stock
from pipeline.ledger import Ledger
from pipeline.machines import Machines
from pipeline.plan import Bounds, num_tasks, partition_bounds, plan_partitions, settings_bounds
from pipeline.relabel import relabel
from pipeline.runs import Run, attempts_left, latest_run, only_run
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.supervise import Call, Limits
from pipeline.upkeep import forget_videos, settle_attempts
from pipeline.versions import code_digest
from pipeline.writer import check_settings, create_or_resume

MAX_LISTED_FAILURES = 10


@dataclass(frozen=True)
class _Request:
    """What was asked for, and a way to hear that it isn't any more."""

    videos: Videos
    store: str
    settings: Settings
    machines: Machines
    max_attempts: int
    retry_failed: bool
    may_relabel: bool
    dry_run: bool
    raise_lost_interrupt: Callable[[], None]
    """Called between partitions."""

    def workers_and_bounds(self, todo: Todo) -> tuple[int, Bounds]:
        num_workers = self.machines.num_workers(
            num_tasks(self.settings.extract, todo.num_families, todo.num_pending, todo.pending_bytes)
        )
        return num_workers, partition_bounds(self.settings.extract, todo.num_pending, todo.pending_bytes, num_workers)


def _absolute(store: str) -> str:
    """Workers may run in another folder."""
    return store if "://" in store else str(Path(store).absolute())


def _closing_table(totals: dict[str, Counter[str]]) -> Iterator[str]:
    """What became of the videos, by status."""
    yield f"{'status':<14}{'videos':>10}{'tracks':>10}{'frames':>12}{'seconds':>12}{'bytes':>16}"
    for status, total in [*totals.items(), ("total", sum(totals.values(), Counter()))]:
        if total["videos"] or status == "total":
            counts = f"{total['videos']:>10,}{total['tracks']:>10,}{total['frames']:>12,}"
            yield f"{status:<14}{counts}{total['seconds']:>12,.1f}{total['bytes']:>16,}"


def _report(store: FaceStore, ledger: Ledger) -> int:
    """Prints what became of all videos asked for, and returns how many failed."""
    totals = count_outcomes(store, ledger)
    for line in _closing_table(totals):
        click.echo(line)
    for row in itertools.islice(failed_rows(store, ledger), MAX_LISTED_FAILURES):
        click.echo(printable(f"{row['status']}: {row['video_id']}: {row['message']}"), err=True)
    num_failed = sum(totals[status]["videos"] for status in FAILURES)
    if num_failed > MAX_LISTED_FAILURES:
        click.echo(f"... and {num_failed - MAX_LISTED_FAILURES} more failures: see the videos table", err=True)
    return num_failed


def _notes(request: _Request, store: FaceStore | None, todo: Todo) -> Iterator[str]:
    """What is worth knowing before the work begins."""
    if todo.num_others and request.videos.limit is None:
        yield f"note: {todo.num_others} videos of the store are not among these; they stay in it"
    if warning := request.machines.warning():
        yield f"warning: {warning}"
    made_by = store.manifest["versions"].get("code") if store else None
    if todo.num_done and made_by not in (None, code_digest("pipeline")):
        yield (
            f"note: {todo.num_done} videos were extracted by other code than this; they stay as they are. "
            f"To do them again, remove {printable(request.store)} or choose another store"
        )


def _take_stock(request: _Request, ledger: Ledger, store: FaceStore | None) -> Todo:
    todo = take_stock(ledger, request.videos, store, request.retry_failed)
    if todo.relabelled and not request.may_relabel:
        names = listed([ref.video_id for ref in todo.relabelled], most=3)
        raise InputError(
            f"{len(todo.relabelled)} videos have another label, original or group now than in {request.store} "
            f"({names}); --relabel writes the new ones into it. Was --labels left out?"
        )
    return todo


def _state(store: FaceStore | None) -> object:
    """Differs when something has been committed, or when another run has had the store."""
    if store is None:
        return None
    latest = latest_run(store.files)
    return latest.number if latest is not None else 0, store.partition_names


def _is_left_open(store: FaceStore | None) -> bool:
    """Whether attempts were killed that nobody has cleared away."""
    if store is None or not attempts_left(store.files):
        return False
    latest = latest_run(store.files)
    return latest is None or not latest.is_alive()


def _extract(request: _Request) -> tuple[Todo, int]:
    """Do what is left to do, and say what became of all.

    Returns:
        What there was to do, and how many of all videos asked for have failed.
    """
    store = FaceStore.open(request.store) if check_settings(request.store, request.settings) else None
    state = _state(store)
    with Ledger() as ledger:
        todo = _take_stock(request, ledger, store)
        if not request.videos.lines:
            click.echo(f"videos: {todo.num_asked:,}", err=True)
        for note in _notes(request, store, todo):
            click.echo(note, err=True)
        num_workers, bounds = request.workers_and_bounds(todo)
        if request.dry_run or todo.num_pending:
            request.machines.check()
        if request.dry_run:
            where = f"into {printable(request.store)}"
            click.echo(f"would extract {todo.num_pending} videos, {todo.num_done} are done, {where}")
            click.echo(f"in partitions of up to {bounds.videos}, by {request.machines.describe(num_workers)}")
            return todo, 0
        if todo.num_pending:
            with request.machines.engine(num_workers) as engine, only_run(_made(request)) as run:
                todo = _run(request, run, engine, ledger, todo, state)
        elif store is None or todo.relabelled or _is_left_open(store):
            with only_run(_made(request)) as run:
                todo = _run(request, run, None, ledger, todo, state)
        return todo, _report(FaceStore.open(request.store), ledger)


def _made(request: _Request) -> StoreFiles:
    return create_or_resume(request.store, request.settings)


def _run(request: _Request, run: Run, engine: Engine | None, ledger: Ledger, todo: Todo, state_before: object) -> Todo:
    """What only one run at a time may do with a store."""
    settle_attempts(StoreFiles(run.store_url))
    store = FaceStore.open(run.store_url)
    if (run.number - 1, store.partition_names) != (state_before or (0, [])):
        # Somebody has worked on it since it was looked at.
        ledger.clear()
        todo = _take_stock(request, ledger, store)
    if todo.relabelled:
        relabel(store, todo.relabelled)
        click.echo(f"{len(todo.relabelled)} videos have been given other labels or groups", err=True)
    if request.retry_failed:
        forget_videos(store, FAILURES, ledger.asked)
    _work(request, run, engine, ledger, todo)
    return todo


def _work(request: _Request, run: Run, engine: Engine | None, ledger: Ledger, todo: Todo) -> None:
    """Work through what is pending, committing partition by partition, with a progress bar on stderr."""
    store, machines = FaceStore.open(run.store_url), request.machines
    num_workers, bounds = request.workers_and_bounds(todo)
    most = settings_bounds(request.settings.extract)
    partitions = plan_partitions(pending(ledger, request.retry_failed), bounds, most)
    extraction = Extraction(run, request.settings, partitions, store.partition_names, request.max_attempts)
    keywords = {
        "run": run,
        "settings": request.settings,
        "device": machines.device,
        "num_threads": machines.num_threads(num_workers),
        "decode_device": machines.decode_device,
    }
    function = machines.function(run, Call("pipeline.process:process_partition", keywords), engine)
    faces = failures = 0
    with tqdm(total=todo.num_pending, unit=" videos", dynamic_ncols=True) as bar:
        for progress in extraction.work(function, engine, machines.resources):
            faces += progress.num_tracks
            failures += progress.num_failures
            bar.set_postfix(faces=faces, failures=failures)
            bar.update(progress.num_videos)
            request.raise_lost_interrupt()
    if extraction.num_lost:
        settle_attempts(store.files)
        click.echo(f"{extraction.num_lost} attempts were lost or failed, and made up for", err=True)


def _tls_files(ca_file: str | None, cert: str | None, key: str | None) -> TlsFiles | None:
    if ca_file is None and cert is None and key is None:
        return None
    if ca_file is None or cert is None or key is None:
        raise click.UsageError("--tls-ca-file, --tls-cert and --tls-key go together: give all three, or none")
    return TlsFiles(ca_file, cert, key)


def _check_machine_flags(machines: Machines) -> None:
    if machines.scheduler and machines.cluster:
        raise click.UsageError("--scheduler and --cluster exclude each other: a cluster brings its own scheduler")
    if machines.scheduler and machines.workers is not None:
        raise click.UsageError("--scheduler has workers of its own; leave --workers out")
    if machines.cluster_options and not machines.cluster:
        raise click.UsageError("--cluster-options says how to start a --cluster; name its kind")
    if machines.tls and not machines.scheduler:
        raise click.UsageError("--tls-... are for a --scheduler; other engines make their own certificates")


@click.command(cls=OneGlob)
@click.argument("videos", type=FILE)
@click.argument("store", type=FOLDER)
@params_option
@click.option("--labels", type=FILE, metavar="FILE", help="Labels: DFDC's metadata.json, Celeb-DF's list, or a CSV.")
@machine_option(
    "--workers",
    type=click.IntRange(min=0),
    envvar="FACECLIPS_WORKERS",
    help="Processes; 0: in this one. Default: one a core or GPU.",
)
@machine_option(
    "--scheduler", metavar="ADDRESS", envvar="FACECLIPS_SCHEDULER", help="A running dask scheduler, tcp://host:port."
)
@machine_option(
    "--cluster",
    type=OneOf(KINDS),
    envvar="FACECLIPS_CLUSTER",
    help="Start workers there; docs/cluster.md has each kind.",
)
@machine_option(
    "--cluster-options",
    type=FILE,
    metavar="FILE",
    envvar="FACECLIPS_CLUSTER_OPTIONS",
    help="How to start them: a YAML file.",
)
@click.option(
    "--tls-ca-file", type=FILE, metavar="FILE", help="For a scheduler at tls://host:port: the authority that signed it,"
)
@click.option("--tls-cert", type=FILE, metavar="FILE", help="this client's certificate,")
@click.option("--tls-key", type=FILE, metavar="FILE", help="and its key.")
@device_option
@machine_option(
    "--decode-device",
    type=OneOf(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    envvar="FACECLIPS_DECODE_DEVICE",
    help="What decodes videos; cuda: a GPU's own decoder (NVDEC) those that it can.",
)
@machine_option(
    "--video-timeout",
    "video_timeout_seconds",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    envvar="FACECLIPS_VIDEO_TIMEOUT",
    help="A video that takes longer is given up; 0: none is. Not with --workers 0.",
)
@machine_option(
    "--worker-memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    envvar="FACECLIPS_WORKER_MEMORY_GB",
    help="A process that takes more is ended. Default: no limit. Not with --workers 0.",
)
@machine_option(
    "--max-attempts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    envvar="FACECLIPS_MAX_ATTEMPTS",
    help="Deaths of a process after which a video is given up.",
)
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
    cluster: str | None,
    cluster_options: str | None,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    device: Device,
    decode_device: DecodeDevice,
    video_timeout_seconds: float,
    worker_memory_gb: float | None,
    max_attempts: int,
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
    Example:   python -m pipeline.extract data/sample/test data/clips --workers 2
    Exit code: 0 every video has a row, 1 the run failed (disk full, cluster lost), 2 bad usage,
               3 more failures than --max-failures, 130 interrupted (resumable).
    """
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    started = perf_counter()
    with plain_errors(debug):
        limits = Limits(video_timeout_seconds or None, int(worker_memory_gb * 1e9) if worker_memory_gb else None)
        tls = _tls_files(tls_ca_file, tls_cert, tls_key)
        machines = Machines(workers, scheduler, cluster, cluster_options, tls, device, decode_device, limits)
        _check_machine_flags(machines)
        settings = load_settings(params, Settings)
        inputs = Videos(videos, labels, limit)
        for line in inputs.lines:
            click.echo(line, err=True)
        request = _Request(
            inputs,
            _absolute(store),
            settings,
            machines,
            max_attempts,
            retry_failed,
            relabel_videos,
            dry_run,
            raise_interrupts(),
        )
        try:
            todo, num_failures = _extract(request)
        except KeyboardInterrupt:
            click.echo(_interrupted(request.store), err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        except ClusterOptionsError:
            raise
        except ClusterError as error:
            raise RunFailedError(str(error)) from error
        if dry_run:
            return
        click.echo("seconds: spent by workers; bytes: of the videos")
        click.echo(f"{todo.num_pending} videos in {perf_counter() - started:.1f} s, {todo.num_done} were done before")
    if max_failures is not None and num_failures > max_failures:
        click.echo(f"{num_failures} failures, more than the {max_failures} allowed", err=True)
        raise SystemExit(EXIT_TOO_MANY_FAILURES)


def _interrupted(store: str) -> str:
    num_done = 0
    if StoreFiles(store).exists("store.json"):
        num_done = sum(rows.num_rows for rows in FaceStore.open(store).read_partitions("videos", ["status"]))
    return f"interrupted; {num_done} videos are committed, the same command goes on from there"


if __name__ == "__main__":
    main()
