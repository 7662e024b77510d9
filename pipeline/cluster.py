"""Spreading work over processes and machines: the only module that imports dask.

Plain functions do the work (``pipeline/process.py``); this is a thin wrapper around them. No workers: in-process.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import Generic, TypeVar

import dask
from distributed import Client, Future, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOPBACK = "127.0.0.1"
WORKER_DEATHS_ALLOWED = 1
"""A task that has cost this many workers their life, and then one more, comes back as an error instead of going on."""


class ClusterError(RuntimeError):
    """The engine can't be reached or is lost; the message says what to do."""


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


@contextmanager
def local_cluster(num_workers: int) -> Iterator[Client]:
    """One process a worker, on this machine, reachable from this machine only."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": WORKER_DEATHS_ALLOWED}),
        tempfile.TemporaryDirectory(prefix="faceclips-") as scratch,
    ):
        with _interrupts_left_to_this_thread():
            cluster = LocalCluster(
                n_workers=num_workers,
                threads_per_worker=1,
                processes=True,
                host=LOOPBACK,
                # None would still serve HTTP, on a fixed port that a second run finds taken.
                dashboard_address=f"{LOOPBACK}:0",
                local_directory=scratch,
                silence_logs=50,  # A worker's death is reported as what it did to its item.
            )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def remote_cluster(address: str, timeout_seconds: float = 10.0) -> Iterator[Client]:
    """A running scheduler, ``tcp://host:port``.

    Raises:
        ClusterError: nobody answers there.
    """
    try:
        client = Client(address, timeout=timeout_seconds)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no dask scheduler answers at {address} ({error}); start one, or use --workers") from error
    with client:
        yield client


def run_in_process(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Done[Item, Result]]:
    """Each item in turn, here. An error ends the run: in-process is for debugging, too."""
    for item in items:
        yield Done(item, function(item), None)


def run_on_cluster(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    split: Callable[[Item], list[Item]],
) -> Iterator[Done[Item, Result]]:
    """Each item on a worker, in order of completion.

    Two items a worker thread are in flight, so that no worker waits for the client and the client's memory doesn't grow
    with their number. An item whose workers die is split and its parts are tried, down to the one that does it; what
    can't be split is tried once more when all else is done, alone.

    Args:
        client: connected to the workers.
        function: what to do with an item; it is sent to the workers by name.
        items: taken one by one as slots become free.
        split: the parts of an item, none if it has no parts.

    Yields:
        The item with its result, or with the error it raised; :class:`WorkerDiedError` where it killed its workers.

    Raises:
        ClusterError: the scheduler is lost.
    """
    remaining = iter(items)
    suspects: list[Item] = []
    alone = False
    of_future: dict[Future, Item] = {}
    completed = as_completed(loop=client.loop)

    def submit(some: Iterable[Item]) -> None:
        for item in some:
            future = client.submit(function, item, pure=False)
            of_future[future] = item
            completed.add(future)

    submit(islice(remaining, 2 * max(1, sum(client.nthreads().values()))))
    for future in completed:
        item = of_future.pop(future)
        done: Done[Item, Result] | None = None
        try:
            done = Done(item, future.result(), None)
        except KilledWorker as error:
            if parts := split(item):
                remaining = chain(parts, remaining)
            elif not alone:
                # Dask blames every item that the worker had, running or waiting; alone there is no doubt.
                suspects.append(item)
            else:
                deaths = error.allowed_failures + 1
                died = WorkerDiedError(f"{deaths} worker processes died over it, the last {error.last_worker}")
                done = Done(item, None, died)
        except CancelledError as error:
            raise ClusterError("the dask scheduler is lost; run the same command again to go on") from error
        except Exception as error:  # Carried to the caller with its item, not swallowed.
            done = Done(item, None, error)
        future.release()  # Else it is computed again when the worker that has the result dies.
        submit(islice(remaining, 1))
        alone = bool(suspects) and not of_future
        if alone:
            submit([suspects.pop()])
        if done is not None:
            yield done
