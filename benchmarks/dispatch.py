"""What very many videos cost the client: ``python -m benchmarks.dispatch [--rows 1000000]``.

The client of the extraction goes over an index of made-up rows as the command does: takes stock, plans, has workers
commit partition by partition, counts. Only that the workers decode nothing: each video is ``no_face`` at once.
Baseline: a tenth of the rows; what grows with their number shows as more seconds per million rows, or as more memory.
Then the same on a disk in memory, which says what durability costs, and a client that is killed half-way and run again.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog import INDEX_SCHEMA, Videos, iter_index
from pipeline.cluster import threads_per_worker
from pipeline.config import Settings
from pipeline.files import StoreFiles
from pipeline.job import Extraction, count_outcomes, failed_rows, pending, take_stock
from pipeline.ledger import Ledger
from pipeline.machines import Machines
from pipeline.plan import partition_bounds, plan_partitions, settings_bounds
from pipeline.runs import Run, attempts_left, begin_attempt, end_attempt, only_run
from pipeline.store import FaceStore
from pipeline.supervise import Call
from pipeline.types import Partition, VideoOutcome
from pipeline.upkeep import settle_attempts
from pipeline.writer import PartitionWriter, check_settings, create_or_resume

BATCH_ROWS = 65_536
MEDIAN_BYTES = 4.3e6
"""Ten seconds of 1080p."""
POLL_SECONDS = 0.1
MEMORY_DISK = Path("/dev/shm")  # noqa: S108  the only tmpfs that most Linux machines have


@dataclass(frozen=True)
class Measured:
    """One call of the client, in a process of its own."""

    num_done_before: int
    num_planned: int
    num_committed: int
    num_lost: int
    """Attempts."""
    stock_seconds: float
    """Reading the index, and what the store has of it."""
    start_seconds: float
    """Until workers and their children are up and the first partition is committed."""
    work_seconds: float
    """From then to the last."""
    count_seconds: float
    """What became of all, and which failed."""
    work_cpu_seconds: float
    """Of the client's process, in which dask's scheduler is, while the workers work."""
    peak_bytes: int
    """Resident memory of the client's process."""

    @property
    def seconds(self) -> float:
        """What grows with the rows: all but the start."""
        return self.stock_seconds + self.work_seconds + self.count_seconds


def write_made_up_index(path: Path, num_rows: int) -> None:
    """An index of originals, each with four fakes, some rows in memory at a time."""
    rng = random.Random(0)  # noqa: S311
    with pq.ParquetWriter(path, INDEX_SCHEMA) as writer:
        for start in range(0, num_rows, BATCH_ROWS):
            numbers = range(start, min(start + BATCH_ROWS, num_rows))
            ids = [f"part_{number // 2000:05d}/video_{number:09d}.mp4" for number in numbers]
            originals = [f"part_{number // 2000:05d}/video_{number - number % 5:09d}.mp4" for number in numbers]
            columns = {
                "video_id": ids,
                "path": [f"/nowhere/{video_id}" for video_id in ids],
                "size_bytes": [int(rng.lognormvariate(math.log(MEDIAN_BYTES), 1.0)) for _ in numbers],
                "modified_ns": [1_700_000_000_000_000_000 + number for number in numbers],
                "label": [int(number % 5 > 0) for number in numbers],
                "source_id": [
                    original if original != own else None for own, original in zip(ids, originals, strict=True)
                ],
                "group_id": originals,
            }
            writer.write_table(pa.table(columns, INDEX_SCHEMA))


def no_op(
    partition: Partition, run: Run, settings: Settings, progress: Callable[[str | None], None]
) -> list[VideoOutcome]:
    """What ``pipeline.process.process_partition`` does around the work; called in a child of a worker."""
    files = StoreFiles(run.store_url)
    if files.exists(f"videos/{partition.name}.parquet"):
        return []
    writer = PartitionWriter(files, partition.name, settings.crop.size, settings.store)
    begin_attempt(files, run, partition.name, writer.array_name)
    try:
        outcomes = []
        for ref in partition.videos:
            progress(ref.video_id)
            outcomes.append(VideoOutcome(ref, "no_face"))
        progress(None)
        writer.commit(outcomes, [])
    except BaseException:
        writer.discard()
        raise
    finally:
        end_attempt(files, partition.name)
    return outcomes


def _peak_bytes() -> int:
    """Of this program. ``ru_maxrss`` won't do: it starts with what the process had that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Watch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(("stock", "start", "work", "count"), 0.0)
        self._last = perf_counter()

    def spent_on(self, name: str) -> None:
        """The time since the last call, or since this was made."""
        now = perf_counter()
        self.seconds[name] += now - self._last
        self._last = now


def extract_nothing(index: str, url: str, workers: int) -> Measured:
    """The steps of ``pipeline.extract``, in its order, with :func:`no_op` for the work."""
    settings, machines, watch = Settings(), Machines(workers=workers, device="cpu"), _Watch()
    num_committed = num_lost = 0
    cpu_seconds = 0.0
    videos = Videos(index)
    store = FaceStore.open(url) if check_settings(url, settings) else None
    names_before = store.partition_names if store else []
    with Ledger() as ledger:
        todo = take_stock(ledger, videos, store, retry_failed=False)
        watch.spent_on("stock")
        if todo.num_pending:
            with machines.engine(workers) as engine, only_run(create_or_resume(url, settings)) as run:
                watch.spent_on("start")
                settle_attempts(StoreFiles(url))
                store = FaceStore.open(url)
                if store.partition_names != names_before:
                    ledger.clear()
                    todo = take_stock(ledger, videos, store, retry_failed=False)
                watch.spent_on("stock")
                bounds = partition_bounds(settings.extract, todo.num_pending, todo.pending_bytes, workers)
                most = settings_bounds(settings.extract)
                partitions = plan_partitions(pending(ledger, retry_failed=False), bounds, most)
                extraction = Extraction(run, settings, partitions, store.partition_names, max_attempts=3)
                call = Call("benchmarks.dispatch:no_op", {"run": run, "settings": settings})
                function = machines.function(run, call, engine)
                for progress in extraction.work(function, engine, machines.resources):
                    if not num_committed:
                        watch.spent_on("start")
                        cpu_seconds = -_cpu_seconds()
                    num_committed += progress.num_videos
                num_lost = extraction.num_lost
                if num_lost:
                    settle_attempts(store.files)
                cpu_seconds += _cpu_seconds()
                watch.spent_on("work")
            watch.spent_on("start")  # Undoing it.
        store = FaceStore.open(url)
        count_outcomes(store, ledger)
        for _ in failed_rows(store, ledger):
            pass
        watch.spent_on("count")
    spent = watch.seconds
    return Measured(
        todo.num_done, todo.num_pending, num_committed, num_lost,
        spent["stock"], spent["start"], spent["work"], spent["count"], cpu_seconds, _peak_bytes(),
    )  # fmt: skip


def _command(index: Path, store: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.dispatch", "client", str(index), str(store), "--workers", str(workers)]


def measure(index: Path, store: Path, workers: int) -> Measured:
    """The client over all rows, in a process of its own."""
    ran = subprocess.run(_command(index, store, workers), check=True, stdout=subprocess.PIPE)  # noqa: S603
    return Measured(**json.loads(ran.stdout.splitlines()[-1]))


def kill_after(index: Path, store: Path, workers: int, num_partitions: int) -> None:
    """Start the client, and kill it as soon as so many partitions are committed; workers are left to themselves."""
    # Its errors, too, go nowhere: of what a killed process leaves, such as semaphores, Python complains in its name.
    with subprocess.Popen(  # noqa: S603
        _command(index, store, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as client:
        try:
            while _num_partitions(store) < num_partitions:
                try:
                    client.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
                raise SystemExit(f"the client ended with exit code {client.returncode} before it could be killed")
        finally:
            client.kill()


def _num_partitions(store: Path) -> int:
    return sum(1 for _ in store.glob("videos/*.parquet"))


def _num_files(store: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(store))


def check_rows(index: Path, store: Path) -> tuple[int, int, int]:
    """Rows of the store, videos that have more than one, and videos of the index that have none."""
    stored = FaceStore.open(str(store)).read_table("videos", ["video_id"])["video_id"]
    asked = (ref.video_id for batch in iter_index(str(index)) for ref in batch)
    counts = pc.value_counts(stored)
    twice = int(pc.sum(pc.greater(counts.field("counts"), 1)).as_py() or 0)
    return len(stored), twice, len(set(asked).difference(counts.field("values").to_pylist()))


HEADER = (
    f"{'':<26}{'rows':>10}{'partitions':>12}{'files':>9}{'stock s':>9}{'start s':>9}{'work s':>9}{'count s':>9}"
    f"{'s/10^6':>9}{'client CPU':>13}{'peak MB':>9}"
)


def _measured(name: str, index: Path, store: Path, workers: int) -> Measured:
    """Measures, and prints a line of the table."""
    measured = measure(index, store, workers)
    num_rows = measured.num_done_before + measured.num_planned
    share = measured.work_cpu_seconds / measured.work_seconds if measured.num_committed else 0.0
    _say(
        f"{name:<26}{num_rows:>10,}{_num_partitions(store):>12,}{_num_files(store):>9,}{measured.stock_seconds:>9.2f}"
        f"{measured.start_seconds:>9.2f}{measured.work_seconds:>9.2f}{measured.count_seconds:>9.2f}"
        f"{measured.seconds * 1e6 / num_rows:>9.0f}{share:>8.0%} core{measured.peak_bytes / 1e6:>9.1f}"
    )
    return measured


def _say(line: str) -> None:
    print(line, flush=True)  # A run takes minutes.


def _stop_and_go_on(index: Path, store: Path, workers: int, num_rows: int, num_partitions: int) -> None:
    """Prints what a killed client costs."""
    kill_after(index, store, workers, num_partitions // 2)
    num_before, _, _ = check_rows(index, store)
    num_open = len(attempts_left(StoreFiles(str(store))))
    again = measure(index, store, workers)
    num_stored, num_twice, num_missing = check_rows(index, store)
    _say(f"\nclient killed (SIGKILL) after half of {num_partitions:,} partitions, and run again, {num_rows:,} rows")
    _say(f"  rows committed before           {num_before:>12,}   ({num_open} attempts left open)")
    _say(f"  found done by the second run    {again.num_done_before:>12,}")
    _say(f"  planned again by it             {again.num_planned:>12,}")
    _say(f"  committed by it                 {again.num_committed:>12,}   ({again.num_lost} attempts lost)")
    _say(f"  rows in the end                 {num_stored:>12,}")
    _say(f"  videos done twice               {num_twice:>12,}")
    _say(f"  videos without a row            {num_missing:>12,}")
    _say(f"  taking stock again              {again.stock_seconds:>12.2f} s")
    if num_stored != num_rows or num_twice or num_missing:
        raise SystemExit("not every video has exactly one row")


@click.group(invoke_without_command=True)
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(min=1000))
@click.option("--workers", default=threads_per_worker(1), show_default="one a core", type=click.IntRange(min=1))
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Where stores are made and removed.")
@click.pass_context
def main(context: click.Context, rows: int, workers: int, folder: str | None) -> None:
    """Prints seconds, memory and files for a tenth of the rows and for all of them, and what a killed client costs."""
    if context.invoked_subcommand is not None:
        return
    # Not above: it imports torch, which the client of an extraction doesn't, nor should the one measured.
    from benchmarks.machine import describe_machine  # noqa: PLC0415

    _say(describe_machine())
    _say(f"{workers} workers that decode nothing\n\n{HEADER}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        few, many = (Path(scratch, f"{num_rows}.parquet") for num_rows in (rows // 10, rows))
        peaks: dict[str, list[int]] = {"new store": [], "same command again": []}
        work_seconds = {}
        for index, num_rows in ((few, rows // 10), (many, rows)):
            write_made_up_index(index, num_rows)
            for name, of_name in peaks.items():
                measured = _measured(name, index, index.with_suffix(""), workers)
                of_name.append(measured.peak_bytes)
                work_seconds[name, index] = measured.work_seconds
        if MEMORY_DISK.is_dir():
            with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as memory:
                in_memory = _measured("new store, in memory", few, Path(memory, "store"), workers)
            share = 1 - in_memory.work_seconds / work_seconds["new store", few]
            _say(f"\nof the work, {share:.0%} is the disk's (fsync)")
        for name, (of_few, of_many) in peaks.items():
            _say(f"peak over all rows - over a tenth, {name}: {(of_many - of_few) / 1e6:+.1f} MB")
        num_partitions = _num_partitions(few.with_suffix(""))
        _stop_and_go_on(few, Path(scratch, "killed"), workers, rows // 10, num_partitions)


@main.command(hidden=True)
@click.argument("index")
@click.argument("store")
@click.option("--workers", required=True, type=int)
def client(index: str, store: str, workers: int) -> None:
    """One call of the client; prints what was measured, as JSON."""
    print(json.dumps(asdict(extract_nothing(index, store, workers))))


if __name__ == "__main__":
    main()
