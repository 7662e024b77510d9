"""Spreading work over processes and machines: the only module that imports dask.

Plain functions do the work (``pipeline/process.py``); this is a thin wrapper around them. No workers: in-process. What
was asked for is read and checked in ``pipeline/cluster_options.py``.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

import dask
from distributed import Client, Future, Nanny, Scheduler, Security, SpecCluster
from distributed.core import Status
from distributed.scheduler import KilledWorker

from pipeline.cluster_options import (
    DASK_CONFIG,
    LOOPBACK,
    ClusterError,
    ClusterPlan,
    TlsFiles,
    check_tls,
    exposure_warning,
    plan_cluster,
)

__all__ = [
    "ClusterError",
    "Done",
    "Engine",
    "WorkerDiedError",
    "local_cluster",
    "make_cluster",
    "managed_cluster",
    "remote_cluster",
    "run_in_process",
    "run_on_cluster",
    "threads_per_worker",
]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_SILENT = logging.CRITICAL
LOOK_SECONDS = 1.0
"""How often it is counted how many workers there are."""
_LOST = "the dask scheduler is lost; run the same command again to go on"
PATIENCE_SECONDS = 60.0
"""After so long without a worker people are told that there is none."""


class WorkerDiedError(RuntimeError):
    """Worker processes died over an item (segmentation fault, killed, out of memory)."""


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """What became of one item."""

    item: Item
    result: Result | None
    error: BaseException | None


def threads_per_worker(num_workers: int) -> int:
    """Threads that each of so many workers on this machine may use; in-process work may use all."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, num_workers))


@contextmanager
def _interrupts_left_to_this_thread() -> Iterator[None]:
    """Threads started inside, and all processes that those start, never see SIGINT: signal masks are inherited.

    At Ctrl-C a terminal sends it to every process of the command; the client stops the workers, in order.
    """
    # Or the first process started inside would start it, which unblocks SIGINT in passing.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Engine:
    """Workers that are up, or on their way."""

    client: Client
    expected_threads: int
    """Task threads once all workers that were asked for have come; 0: not known."""


@contextmanager
def local_cluster(num_workers: int, gpus: Sequence[str] = ()) -> Iterator[Engine]:
    """One process a worker, on this machine, reachable from this machine only.

    Args:
        num_workers: each with one thread.
        gpus: CUDA devices to be shared out among the workers in turn; every worker then has the resource ``GPU=1``.
    """
    with tempfile.TemporaryDirectory(prefix="faceclips-") as scratch:
        with _interrupts_left_to_this_thread(), dask.config.set(DASK_CONFIG):
            cluster = SpecCluster(
                scheduler={
                    "cls": Scheduler,
                    # None would still serve HTTP, on a fixed port that a second run finds taken.
                    "options": {"host": LOOPBACK, "dashboard": True, "dashboard_address": f"{LOOPBACK}:0"},
                },
                workers={number: _local_worker(number, gpus, scratch) for number in range(num_workers)},
                silence_logs=_SILENT,
            )
        with cluster, Client(cluster) as client:
            yield Engine(client, num_workers)


def _local_worker(number: int, gpus: Sequence[str], scratch: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "host": LOOPBACK,
        "nthreads": 1,
        "memory_limit": 0,  # Of dask's own; what takes the memory is a child process.
        "dashboard": False,
        "local_directory": scratch,
        "silence_logs": _SILENT,  # A worker's death is reported as what it did to its item.
    }
    if gpus:
        # Set after the main module was imported, which may have imported torch; CUDA reads it when it is first used,
        # which is in a child of the worker.
        options |= {"env": {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}, "resources": {"GPU": 1}}
    return {"cls": Nanny, "options": options}


@contextmanager
def remote_cluster(address: str, tls: TlsFiles | None = None, timeout_seconds: float = 10.0) -> Iterator[Engine]:
    """A running scheduler, ``tcp://host:port``, or ``tls://host:port`` with files.

    Raises:
        ClusterError: nobody answers there, or the files can't be used.
    """
    check_tls(address, tls)
    security = tls and Security(
        tls_ca_file=tls.ca_file, tls_client_cert=tls.cert, tls_client_key=tls.key, require_encryption=True
    )
    try:
        client = Client(address, timeout=timeout_seconds, security=security)
    except (OSError, ValueError) as error:
        hint = (
            "start one, signed by the same --tls-ca-file"
            if tls
            else "start one (one with TLS is at tls://host:port, and wants --tls-ca-file)"
        )
        raise ClusterError(f"no dask scheduler answers at {address} ({error}); {hint}, or use --workers") from error
    with client:
        yield Engine(client, 0)


@contextmanager
def _keys(folder: str) -> Iterator[Security]:
    """A certificate for all who take part in a run, in files that only this user can read, for as long as it lasts."""
    made = Security.temporary()
    with tempfile.TemporaryDirectory(prefix=".faceclips-tls-", dir=folder) as private:
        paths = {name: str(Path(private, f"{name}.pem")) for name in ("ca", "cert", "key")}
        for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_worker_cert), ("key", made.tls_worker_key)):
            Path(paths[name]).write_text(text, encoding="ascii")
        roles = ("client", "scheduler", "worker")
        of_roles = {f"tls_{role}_{name}": paths[name] for role in roles for name in ("cert", "key")}
        yield Security(require_encryption=True, tls_ca_file=paths["ca"], **of_roles)


@contextmanager
def make_cluster(plan: ClusterPlan) -> Iterator[Any]:
    """The dask cluster of a plan, with a scheduler, but without workers where they are jobs."""
    with ExitStack() as stack:
        keywords = dict(plan.keywords)
        if plan.keys_folder is not None:
            keywords["security"] = stack.enter_context(_keys(plan.keys_folder))
        yield stack.enter_context(plan.make(**keywords))


def configured_plan(kind: str, options_file: str | None, num_workers: int | None = None) -> ClusterPlan:
    """What would be asked for, with what dask's own configuration says; nothing is started.

    Args:
        kind, options_file, num_workers: as for :func:`plan_cluster`.

    Raises:
        ClusterError: as :func:`plan_cluster`.
    """
    return plan_cluster(kind, options_file, num_workers, lambda name: dask.config.get(name, None))


@contextmanager
def managed_cluster(kind: str, options_file: str | None, num_workers: int | None = None) -> Iterator[Engine]:
    """Workers that are asked for from a batch system, from Kubernetes, or for the GPUs of this machine.

    Args:
        kind, options_file, num_workers: as for :func:`plan_cluster`.

    Raises:
        ClusterError: as :func:`plan_cluster`, or the cluster can't be started.
    """
    plan = configured_plan(kind, options_file, num_workers)
    with ExitStack() as stack:
        try:
            # Kubernetes starts nothing here that an interrupt could hit, and may take minutes.
            quietly = nullcontext() if kind == "kubernetes" else _interrupts_left_to_this_thread()
            with quietly, dask.config.set(DASK_CONFIG):
                cluster = stack.enter_context(make_cluster(plan))
                command = _ask_for_workers(plan, cluster)
        except ClusterError:
            raise
        except Exception as error:  # Each of these packages has errors of its own, and of those it is made of.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ClusterError(f"{options_file}: {plan.make.__name__} can't be started so ({reason})") from error
        # Forwarded to this machine, it still is a port of the Kubernetes cluster.
        address = cluster.scheduler_address if kind != "kubernetes" else f"tcp://{cluster.name}-scheduler"
        if warning := exposure_warning(address):
            remedy = "; 'security: true' encrypts, with the extra tls" if plan.is_batch else ""
            logger.warning("%s%s", warning, remedy)
        client = stack.enter_context(Client(cluster))
        yield Engine(client, plan.expected_threads(command))


def _ask_for_workers(plan: ClusterPlan, cluster: Any) -> str:
    """Returns the command that starts a worker, as far as it is known."""
    command = plan.command
    if plan.is_batch:
        command = str(cluster.job_script())
        submit = cluster.job_cls.submit_command.split()[0]
        if shutil.which(submit) is None:
            raise ClusterError(f"{submit} is not in the PATH; run this where jobs for {plan.kind} can be submitted")
    if plan.adapt:
        cluster.adapt(**plan.adapt)
    elif plan.is_batch:  # All others were asked for when the cluster was made.
        cluster.sync(_submit_jobs, cluster, plan.num_jobs(command))
    return command


async def _submit_jobs(cluster: Any, num_jobs: int) -> None:
    """As ``cluster.scale``, which would only log that a job was refused."""
    for _ in range(num_jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        await cluster
    except Exception:
        # Else closing the cluster, which cancels all of them, fails over those that it doesn't know to be closed.
        for job in cluster.workers.values():
            job.status = Status.failed
        raise


def run_in_process(function: Callable[[Item], Result], take: Callable[[], Item | None]) -> Iterator[Done[Item, Result]]:
    """Each item in turn, here. An error ends the run: in-process is for debugging, too."""
    while (item := take()) is not None:
        yield Done(item, function(item), None)


def run_on_cluster(
    engine: Engine,
    function: Callable[[Item], Result],
    take: Callable[[], Item | None],
    resources: Mapping[str, float] | None = None,
) -> Iterator[Done[Item, Result]]:
    """Each item on a worker, in order of completion, until there is nothing more to take and nothing is on its way.

    One item a worker thread is in flight: an item that waited behind another on its worker couldn't go to one that is
    free earlier, and the next from the client costs milliseconds of the minutes that a partition takes. Nor does
    the client's memory grow with the number of items. Workers may come and go meanwhile.

    Args:
        engine: the workers.
        function: what to do with an item; it is sent to the workers by name.
        take: the next item, or None if there is none now; it is asked again after each item that is done.
        resources: what a worker must have for an item, and as much of it as it takes, such as ``{"GPU": 1}``.

    Yields:
        The item with its result, or with the error it raised; :class:`WorkerDiedError` where workers died that had it,
        running or waiting.

    Raises:
        ClusterError: the scheduler is lost.
    """
    client = engine.client
    ended: SimpleQueue[Future] = SimpleQueue()
    of_future: dict[Future, Item] = {}
    num_slots, looked = 0, -math.inf
    without_workers_since = monotonic()
    while True:
        if client.status != "running":  # Asking anything would wait for a minute for it to come back.
            raise ClusterError(_LOST)
        if monotonic() - looked > LOOK_SECONDS:
            num_threads, looked = _num_threads(client, resources or {}), monotonic()
            num_slots = max(1, engine.expected_threads, num_threads)
            if num_threads:
                without_workers_since = looked
            elif looked - without_workers_since > PATIENCE_SECONDS:
                what = f"worker with {', '.join(f'{k}={v:g}' for k, v in resources.items())}" if resources else "worker"
                logger.warning("no %s has been there for %d s; waiting", what, PATIENCE_SECONDS)
                without_workers_since = looked
        while len(of_future) < num_slots and (item := take()) is not None:
            future = client.submit(function, item, pure=False, resources=resources)
            of_future[future] = item
            future.add_done_callback(ended.put)
        if not of_future:
            return
        try:
            future = ended.get(timeout=LOOK_SECONDS)
        except Empty:
            continue
        item = of_future.pop(future)
        done: Done[Item, Result]
        try:
            done = Done(item, future.result(), None)
        except KilledWorker as error:
            done = Done(item, None, WorkerDiedError(f"workers that had it died, the last {error.last_worker}"))
        except CancelledError as error:
            raise ClusterError(_LOST) from error
        except Exception as error:  # Carried to the caller with its item, not swallowed.
            done = Done(item, None, error)
        future.release()  # Else it is computed again when the worker that has the result dies.
        yield done


def _num_threads(client: Client, resources: Mapping[str, float]) -> int:
    """Of all workers that are there now and have what is needed."""
    try:
        if not resources:
            return int(client.scheduler_info(0)["total_threads"])
        workers = client.scheduler_info(-1)["workers"].values()
        fit = (w for w in workers if all(w["resources"].get(name, 0) >= least for name, least in resources.items()))
        return sum(int(worker["nthreads"]) for worker in fit)
    except OSError as error:
        raise ClusterError(_LOST) from error
