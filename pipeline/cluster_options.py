"""What flags and an options file say about a cluster: read and checked, with nothing started. No dask in here.

Where the packages that know a kind of cluster are needed, to know their options by, they are looked for by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pipeline.errors import InputError
from pipeline.nearest import did_you_mean, did_you_mean_path

LOOPBACK = "127.0.0.1"
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
_OURS = {"loop", "asynchronous", "n_workers", "create_mode", "protocol", "job_cls", "scheduler_cls", "scheduler"}
"""Options of the classes that are chosen here, or that no file can hold."""
_ADAPT_OPTIONS = {
    "jobqueue": ("minimum", "maximum", "minimum_jobs", "maximum_jobs", "interval", "wait_count", "target_duration"),
    "kubernetes": ("minimum", "maximum"),
    "cuda": (),
}
_CUDA_DEFAULTS = {"threads_per_worker": 1, "resources": {"GPU": 1}, "dashboard_address": f"{LOOPBACK}:0"}
DASK_CONFIG = {
    # What tasks are at, asked a hundred times a second: ours wait for a child process.
    "distributed.worker.profile.enabled": False,
    # Whether an event loop is late, which every scheduler, nanny and worker looks for fifty times a second.
    "distributed.admin.tick.interval": "500ms",
}
"""What dask otherwise spends a tenth of a core on, for each worker and once more for the client."""


class ClusterError(RuntimeError):
    """The workers that were asked for can't be had, or are lost; the message says what to do."""


class ClusterOptionsError(ClusterError, InputError):
    """What was said about them can't be used: flags, or an options file."""


@dataclass(frozen=True)
class TlsFiles:
    """What proves who is who: files in PEM format."""

    ca_file: str
    """The certificate of the authority that signed those of scheduler and workers."""
    cert: str
    """This client's certificate, signed by the same authority."""
    key: str
    """The private key of ``cert``, without a passphrase."""


def check_tls(address: str, tls: TlsFiles | None) -> None:
    """Raises ClusterOptionsError: the address wants files and there are none, or the other way round, or wrong ones."""
    encrypted = address.startswith("tls://")
    if tls is None:
        if encrypted:
            raise ClusterOptionsError(f"{address} is encrypted: give --tls-ca-file, --tls-cert and --tls-key, too")
        return
    if not encrypted:
        raise ClusterOptionsError(f"TLS files are for a scheduler at tls://host:port, not for {address}; change one")
    for option, path in (("--tls-ca-file", tls.ca_file), ("--tls-cert", tls.cert), ("--tls-key", tls.key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ClusterOptionsError(f"{option} {path} can't be read ({error.strerror}); give another file") from None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise ClusterOptionsError(
            f"--tls-ca-file {tls.ca_file} holds no certificate in PEM format ({error}); give that of your authority"
        ) from None
    try:
        # A password, or a key that has one would be asked for at the terminal.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ClusterOptionsError(
            f"--tls-cert {tls.cert} and --tls-key {tls.key} are no certificate and its key, both in PEM format, "
            f"the key without a passphrase ({error}); give the two that belong together"
        ) from None


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

    @property
    def is_batch(self) -> bool:
        """Whether workers are jobs of a batch system."""
        return self.kind in _JOBQUEUE

    @property
    def command(self) -> str:
        """What starts a worker, as far as the options say; that of a job is in its script."""
        if self.kind == "cuda":
            return f"--nthreads {self.keywords['threads_per_worker']}"
        return _pod_command(self.keywords)

    def num_jobs(self, command: str) -> int:
        """How many there are once all have come; in each, the command starts a worker, or several together."""
        num_workers = int(self.adapt.get("maximum", self.num_workers))
        return int(self.adapt.get("maximum_jobs", 0)) or -(-num_workers // _workers_together(command))

    def expected_threads(self, command: str) -> int:
        """Task threads of all workers together, 0 if not known; the command is as for :meth:`num_jobs`."""
        return self.num_jobs(command) * _workers_together(command) * _number_after("--nthreads", command, default=0)


def _workers_together(command: str) -> int:
    return max(1, _number_after("--nworkers", command, default=1))


def _number_after(flag: str, command: str, default: int) -> int:
    """The last one counts; 0 for one that is no number, such as ``auto``."""
    values = re.findall(rf"{flag}[ =]+(\S+)", command)
    if not values:
        return default
    return int(values[-1]) if values[-1].isdecimal() else 0


def plan_cluster(
    kind: str,
    options_file: str | None,
    num_workers: int | None = None,
    configured: Callable[[str], Any] = lambda _name: None,
) -> ClusterPlan:
    """Read an options file; nothing is started.

    Args:
        kind: one of :data:`KINDS`.
        options_file: YAML, with ``cluster`` (options of the class, see ``docs/cluster.md``) and either ``scale`` (the
            number of workers) or ``adapt``.
        num_workers: instead of ``scale``.
        configured: what dask's own configuration says by a name of its, None if nothing. Batch systems are asked for.

    Raises:
        ClusterError: a package is missing.
        ClusterOptionsError: the file can't be used; the message names the key and what is allowed.
    """
    if options_file is None:
        raise ClusterOptionsError(
            f"--cluster {kind} needs --cluster-options FILE, which says what to ask for (docs/cluster.md)"
        )
    package, class_name, extra = _CLUSTERS[kind]
    try:
        make = getattr(importlib.import_module(package), class_name)
    except ImportError as error:
        raise ClusterError(
            f"--cluster {kind} needs a package that isn't here ({error}): pip install -e '.[{extra}]'"
        ) from error
    document = _read_options(options_file)
    options = document.get("cluster", {})
    if not isinstance(options, dict):
        raise ClusterOptionsError(
            f"{options_file}: 'cluster' is {options!r}, expected options of {class_name}, by name"
        )
    adapt = _checked_adapt(options_file, extra, document["adapt"]) if "adapt" in document else {}
    num_workers = _checked_number(options_file, document.get("scale"), adapt, num_workers)
    if extra != "cuda":  # Its class hands on what it doesn't know to others.
        _check_known(options_file, "cluster.", options, _named_options(package, make))
    first_workers = num_workers or int(adapt.get("minimum", 0))
    keys_folder = None
    if extra == "jobqueue":
        options = _with_configured(kind, options, configured)
        keys_folder = _keys_folder(options_file, options)
        options = _jobqueue_keywords(options_file, options)
    elif extra == "kubernetes":
        options = _kubernetes_keywords(options_file, options, first_workers)
    else:
        options = _CUDA_DEFAULTS | options | {"n_workers": first_workers}
    return ClusterPlan(kind, make, options, num_workers, adapt, keys_folder)


def _read_options(path: str) -> dict[str, Any]:
    """The sections that have something in them."""
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ClusterOptionsError(
            f"{path} can't be read ({reason}); give another file with --cluster-options{did_you_mean_path(path)}"
        ) from None
    except yaml.YAMLError as error:
        raise ClusterOptionsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ClusterOptionsError(f"{path}: expected the sections 'cluster' and 'scale' or 'adapt', got {document!r}")
    _check_known(path, "", document, ("cluster", "scale", "adapt"))
    return {section: content for section, content in document.items() if content is not None}


def _check_known(path: str, section: str, given: Mapping[Any, Any], allowed: Collection[str]) -> None:
    if unknown := sorted(map(str, given.keys() - set(allowed))):
        names = ", ".join(f"'{section}{key}'" for key in unknown)
        raise ClusterOptionsError(
            f"{path}: {names} can't be set here; allowed: {', '.join(sorted(allowed))}"
            f"{did_you_mean(unknown[0], allowed)}"
        )


def _is_count(value: object, least: int) -> bool:
    # YAML's yes is True, which is a 1 for Python.
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_number(path: str, scale: Any, adapt: Mapping[str, Any], num_workers: int | None) -> int:
    """How many workers to ask for, 0 if ``adapt`` says. Raises ClusterOptionsError: said twice, or not at all."""
    if scale is not None and not _is_count(scale, least=1):
        raise ClusterOptionsError(f"{path}: 'scale' is {scale!r}, expected a number of workers, 1 or more")
    if adapt and (scale is not None or num_workers is not None):
        other = "'scale'" if scale is not None else "--workers"
        raise ClusterOptionsError(f"{path}: 'adapt' chooses the number of workers, and so does {other}; leave one out")
    num_workers = scale if num_workers is None else num_workers
    if not adapt and not num_workers:
        raise ClusterOptionsError(f"{path}: how many workers? Add 'scale: N' or 'adapt:', or give --workers N")
    return num_workers or 0


def _checked_adapt(path: str, extra: str, adapt: Any) -> dict[str, Any]:
    """Raises ClusterOptionsError: not a mapping, an unknown key, a bad number, or no upper bound."""
    allowed = _ADAPT_OPTIONS[extra]
    if not allowed:
        raise ClusterOptionsError(f"{path}: 'adapt' is not for the GPUs of one machine; use 'scale: N'")
    if not isinstance(adapt, dict):
        raise ClusterOptionsError(f"{path}: 'adapt' is {adapt!r}, expected some of {', '.join(allowed)}")
    _check_known(path, "adapt.", adapt, allowed)
    for key, value in adapt.items():
        least = 1 if key.startswith("maximum") else 0
        if key.startswith(("minimum", "maximum")) and not _is_count(value, least):
            raise ClusterOptionsError(f"{path}: 'adapt.{key}' is {value!r}, expected a whole number, {least} or more")
    for suffix in ("", "_jobs"):
        low, high = adapt.get(f"minimum{suffix}", 0), adapt.get(f"maximum{suffix}", math.inf)
        if low > high:
            raise ClusterOptionsError(
                f"{path}: 'adapt.minimum{suffix}' is {low}, more than 'adapt.maximum{suffix}', {high}"
            )
    if not {"maximum", "maximum_jobs"} & adapt.keys():
        raise ClusterOptionsError(f"{path}: 'adapt' has no upper bound; add 'adapt.maximum', a number of workers")
    return {"minimum": 0} | adapt


def _named_options(package: str, make: Any) -> set[str]:
    """What the class of a cluster, and that of its jobs, take by name."""
    bases = (*make.__mro__, *getattr(make, "job_cls", make).__mro__)
    classes = [cls for cls in bases if cls.__module__.startswith(package)]
    parameters = [parameter for cls in classes for parameter in signature(cls).parameters.values()]
    return {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD} - _OURS


def _with_configured(kind: str, options: dict[str, Any], configured: Callable[[str], Any]) -> dict[str, Any]:
    """Options that are looked at here, which their class would else take from dask's own configuration."""
    section = f"jobqueue.{options.get('config_name', kind)}"
    names = ("shared_temp_directory", "scheduler_options", "job_script_prologue", "env_extra")
    return options | {name: options.get(name) or configured(f"{section}.{name}") for name in names}


def _keys_folder(path: str, options: Mapping[str, Any]) -> str | None:
    """Jobs are encrypted where possible: their scheduler runs in this process and listens on the network."""
    encrypt = options.get("security")
    if encrypt not in (None, True, False):
        raise ClusterOptionsError(f"{path}: 'cluster.security' is {encrypt!r}, expected true (the default) or false")
    can_encrypt = importlib.util.find_spec("cryptography") is not None
    if encrypt and not can_encrypt:
        raise ClusterError(f"{path}: 'cluster.security: true' needs a package: pip install -e '.[tls]'")
    if encrypt is False or not can_encrypt:
        return None
    folder = os.path.expandvars(str(options["shared_temp_directory"] or Path.cwd()))
    if re.search(r"\s", folder):
        raise ClusterOptionsError(
            f"{path}: job scripts can't name {folder!r}, for its spaces; give another 'cluster.shared_temp_directory'"
        )
    return str(Path(folder).expanduser().absolute())


def _jobqueue_keywords(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    scheduler = options["scheduler_options"] or {}
    if not isinstance(scheduler, dict):
        raise ClusterOptionsError(f"{path}: 'cluster.scheduler_options' is {scheduler!r}, expected options by name")
    prologue = options["job_script_prologue"] or options["env_extra"] or []
    if not isinstance(prologue, list):
        raise ClusterOptionsError(f"{path}: 'cluster.job_script_prologue' is {prologue!r}, expected a list of lines")
    ours = ("security", "shared_temp_directory", "env_extra")
    return {key: value for key, value in options.items() if key not in ours} | {
        # The dashboard shows paths and arguments to whoever asks.
        "scheduler_options": {"dashboard_address": f"{LOOPBACK}:0", **scheduler},
        "job_script_prologue": [*(f"export {variable}" for variable in _dask_variables()), *prologue],
    }


def _dask_variables() -> Iterator[str]:
    """``DASK_CONFIG`` as the environment of a process says it."""
    for name, value in DASK_CONFIG.items():
        yield f"DASK_{name.upper().replace('.', '__')}={value}"


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
        _pod_command({"custom_cluster_spec": spec})
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise ClusterOptionsError(
            f"{path}: 'cluster.custom_cluster_spec' is no DaskCluster with spec.worker.spec.containers, nor a "
            f"file with one ({type(error).__name__}: {error})"
        ) from None
    return keywords | {"custom_cluster_spec": spec}


def _pod_command(keywords: Mapping[str, Any]) -> str:
    """What starts a worker, as far as it was given."""
    spec = keywords.get("custom_cluster_spec")
    if spec is None:
        command = keywords.get("worker_command", "")
        return command if isinstance(command, str) else " ".join(map(str, command))
    container = spec["spec"]["worker"]["spec"]["containers"][0]
    return " ".join(map(str, [*(container.get("command") or []), *(container.get("args") or [])]))
