"""Spreading work over processes and machines: the only module that imports dask.

Plain functions do the work (``pipeline/process.py``); this is a thin wrapper around them. No workers: in-process.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import re
import shutil
import signal
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from ipaddress import ip_address
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import dask
import yaml
from distributed import Client, Future, Nanny, Scheduler, Security, SpecCluster
from distributed.core import Status
from distributed.scheduler import KilledWorker

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOPBACK = "127.0.0.1"
_SILENT = logging.CRITICAL
LOOK_SECONDS = 1.0
"""How often it is counted how many workers there are."""
_LOST = "the dask scheduler is lost; run the same command again to go on"
PATIENCE_SECONDS = 60.0
"""After so long without a worker people are told that there is none."""


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


@dataclass(frozen=True)
class Engine:
    """Workers that are up, or on their way."""

    client: Client
    expected_threads: int
    """Task threads once all workers that were asked for have come; 0: not known."""


@dataclass(frozen=True)
class TlsFiles:
    """What proves who is who: files in PEM format."""

    ca_file: str
    """The certificate of the authority that signed those of scheduler and workers."""
    cert: str
    """This client's certificate, signed by the same authority."""
    key: str
    """The private key of ``cert``, without a passphrase."""


@contextmanager
def local_cluster(num_workers: int, gpus: Sequence[str] = ()) -> Iterator[Engine]:
    """One process a worker, on this machine, reachable from this machine only.

    Args:
        num_workers: each with one thread.
        gpus: CUDA devices to be shared out among the workers in turn; every worker then has the resource ``GPU=1``.
    """
    with tempfile.TemporaryDirectory(prefix="faceclips-") as scratch:
        with _interrupts_left_to_this_thread():
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
    encrypted = address.startswith("tls://")
    if encrypted and tls is None:
        raise ClusterError(f"{address} is encrypted: give --tls-ca-file, --tls-cert and --tls-key, too")
    if tls is not None and not encrypted:
        raise ClusterError(f"TLS files are for a scheduler at tls://host:port, not for {address}; change one")
    security = None if tls is None else _checked_security(tls)
    try:
        client = Client(address, timeout=timeout_seconds, security=security)
    except (OSError, ValueError) as error:
        hint = (
            "start one, signed by the same --tls-ca-file"
            if encrypted
            else "start one (one with TLS is at tls://host:port, and wants --tls-ca-file)"
        )
        raise ClusterError(f"no dask scheduler answers at {address} ({error}); {hint}, or use --workers") from error
    with client:
        yield Engine(client, 0)


def _checked_security(tls: TlsFiles) -> Security:
    """Raises ClusterError: a file can't be read, or isn't what it should be."""
    for option, path in (("--tls-ca-file", tls.ca_file), ("--tls-cert", tls.cert), ("--tls-key", tls.key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ClusterError(f"{option} {path} can't be read ({error.strerror}); give another file") from None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise ClusterError(
            f"--tls-ca-file {tls.ca_file} holds no certificate in PEM format ({error}); give that of your authority"
        ) from None
    try:
        # A password, or a key that has one would be asked for at the terminal.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ClusterError(
            f"--tls-cert {tls.cert} and --tls-key {tls.key} are no certificate and its key, both in PEM format, "
            f"the key without a passphrase ({error}); give the two that belong together"
        ) from None
    return Security(tls_ca_file=tls.ca_file, tls_client_cert=tls.cert, tls_client_key=tls.key, require_encryption=True)


def exposure_warning(address: str) -> str | None:
    """What to tell somebody whose scheduler others can reach; None where it is encrypted or only this machine can."""
    scheme, _, rest = address.rpartition("://")
    if scheme in ("tls", "wss", "inproc") or _is_loopback(rest):
        return None
    return (
        f"the dask scheduler at {address} is open: anyone who can reach this port can run any code as you on the "
        "scheduler and on every worker, and read and write whatever you can. Use tls:// with --tls-ca-file, --tls-cert "
        "and --tls-key, or keep it in a private network or behind an ssh tunnel (docs/cluster.md)"
    )


def _is_loopback(host_and_port: str) -> bool:
    """Names are not looked up: the answer would be somebody else's."""
    try:
        host = urlsplit(f"//{host_and_port}").hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class ClusterPlan:
    """What an options file asks for, checked as far as possible before anything is started."""

    kind: str
    file: str
    make: Any
    """The class of the cluster."""
    keywords: Mapping[str, Any]
    """What to make it with."""
    num_workers: int
    """How many to ask for; 0: as ``adapt`` says."""
    adapt: Mapping[str, Any]
    """How the number of workers follows the work; empty: it doesn't."""
    keys_folder: str | None
    """Where jobs find the keys that they are to encrypt with; None: they aren't to."""

    def expected_threads(self, command: str) -> int:
        """Task threads of all workers together, 0 if not known.

        Args:
            command: the one that starts a worker, or several that come together.
        """
        threads = _number_after("--nthreads", command, default=0)
        together = max(1, _number_after("--nworkers", command, default=1))
        if jobs := self.adapt.get("maximum_jobs", 0):
            return int(jobs) * together * threads
        return -(-int(self.adapt.get("maximum", self.num_workers)) // together) * together * threads


def _number_after(flag: str, command: str, default: int) -> int:
    """The last one counts; 0 for one that is no number, such as ``auto``."""
    values = re.findall(rf"{flag}[ =]+(\S+)", command)
    if not values:
        return default
    return int(values[-1]) if values[-1].isdecimal() else 0


def plan_cluster(kind: str, options_file: str, num_workers: int | None = None) -> ClusterPlan:
    """Read an options file; nothing is started.

    Args:
        kind: one of :data:`KINDS`.
        options_file: YAML, with ``cluster`` (options of the class, see ``docs/cluster.md``) and either ``scale`` (the
            number of workers) or ``adapt``.
        num_workers: instead of ``scale``.

    Raises:
        ClusterError: a package is missing, or the file can't be used; the message names the key and what is allowed.
    """
    package, class_name, extra = _CLUSTERS[kind]
    try:
        make = getattr(importlib.import_module(package), class_name)
    except ImportError as error:
        raise ClusterError(
            f"--cluster {kind} needs a package that isn't here ({error}): pip install 'faceclips[{extra}]'"
        ) from error
    document = _read_options(options_file)
    options, scale, adapt = document.get("cluster"), document.get("scale"), document.get("adapt")
    options = {} if options is None else options
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ClusterError(f"{options_file}: 'cluster' is {options!r}, expected options of {class_name}, by name")
    adapt = {} if adapt is None else _checked_adapt(options_file, extra, adapt)
    if scale is not None and not _is_count(scale, least=1):
        raise ClusterError(f"{options_file}: 'scale' is {scale!r}, expected a number of workers, 1 or more")
    if adapt and (scale is not None or num_workers is not None):
        other = "'scale'" if scale is not None else "--workers"
        raise ClusterError(f"{options_file}: 'adapt' chooses the number of workers, and so does {other}; leave one out")
    num_workers = scale if num_workers is None else num_workers
    if not adapt and not num_workers:
        raise ClusterError(f"{options_file}: how many workers? Add 'scale: N' or 'adapt:', or give --workers N")
    if extra != "cuda":  # Its class hands on what it doesn't know to others.
        _check_known(options_file, "cluster.", options, _named_options(package, make))
    num_workers, first_workers = num_workers or 0, num_workers or int(adapt.get("minimum", 0))
    keys_folder = None
    if extra == "jobqueue":
        keys_folder = _keys_folder(kind, options_file, options)
        options = _jobqueue_keywords(kind, options_file, options)
    elif extra == "kubernetes":
        options = _kubernetes_keywords(options_file, options, first_workers)
    else:
        options = _cuda_keywords(options, first_workers)
    return ClusterPlan(kind, options_file, make, options, num_workers, adapt, keys_folder)


def _read_options(path: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ClusterError(f"{path} can't be read ({reason}); give another file with --cluster-options") from None
    except yaml.YAMLError as error:
        raise ClusterError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ClusterError(f"{path}: expected the sections 'cluster' and 'scale' or 'adapt', got {document!r}")
    _check_known(path, "", document, ("cluster", "scale", "adapt"))
    return document


def _check_known(path: str, section: str, given: Mapping[Any, Any], allowed: Iterable[str]) -> None:
    if unknown := sorted(map(str, given.keys() - set(allowed))):
        names = ", ".join(f"'{section}{key}'" for key in unknown)
        raise ClusterError(f"{path}: {names} can't be set here; allowed: {', '.join(sorted(allowed))}")


def _is_count(value: object, least: int) -> bool:
    # YAML's yes is True, which is a 1 for Python.
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_adapt(path: str, extra: str, adapt: Any) -> dict[str, Any]:
    """Raises ClusterError: not a mapping, an unknown key, a bad number, or no upper bound."""
    allowed = _ADAPT_OPTIONS[extra]
    if not allowed:
        raise ClusterError(f"{path}: 'adapt' is not for the GPUs of one machine; use 'scale: N'")
    if not isinstance(adapt, dict):
        raise ClusterError(f"{path}: 'adapt' is {adapt!r}, expected some of {', '.join(allowed)}")
    _check_known(path, "adapt.", adapt, allowed)
    for key, value in adapt.items():
        least = 1 if key.startswith("maximum") else 0
        if key.startswith(("minimum", "maximum")) and not _is_count(value, least):
            raise ClusterError(f"{path}: 'adapt.{key}' is {value!r}, expected a whole number, {least} or more")
    for suffix in ("", "_jobs"):
        low, high = adapt.get(f"minimum{suffix}", 0), adapt.get(f"maximum{suffix}", math.inf)
        if low > high:
            raise ClusterError(f"{path}: 'adapt.minimum{suffix}' is {low}, more than 'adapt.maximum{suffix}', {high}")
    if not {"maximum", "maximum_jobs"} & adapt.keys():
        raise ClusterError(f"{path}: 'adapt' has no upper bound; add 'adapt.maximum', a number of workers")
    return {"minimum": 0} | adapt


def _named_options(package: str, make: Any) -> set[str]:
    """What the class of a cluster, and that of its jobs, take by name."""
    classes = {
        cls for cls in (*make.__mro__, *getattr(make, "job_cls", make).__mro__) if cls.__module__.startswith(package)
    }
    makers = [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)]
    parameters = [parameter for maker in makers for parameter in signature(maker).parameters.values()]
    return {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD} - _OURS


def _of_jobqueue(kind: str, options: Mapping[str, Any], name: str) -> Any:
    """An option, or what dask's own configuration says."""
    section = options.get("config_name", kind)
    return options.get(name) or dask.config.get(f"jobqueue.{section}.{name.replace('_', '-')}", None)


def _keys_folder(kind: str, path: str, options: Mapping[str, Any]) -> str | None:
    """Jobs are encrypted where possible: their scheduler runs in this process and listens on the network."""
    encrypt = options.get("security")
    if encrypt not in (None, True, False):
        raise ClusterError(f"{path}: 'cluster.security' is {encrypt!r}, expected true (the default) or false")
    can_encrypt = importlib.util.find_spec("cryptography") is not None
    if encrypt and not can_encrypt:
        raise ClusterError(f"{path}: 'cluster.security: true' needs a package: pip install 'faceclips[tls]'")
    if encrypt is False or not can_encrypt:
        return None
    folder = os.path.expandvars(str(_of_jobqueue(kind, options, "shared_temp_directory") or Path.cwd()))
    if re.search(r"\s", folder):
        raise ClusterError(
            f"{path}: job scripts can't name {folder!r}, for its spaces; give another 'cluster.shared_temp_directory'"
        )
    return str(Path(folder).expanduser().absolute())


def _jobqueue_keywords(kind: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    scheduler = _of_jobqueue(kind, options, "scheduler_options") or {}
    if not isinstance(scheduler, dict):
        raise ClusterError(f"{path}: 'cluster.scheduler_options' is {scheduler!r}, expected options by name")
    rest = {key: value for key, value in options.items() if key not in ("security", "shared_temp_directory")}
    # The dashboard shows paths and arguments to whoever asks.
    return rest | {"scheduler_options": {"dashboard_address": f"{LOOPBACK}:0", **scheduler}}


def _kubernetes_keywords(path: str, options: Mapping[str, Any], num_workers: int) -> dict[str, Any]:
    keywords = {"quiet": True, **options, "n_workers": num_workers}
    # Else a name that is taken would mean somebody's cluster, to be removed at the end.
    module = importlib.import_module("dask_kubernetes.operator.kubecluster.kubecluster")
    keywords["create_mode"] = module.CreateMode.CREATE_ONLY
    spec = keywords.get("custom_cluster_spec")
    if spec is None:
        return keywords
    try:
        spec = yaml.safe_load(Path(spec).read_text(encoding="utf-8")) if isinstance(spec, str) else spec
        spec["spec"]["worker"]["replicas"] = num_workers
        _kubernetes_command({"custom_cluster_spec": spec})
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise ClusterError(
            f"{path}: 'cluster.custom_cluster_spec' is no DaskCluster with spec.worker.spec.containers, nor a "
            f"file with one ({type(error).__name__}: {error})"
        ) from None
    return keywords | {"custom_cluster_spec": spec}


def _kubernetes_command(keywords: Mapping[str, Any]) -> str:
    """What starts a worker, as far as it was given."""
    spec = keywords.get("custom_cluster_spec")
    if spec is None:
        command = keywords.get("worker_command", "")
        return command if isinstance(command, str) else " ".join(map(str, command))
    container = spec["spec"]["worker"]["spec"]["containers"][0]
    return " ".join(map(str, [*(container.get("command") or []), *(container.get("args") or [])]))


def _cuda_keywords(options: Mapping[str, Any], num_workers: int) -> dict[str, Any]:
    defaults = {"threads_per_worker": 1, "resources": {"GPU": 1}, "dashboard_address": f"{LOOPBACK}:0"}
    return {**defaults, **options, "n_workers": num_workers}


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


@contextmanager
def managed_cluster(kind: str, options_file: str | None, num_workers: int | None = None) -> Iterator[Engine]:
    """Workers that are asked for from a batch system, from Kubernetes, or for the GPUs of this machine.

    Args:
        kind, options_file, num_workers: as for :func:`plan_cluster`.

    Raises:
        ClusterError: as :func:`plan_cluster`, or the cluster can't be started.
    """
    if options_file is None:
        raise ClusterError(
            f"--cluster {kind} needs --cluster-options FILE, which says what to ask for (docs/cluster.md)"
        )
    plan = plan_cluster(kind, options_file, num_workers)
    with ExitStack() as stack:
        try:
            # Kubernetes starts nothing here that an interrupt could hit, and may take minutes.
            with nullcontext() if kind == "kubernetes" else _interrupts_left_to_this_thread():
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
            remedy = "; 'security: true' encrypts, with faceclips[tls]" if kind in _JOBQUEUE else ""
            logger.warning("%s%s", warning, remedy)
        client = stack.enter_context(Client(cluster))
        yield Engine(client, plan.expected_threads(command))


def _ask_for_workers(plan: ClusterPlan, cluster: Any) -> str:
    """Returns the command that starts a worker, as far as it tells how many threads there will be."""
    if plan.kind == "cuda":
        return f"--nthreads {plan.keywords['threads_per_worker']}"
    if plan.kind == "kubernetes":
        command = _kubernetes_command(plan.keywords)
    else:
        command = str(cluster.job_script())
        submit = cluster.job_cls.submit_command.split()[0]
        if shutil.which(submit) is None:
            raise ClusterError(f"{submit} is not in the PATH; run this where jobs for {plan.kind} can be submitted")
    if plan.adapt:
        cluster.adapt(**plan.adapt)
    elif plan.kind != "kubernetes":  # Its pods were asked for when it was made.
        num_jobs = -(-plan.num_workers // max(1, _number_after("--nworkers", command, default=1)))
        cluster.sync(_submit_jobs, cluster, num_jobs)
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


_OURS = {
    *("self", "loop", "asynchronous", "n_workers", "create_mode", "protocol"),
    *("job_cls", "scheduler_cls", "scheduler"),
}
"""Options of the classes that are chosen here, or that no file can hold."""
_ADAPT_OPTIONS = {
    "jobqueue": (
        *("minimum", "maximum", "minimum_jobs", "maximum_jobs"),
        *("interval", "wait_count", "target_duration"),
    ),
    "kubernetes": ("minimum", "maximum"),
    "cuda": (),
}
_JOBQUEUE = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "moab": "MoabCluster",
}
_CLUSTERS = {
    **{kind: ("dask_jobqueue", class_name, "jobqueue") for kind, class_name in _JOBQUEUE.items()},
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "kubernetes"),
    "cuda": ("dask_cuda", "LocalCUDACluster", "cuda"),
}
"""Package, class and extra by kind."""
KINDS = tuple(_CLUSTERS)


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

    Two items a worker thread are in flight, so that no worker waits for the client and the client's memory doesn't grow
    with their number; workers may come and go meanwhile.

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
            num_slots = 2 * max(1, engine.expected_threads, num_threads)
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
