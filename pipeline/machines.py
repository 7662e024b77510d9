"""Who does the work: flags about machines, which change no result, made into an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

from pipeline.attempts import Task
from pipeline.cluster import Engine, configured_plan, local_cluster, managed_cluster, remote_cluster, threads_per_worker
from pipeline.cluster_options import TlsFiles, exposure_warning
from pipeline.device import DecodeDevice, Device, check_decode_device, choose_device, visible_gpus
from pipeline.job import supervised, unsupervised
from pipeline.runs import Run
from pipeline.supervise import NO_LIMITS, Call, Limits
from pipeline.types import VideoOutcome


@dataclass(frozen=True)
class Machines:
    """What was asked for."""

    workers: int | None = None
    """Processes; 0: in this one; None: one a core or GPU, or as the cluster's options say."""
    scheduler: str | None = None
    """Address of a running dask scheduler."""
    cluster: str | None = None
    """Kind of cluster to start workers on."""
    cluster_options: str | None = None
    """YAML file for that."""
    tls: TlsFiles | None = None
    device: Device = "auto"
    decode_device: DecodeDevice = "cpu"
    limits: Limits = NO_LIMITS

    @property
    def is_here(self) -> bool:
        """Whether this machine alone does it."""
        return self.scheduler is None and self.cluster is None

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """CUDA devices of this machine that do the work; none if they don't, or aren't here.

        Raises:
            InputError: cuda was asked for and there is none.
        """
        if not self.is_here or self.device == "cpu":
            return ()
        return visible_gpus() if choose_device(self.device) == "cuda" else ()

    def num_workers(self, num_tasks: int) -> int:
        """Processes on this machine, at most one a task if it isn't said how many; 0: this one, or not known."""
        if self.workers is not None or not self.is_here:
            return self.workers or 0
        return max(1, min(len(self.gpus) or threads_per_worker(1), num_tasks))

    def engine(self, num_workers: int) -> AbstractContextManager[Engine | None]:
        """The workers, or None for in-process.

        Raises:
            ClusterError: while entering: they can't be had.
        """
        if self.scheduler is not None:
            return remote_cluster(self.scheduler, self.tls)
        if self.cluster is not None:
            return managed_cluster(self.cluster, self.cluster_options, self.workers)
        return local_cluster(num_workers, self.gpus) if num_workers else nullcontext()

    def check(self) -> None:
        """See whether a cluster's options and a GPU's decoder can be used, with nothing started.

        Raises:
            ClusterError: the options can't, or a package is missing.
            InputError: the decoder of this machine can't.
        """
        if self.is_here:
            check_decode_device(self.decode_device)
        if self.cluster is not None:
            configured_plan(self.cluster, self.cluster_options, self.workers)

    def warning(self) -> str | None:
        """What a careful administrator would say."""
        return exposure_warning(self.scheduler) if self.scheduler is not None else None

    def function(self, run: Run, call: Call, engine: Engine | None) -> Callable[[Task], list[VideoOutcome]]:
        """What is done with a task there: under supervision, unless it is in-process."""
        if engine is None:
            return partial(unsupervised, call=call)
        return partial(supervised, call=call, limits=self.limits, run=run)

    def num_threads(self, num_workers: int) -> int:
        """That a worker may use; what else runs on the machines of somebody's cluster is not known here."""
        return threads_per_worker(num_workers) if self.is_here else 1

    @property
    def resources(self) -> dict[str, float] | None:
        """What a task asks of a worker. A cluster's devices are not known here, but that they are asked for is."""
        needs_gpu = self.gpus if self.is_here else "cuda" in (self.device, self.decode_device)
        return {"GPU": 1} if needs_gpu else None

    def describe(self, num_workers: int) -> str:
        """For people."""
        if self.scheduler is not None:
            return f"the workers of {self.scheduler}"
        if self.cluster is not None:
            return f"workers on {self.cluster}"
        return f"{num_workers} worker processes" if num_workers else "this process"
