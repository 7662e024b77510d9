"""The same promises over every way to run work: in this process, on a local cluster, on a remote scheduler."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cluster import (
    ClusterError,
    Done,
    Engine,
    WorkerDiedError,
    local_cluster,
    remote_cluster,
    run_in_process,
    run_on_cluster,
    threads_per_worker,
)

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 60


def square(number: int) -> int:
    return number * number


def square_unless_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is a bad number")
    return number * number


def sign_and_die_at(number: int, folder: Path, deadly: int) -> int:
    """Leaves a file for each attempt; kills its process at one of the numbers."""
    (folder / f"{number} by {os.getpid()}").touch()
    if number == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@contextmanager
def dask_command(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``dask ...`` as a process of its own, ended by its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def remote_scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a ``dask scheduler`` with one ``dask worker``, as somebody else would start them."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    here = ("--host", "127.0.0.1", "--no-dashboard")
    with (
        dask_command("scheduler", *here, "--port", str(port)) as scheduler,
        dask_command("worker", address, *here, "--nthreads", "2", "--local-directory", str(folder)),
    ):
        yield address, scheduler


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Running:
    """An engine that is up, and how many threads it works with."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine
        self.client: Any = engine.client if engine else None
        self.num_threads = sum(engine.client.nthreads().values()) if engine else None

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done[Any, Any]]:
        take = partial(next, iter(items), None)
        if self.engine is None:
            return run_in_process(function, take)
        return run_on_cluster(self.engine, function, take)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Running]]:
    """Engines by name, each started when it is first asked for."""
    running: dict[str, Running] = {}
    with ExitStack() as stack:

        def start(name: str) -> Running:
            if name == "in-process":
                return Running()
            if name == "remote":
                address, _ = stack.enter_context(remote_scheduler(tmp_path_factory.mktemp("worker")))
                engine = stack.enter_context(remote_cluster(address, timeout_seconds=DEADLINE_SECONDS))
            else:
                engine = stack.enter_context(local_cluster(int(name.removeprefix("local-"))))
            engine.client.wait_for_workers(1, timeout=DEADLINE_SECONDS)
            return Running(engine)

        def get(name: str) -> Running:
            if name not in running:
                running[name] = start(name)
            return running[name]

        yield get


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on each of these engines."""
    marks = {"in-process": ()}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks.get(name, (pytest.mark.cluster,))) for name in names]
    )


@on("in-process", "local-1", "local-2", "remote")
def test_each_item_comes_back_once_with_its_result(engines: Callable[[str], Running], name: str) -> None:
    results = list(engines(name)(square, range(20)))
    assert Counter(done.item for done in results) == Counter(range(20))
    assert all(done.result == done.item**2 and done.error is None for done in results)


@on("in-process", "local-1", "local-2", "remote")
def test_nothing_to_do_is_done_at_once(engines: Callable[[str], Running], name: str) -> None:
    assert list(engines(name)(square, [])) == []


@on("local-1", "local-2", "remote")
def test_items_are_taken_only_as_slots_become_free(engines: Callable[[str], Running], name: str) -> None:
    engine = engines(name)
    num_threads = engine.num_threads or 0
    assert num_threads > 0
    taken = 0

    def counted() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    ahead = [taken - num_done for num_done, _ in enumerate(engine(square, counted()), start=1)]
    assert taken == 40
    assert max(ahead) == num_threads - 1, "besides the one that is done"


def test_in_process_takes_one_item_at_a_time(engines: Callable[[str], Running]) -> None:
    items = iter(range(10))
    next(engines("in-process")(square, items))
    assert list(items) == list(range(1, 10))


@on("local-1", "local-2", "remote")
def test_an_error_comes_back_with_its_item_and_costs_no_other(engines: Callable[[str], Running], name: str) -> None:
    results = {done.item: done for done in engines(name)(square_unless_three, range(8))}
    assert sorted(results) == list(range(8))
    error = results[3].error
    assert isinstance(error, ValueError)
    assert "three is a bad number" in str(error)
    assert [item for item, done in results.items() if done.error is not None] == [3]


def test_in_process_an_error_ends_the_run_where_it_is_raised(engines: Callable[[str], Running]) -> None:
    results = engines("in-process")(square_unless_three, range(8))
    assert [next(results).item for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is a bad number"):
        next(results)


@on("local-1", "local-2")
def test_an_item_whose_workers_die_comes_back_as_an_error_and_costs_no_other(
    engines: Callable[[str], Running], name: str, tmp_path: Path
) -> None:
    """Dask blames what waits on a dead worker, too; who tries these again gets their results."""
    work = partial(sign_and_die_at, folder=tmp_path, deadly=5)
    results: dict[int, Done[Any, Any]] = {}
    pending = list(range(8))
    while pending:
        for done in engines(name)(work, pending):
            results[done.item] = done
        pending = [n for n, done in results.items() if n != 5 and done.error is not None]
    assert isinstance(results[5].error, WorkerDiedError)
    assert {n: done.result for n, done in results.items() if n != 5} == {n: n for n in range(8) if n != 5}
    assert len(list(tmp_path.glob("5 by *"))) > 1
    # The cluster is whole again, for whoever comes next.
    assert sorted(done.item for done in engines(name)(square, range(6))) == list(range(6))


@on("local-1", "remote")
def test_what_comes_up_while_others_are_at_work_is_taken_too(engines: Callable[[str], Running], name: str) -> None:
    """So an item can be tried again: nothing to take is not the end while something is on its way."""
    waiting = [3]
    results = []
    engine = engines(name).engine
    assert engine is not None
    for done in run_on_cluster(engine, square, lambda: waiting.pop() if waiting else None):
        results.append(done.result)
        if done.item > 0:
            waiting.append(done.item - 1)
    assert results == [9, 4, 1, 0]


@pytest.mark.cluster
def test_a_local_cluster_listens_on_this_machine_only(engines: Callable[[str], Running]) -> None:
    client = engines("local-2").client
    client.wait_for_workers(2, timeout=DEADLINE_SECONDS)
    info = client.scheduler_info()
    addresses = [info["address"], *info["workers"], *(worker["nanny"] for worker in info["workers"].values())]
    assert len(addresses) == 5
    assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
    pids = client.run(os.getpid).values()
    sockets = [connection for pid in pids for connection in psutil.Process(pid).net_connections("inet")]
    assert {connection.laddr.ip for connection in sockets if connection.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_scheduler_that_isnt_there_is_a_clear_error() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=f"no dask scheduler answers at {address}.*--workers"):
        remote_cluster(address, timeout_seconds=0.5).__enter__()


def test_an_address_that_is_none_is_a_clear_error() -> None:
    with pytest.raises(ClusterError, match="no dask scheduler answers at nonsense://here"):
        remote_cluster("nonsense://here", timeout_seconds=0.5).__enter__()


@pytest.mark.cluster
def test_a_scheduler_lost_on_the_way_is_a_clear_error(tmp_path: Path) -> None:
    with (
        remote_scheduler(tmp_path) as (address, scheduler),
        remote_cluster(address, timeout_seconds=DEADLINE_SECONDS) as engine,
    ):
        engine.client.wait_for_workers(1, timeout=DEADLINE_SECONDS)
        results = run_on_cluster(engine, square, partial(next, iter(range(1000)), None))
        next(results)
        scheduler.kill()
        with pytest.raises(ClusterError, match="run the same command again"):
            list(results)


def test_threads_are_shared_out_among_workers_and_never_none() -> None:
    available = len(os.sched_getaffinity(0))
    assert threads_per_worker(0) == threads_per_worker(1) == available
    assert threads_per_worker(available) == threads_per_worker(100 * available) == 1
