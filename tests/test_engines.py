"""The ways to get workers: GPUs shared out, encryption, batch systems and Kubernetes as far as none is needed."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import psutil
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask_kubernetes.operator import make_cluster_spec

from pipeline.cluster import Engine, local_cluster, make_cluster, managed_cluster, remote_cluster, run_on_cluster
from pipeline.cluster_options import KINDS, ClusterError, TlsFiles, exposure_warning, plan_cluster
from tests.test_cluster import DEADLINE_SECONDS, dask_command, free_port

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
HERE_ONLY = ("--host", "127.0.0.1", "--no-dashboard")


def results_of(engine: Engine, items: list[int], resources: dict[str, float] | None = None) -> dict[int, Any]:
    engine.client.wait_for_workers(1, timeout=DEADLINE_SECONDS)
    waiting = iter(items)
    return {done.item: done.result for done in run_on_cluster(engine, abs, lambda: next(waiting, None), resources)}


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., str]:
    """Writes an options file, and returns its name."""

    def write(**sections: Any) -> str:
        path = tmp_path / "options.yaml"
        path.write_text(yaml.safe_dump(sections), encoding="utf-8")
        return str(path)

    return write


# GPUs of this machine


def visible_gpu() -> tuple[str | None, str, bool]:
    """Of this worker, of a process that it starts, and whether torch was there before."""
    code = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), child.stdout.strip(), "torch" in sys.modules


def number_of_gpus(dask_worker: Any) -> float | None:
    gpus: float | None = dask_worker.state.total_resources.get("GPU")
    return gpus


@pytest.mark.cluster
def test_gpus_are_shared_out_among_the_workers_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with local_cluster(3, gpus=("0", "GPU-b")) as engine:
        engine.client.wait_for_workers(3, timeout=DEADLINE_SECONDS)
        workers = engine.client.scheduler_info()["workers"]
        seen = engine.client.run(visible_gpu)
        assert engine.expected_threads == 3
        assert {workers[address]["name"]: gpu for address, gpu in seen.items()} == {
            0: ("0", "0", False),
            1: ("GPU-b", "GPU-b", False),
            2: ("0", "0", False),
        }
        assert list(engine.client.run(number_of_gpus).values()) == [1, 1, 1]
        assert results_of(engine, [-5, 6], {"GPU": 1}) == {-5: 5, 6: 6}


@pytest.mark.cluster
def test_without_gpus_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with local_cluster(1) as engine:
        engine.client.wait_for_workers(1, timeout=DEADLINE_SECONDS)
        ((mine, child, _),) = engine.client.run(visible_gpu).values()
        assert (mine, child) == ("7", "7")
        (worker,) = engine.client.scheduler_info()["workers"].values()
        assert (worker["nthreads"], worker["resources"], worker["memory_limit"]) == (1, {}, 0)


def what_dask_watches(dask_worker: Any) -> tuple[bool, bool, float]:
    """Whether it profiles what its threads do, and its event loop; and how often it looks whether that is late."""
    callbacks = dask_worker.periodic_callbacks
    return "profile" in callbacks, bool(dask_worker.io_loop.profile), callbacks["tick"].callback_time / 1000


@pytest.mark.cluster
def test_dask_does_not_watch_what_only_waits() -> None:
    with local_cluster(1) as engine:
        engine.client.wait_for_workers(1, timeout=DEADLINE_SECONDS)
        assert list(engine.client.run(what_dask_watches).values()) == [(False, False, 0.5)]
    assert dask.config.get("distributed.worker.profile.enabled"), "it is nobody else's business"


# TLS


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def make_tls_files(folder: Path) -> TlsFiles:
    """An authority of its own, and a certificate that it signed."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(name: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(common_name(f"authority of {folder.name}"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(yesterday)
            .not_valid_after(yesterday + timedelta(days=3))
        )

    authority = certificate(f"authority of {folder.name}", authority_key.public_key())
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = [
        builder.sign(authority_key, hashes.SHA256()) for builder in (authority, certificate("peer", key.public_key()))
    ]
    for name, made in zip(("ca.pem", "cert.pem"), signed, strict=True):
        (folder / name).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    locked = serialization.BestAvailableEncryption(b"secret")
    for name, encryption in (("key.pem", serialization.NoEncryption()), ("locked.pem", locked)):
        how = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        (folder / name).write_bytes(key.private_bytes(*how))
    return TlsFiles(*(str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls_files(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def tls_of_others(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls_files(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def encrypted_scheduler(tls: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a ``dask scheduler`` with one ``dask worker``, both as the docs say."""
    address = f"tls://127.0.0.1:{(port := free_port())}"
    files = ("--tls-ca-file", tls.ca_file, "--tls-cert", tls.cert, "--tls-key", tls.key)
    scratch = str(tmp_path_factory.mktemp("worker"))
    with (
        dask_command("scheduler", *HERE_ONLY, "--protocol", "tls", "--port", str(port), *files),
        dask_command("worker", address, *HERE_ONLY, "--nthreads", "1", *files, "--local-directory", scratch),
        remote_cluster(address, tls, DEADLINE_SECONDS) as engine,
    ):
        engine.client.wait_for_workers(1, timeout=DEADLINE_SECONDS)
        yield address


@pytest.mark.cluster
def test_an_encrypted_scheduler_works_for_who_has_the_files(encrypted_scheduler: str, tls: TlsFiles) -> None:
    with remote_cluster(encrypted_scheduler, tls, DEADLINE_SECONDS) as engine:
        assert results_of(engine, [-7]) == {-7: 7}
        assert engine.expected_threads == 0
        assert all(address.startswith("tls://127.0.0.1:") for address in engine.client.scheduler_info()["workers"])


@pytest.mark.cluster
def test_an_encrypted_scheduler_refuses_who_has_no_files(encrypted_scheduler: str) -> None:
    with pytest.raises(ClusterError, match=r"is encrypted: give --tls-ca-file, --tls-cert and --tls-key"):
        remote_cluster(encrypted_scheduler).__enter__()
    plain = encrypted_scheduler.replace("tls://", "tcp://")
    with pytest.raises(ClusterError, match=rf"no dask scheduler answers at {plain} .*one with TLS is at tls://"):
        remote_cluster(plain).__enter__()


@pytest.mark.cluster
def test_an_encrypted_scheduler_refuses_who_has_the_files_of_others(
    encrypted_scheduler: str, tls: TlsFiles, tls_of_others: TlsFiles
) -> None:
    with pytest.raises(ClusterError, match=r"certificate does not match.*signed by the same --tls-ca-file"):
        remote_cluster(encrypted_scheduler, tls_of_others).__enter__()
    intruder = TlsFiles(tls.ca_file, tls_of_others.cert, tls_of_others.key)
    with pytest.raises(ClusterError, match=rf"no dask scheduler answers at {encrypted_scheduler}"):
        remote_cluster(encrypted_scheduler, intruder, timeout_seconds=2).__enter__()


def test_files_are_for_encrypted_schedulers(tls: TlsFiles) -> None:
    with pytest.raises(ClusterError, match=r"TLS files are for .*tls://host:port, not for tcp://127.0.0.1:1"):
        remote_cluster("tcp://127.0.0.1:1", tls).__enter__()


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"ca_file": "missing.pem"}, r"--tls-ca-file .*missing.pem can't be read \(No such file"),
        ({"cert": "missing.pem"}, r"--tls-cert .*missing.pem can't be read"),
        ({"key": "."}, r"--tls-key .* can't be read \(Is a directory"),
        ({"ca_file": "key.pem"}, r"--tls-ca-file .*key.pem holds no certificate"),
        ({"ca_file": "empty.pem"}, r"--tls-ca-file .*empty.pem holds no certificate"),
        ({"cert": "key.pem"}, r"--tls-cert .*key.pem and --tls-key .* are no certificate and its key"),
        ({"cert": "ca.pem"}, r"are no certificate and its key.*mismatch"),
        ({"key": "locked.pem"}, r"--tls-key .*locked.pem .*without a passphrase"),
    ],
)
def test_bad_files_are_named(tls: TlsFiles, changed: dict[str, str], complaint: str) -> None:
    folder = Path(tls.ca_file).parent
    (folder / "empty.pem").touch()
    files = TlsFiles(**(vars(tls) | {key: str(folder / name) for key, name in changed.items()}))
    with pytest.raises(ClusterError, match=complaint):
        remote_cluster("tls://127.0.0.1:1", files).__enter__()


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.1.2.3:8786",
        "tcp://0.0.0.0:8786",
        "head-node:8786",
        "tcp://[fe80::1]:8786",
        "tcp://localhost.evil.org:1",
    ],
)
def test_a_scheduler_that_others_can_reach_is_warned_of(address: str) -> None:
    warning = exposure_warning(address) or ""
    for word in (address, "any code as you", "every worker", "--tls-ca-file", "ssh tunnel"):
        assert word in warning


@pytest.mark.parametrize(
    "address",
    [
        *("tcp://127.0.0.1:8786", "tcp://127.8.0.1:1", "tcp://[::1]:8786", "tcp://localhost:8786", "LOCALHOST:8786"),
        *("127.0.0.1:8786", "inproc://10.0.0.1/1/2", "tls://10.1.2.3:8786"),
    ],
)
def test_a_scheduler_that_nobody_else_can_use_is_not_warned_of(address: str) -> None:
    assert exposure_warning(address) is None


# Options files

JOB = {"cores": 2, "memory": "4GB", "processes": 2}


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"cluster": JOB}, r"how many workers\? Add 'scale: N' or 'adapt:', or give --workers N"),
        ({"cluster": JOB, "scale": 0}, r"'scale' is 0, expected a number of workers, 1 or more"),
        ({"cluster": JOB, "scale": "many"}, r"'scale' is 'many'"),
        ({"cluster": JOB, "scale": True}, r"'scale' is True"),
        ({"cluster": JOB, "scale": 1, "adapt": {"maximum": 3}}, r"'adapt' .* and so does 'scale'; leave one out"),
        ({"cluster": JOB, "adapt": {"minimum": 3}}, r"'adapt' has no upper bound; add 'adapt.maximum'"),
        ({"cluster": JOB, "adapt": {}}, r"'adapt' has no upper bound"),
        ({"cluster": JOB, "adapt": 3}, r"'adapt' is 3, expected some of minimum, maximum, minimum_jobs"),
        ({"cluster": JOB, "adapt": {"maximum": 1.5}}, r"'adapt.maximum' is 1.5, expected a whole number, 1 or more"),
        (
            {"cluster": JOB, "adapt": {"minimum": 4, "maximum": 3}},
            r"'adapt.minimum' is 4, more than 'adapt.maximum', 3",
        ),
        ({"cluster": JOB, "adapt": {"max": 3}}, r"'adapt.max' can't be set here; allowed: interval, maximum,"),
        ({"cluster": JOB, "scales": 1}, r"'scales' can't be set here; allowed: adapt, cluster, scale"),
        ({"cluster": [1], "scale": 1}, r"'cluster' is \[1\], expected options of SLURMCluster"),
        ({"cluster": {**JOB, "core": 1}, "scale": 1}, r"'cluster.core' can't be set here; allowed: account, "),
        ({"cluster": {**JOB, "n_workers": 1}, "scale": 1}, r"'cluster.n_workers' can't be set here"),
        (
            {"cluster": {**JOB, "security": "yes please"}, "scale": 1},
            r"'cluster.security' is 'yes please', expected true",
        ),
        (
            {"cluster": {**JOB, "scheduler_options": 1}, "scale": 1},
            r"'cluster.scheduler_options' is 1, expected options",
        ),
    ],
)
def test_what_is_wrong_in_an_options_file_is_named(
    options: Callable[..., str], sections: dict[str, Any], complaint: str
) -> None:
    path = options(**sections)
    with pytest.raises(ClusterError, match=complaint) as raised:
        plan_cluster("slurm", path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_file_that_is_no_options_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--cluster slurm needs --cluster-options FILE"):
        managed_cluster("slurm", None, 1).__enter__()
    with pytest.raises(ClusterError, match=r"missing.yaml can't be read \(No such file.*--cluster-options"):
        plan_cluster("slurm", str(tmp_path / "missing.yaml"), 1)
    for text, complaint in (("scale: [", "is not valid YAML"), ("- scale", "expected the sections"), ("", "got None")):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ClusterError, match=complaint):
            plan_cluster("slurm", str(tmp_path / "bad.yaml"), 1)
    (tmp_path / "bad.yaml").write_text("cluster: !!python/object/apply:os.getpid []", encoding="utf-8")
    with pytest.raises(ClusterError, match="is not valid YAML"):
        plan_cluster("slurm", str(tmp_path / "bad.yaml"), 1)


def test_the_command_line_chooses_over_scale_and_not_over_adapt(options: Callable[..., str]) -> None:
    assert plan_cluster("slurm", options(cluster=JOB, scale=4)).num_workers == 4
    assert plan_cluster("slurm", options(cluster=JOB, scale=4), 7).num_workers == 7
    assert plan_cluster("slurm", options(cluster=JOB), 7).num_workers == 7
    with pytest.raises(ClusterError, match=r"'adapt' chooses .*, and so does --workers"):
        plan_cluster("slurm", options(cluster=JOB, adapt={"maximum": 3}), 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named_with_what_installs_it(
    options: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for package in ("dask_jobqueue", "dask_kubernetes", "dask_kubernetes.operator", "dask_cuda"):
        monkeypatch.setitem(sys.modules, package, None)
    extra = kind if kind in ("kubernetes", "cuda") else "jobqueue"
    with pytest.raises(ClusterError, match=rf"--cluster {kind} needs .*pip install -e '\.\[{extra}\]'"):
        plan_cluster(kind, options(scale=1))


@pytest.mark.parametrize(
    ("command", "sections", "threads"),
    [
        ("worker --nthreads 3", {"scale": 4}, 12),
        ("worker --nthreads=3 --nthreads 1", {"scale": 4}, 4),
        ("worker --nthreads 1 --nworkers 4", {"scale": 5}, 8),
        ("worker --nthreads 1 --nworkers 4", {"adapt": {"maximum": 9}}, 12),
        ("worker --nthreads 2 --nworkers 4", {"adapt": {"maximum_jobs": 3}}, 24),
        ("worker --nthreads auto", {"scale": 4}, 0),
        ("worker", {"scale": 4}, 0),
    ],
)
def test_threads_to_be_expected_are_told_by_the_workers_command(
    options: Callable[..., str], command: str, sections: dict[str, Any], threads: int
) -> None:
    assert plan_cluster("slurm", options(cluster=JOB, **sections)).expected_threads(command) == threads


# Batch systems


def job_script(kind: str, path: str) -> str:
    plan = plan_cluster(kind, path)
    with make_cluster(plan) as cluster:
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:" if plan.keys_folder else "tcp://127.0.0.1:")
        return str(cluster.job_script())


def batch_options(folder: Path, **more: Any) -> dict[str, Any]:
    """A job of two workers, and a scheduler that only this machine reaches."""
    return {
        **JOB,
        "walltime": "01:00:00",
        "scheduler_options": {"host": "127.0.0.1"},
        "shared_temp_directory": str(folder),
        "worker_extra_args": ["--resources GPU=1"],
        **more,
    }


def flag(script: str, name: str) -> str:
    """What follows a flag of the worker's command."""
    words = script.split()
    return words[words.index(name) + 1]


@pytest.mark.parametrize(
    ("kind", "more", "directives"),
    [
        (
            "slurm",
            {"queue": "gpu"},
            ["#SBATCH -p gpu", "#SBATCH --cpus-per-task=2", "#SBATCH --mem=4G", "#SBATCH -t 01:"],
        ),
        ("pbs", {"queue": "gpu"}, ["#PBS -q gpu", "#PBS -l select=1:ncpus=2:mem=", "#PBS -l walltime=01:00:00"]),
        ("sge", {"queue": "gpu"}, ["#$ -q gpu", "#$ -l h_rt=01:00:00"]),
        ("lsf", {"queue": "gpu"}, ["#BSUB -q gpu", "#BSUB -n 2"]),
        ("oar", {"queue": "gpu", "memory_per_core_property_name": "memcore"}, ["#OAR -q gpu", "walltime=01:00:00"]),
        ("moab", {"queue": "gpu"}, ["#PBS -q gpu"]),
    ],
)
def test_the_script_of_a_job_says_what_the_options_say(
    options: Callable[..., str], tmp_path: Path, kind: str, more: dict[str, Any], directives: list[str]
) -> None:
    script = job_script(kind, options(cluster=batch_options(tmp_path, **more), scale=2))
    for directive in directives:
        assert directive in script
    assert f"{sys.executable} -m distributed.cli.dask_worker tls://127.0.0.1:" in script
    assert (flag(script, "--nthreads"), flag(script, "--nworkers"), flag(script, "--resources")) == ("1", "2", "GPU=1")
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False\n" in script
    for name in ("--tls-ca-file", "--tls-cert", "--tls-key"):
        assert Path(flag(script, name)).parent.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["options.yaml"], "the keys are gone with the cluster"


def test_the_script_for_htcondor_says_what_the_options_say(options: Callable[..., str], tmp_path: Path) -> None:
    cluster = {key: value for key, value in batch_options(tmp_path, disk="1GB").items() if key != "walltime"}
    script = job_script("htcondor", options(cluster=cluster, scale=2))
    assert "MY.DaskWorkerCores = 2" in script
    assert "--resources GPU=1" in script
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False; " in script


@pytest.mark.parametrize("name", ["job_script_prologue", "env_extra"])
def test_lines_of_ones_own_come_after_ours_in_the_script_of_a_job(
    options: Callable[..., str], tmp_path: Path, name: str
) -> None:
    own = ["module load ffmpeg", "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=True"]
    lines = job_script("slurm", options(cluster=batch_options(tmp_path, **{name: own}), scale=1)).splitlines()
    assert [line for line in lines if line.startswith(("export", "module"))] == [
        "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
        "export DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=500ms",
        *own,
    ]


def test_jobs_are_not_encrypted_where_it_cannot_be_or_must_not(
    options: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = job_script("slurm", options(cluster=batch_options(tmp_path, security=False), scale=1))
    assert "dask_worker tcp://127.0.0.1:" in script
    assert "--tls" not in script
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "--tls" not in job_script("slurm", options(cluster=batch_options(tmp_path), scale=1))
    with pytest.raises(ClusterError, match=r"'cluster.security: true' needs a package: pip install -e '\.\[tls\]'"):
        plan_cluster("slurm", options(cluster=batch_options(tmp_path, security=True), scale=1))


def test_the_dashboard_is_for_this_machine_unless_it_is_asked_for(options: Callable[..., str], tmp_path: Path) -> None:
    def scheduler_options(**more: Any) -> Any:
        return plan_cluster("pbs", options(cluster={**JOB, **more}, scale=1)).keywords["scheduler_options"]

    assert scheduler_options() == {"dashboard_address": "127.0.0.1:0"}
    assert scheduler_options(scheduler_options={"interface": "ib0"})["interface"] == "ib0"
    assert scheduler_options(scheduler_options={"dashboard_address": ":8787"}) == {"dashboard_address": ":8787"}


def test_what_dask_is_configured_to_counts_where_the_options_are_silent(
    options: Callable[..., str], tmp_path: Path
) -> None:
    with dask.config.set({"jobqueue.pbs.shared-temp-directory": "/my keys"}):
        with pytest.raises(ClusterError, match="job scripts can't name '/my keys', for its spaces"):
            managed_cluster("pbs", options(cluster=JOB, scale=1)).__enter__()
        plan = plan_cluster("pbs", options(cluster={**JOB, "shared_temp_directory": str(tmp_path)}, scale=1))
    assert plan.keys_folder == str(tmp_path)
    of_dask = {"jobqueue.other.scheduler_options": {"interface": "ib0"}}
    plan = plan_cluster("pbs", options(cluster={**JOB, "config_name": "other"}, scale=1), configured=of_dask.get)
    assert plan.keywords["scheduler_options"] == {"dashboard_address": "127.0.0.1:0", "interface": "ib0"}


@pytest.fixture
def batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts ``sbatch`` and ``scancel`` into the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def install(sbatch: str, scancel: str) -> None:
        for name, text in (("sbatch", sbatch), ("scancel", scancel)):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            (folder / name).chmod(stat.S_IRWXU)

    return install


@pytest.mark.cluster
def test_jobs_are_submitted_work_encrypted_and_are_cancelled(
    options: Callable[..., str], batch_system: Callable[[str, str], None], tmp_path: Path
) -> None:
    """With a batch system that starts each job on this machine at once."""
    batch_system(
        f'cp "$1" {tmp_path}/job.sh; setsid sh {tmp_path}/job.sh </dev/null >/dev/null 2>&1 & echo "Submitted job $!"',
        f'echo "$1" >>{tmp_path}/cancelled; kill -TERM -- "-$1"',
    )
    cluster = batch_options(
        tmp_path,
        worker_extra_args=["--resources GPU=1", *HERE_ONLY],
        local_directory=str(tmp_path),
    )
    with managed_cluster("slurm", options(cluster=cluster, scale=1)) as engine:
        assert engine.expected_threads == 2, "a job is two workers"
        engine.client.wait_for_workers(2, timeout=DEADLINE_SECONDS)
        assert results_of(engine, [-5, 6, -7], {"GPU": 1}) == {-5: 5, 6: 6, -7: 7}
        workers = engine.client.run(os.getpid)
        assert all(address.startswith("tls://127.0.0.1:") for address in workers)
        processes = [psutil.Process(pid) for pid in workers.values()]
        processes += [parent for process in processes for parent in process.parents()[:1]]
        (group,) = {os.getpgid(process.pid) for process in processes}
    assert (tmp_path / "cancelled").read_text() == f"{group}\n"
    _, alive = psutil.wait_procs(processes, DEADLINE_SECONDS)
    assert alive == []


def test_a_job_that_is_refused_is_a_clear_error_and_the_others_are_cancelled(
    options: Callable[..., str], batch_system: Callable[[str, str], None], tmp_path: Path
) -> None:
    refusal = "echo no more jobs for you >&2; exit 1"
    batch_system(
        f"if mkdir {tmp_path}/first 2>/dev/null; then echo Submitted job 41; else {refusal}; fi",
        f'echo "$1" >>{tmp_path}/cancelled',
    )
    path = options(cluster=batch_options(tmp_path), scale=4)
    with pytest.raises(
        ClusterError, match=r"options.yaml: SLURMCluster can't be started.*stderr: no more jobs for you"
    ):
        managed_cluster("slurm", path).__enter__()
    assert (tmp_path / "cancelled").read_text() == "41\n"


def test_a_machine_without_the_batch_system_is_a_clear_error(
    options: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="sbatch is not in the PATH; run this where jobs for slurm can be submitted"):
        managed_cluster("slurm", options(cluster=batch_options(tmp_path), scale=2)).__enter__()


@pytest.mark.filterwarnings("ignore:unclosed cluster:ResourceWarning")
@pytest.mark.parametrize(
    ("cluster", "complaint"),
    [
        ({"scheduler_options": {"host": "127.0.0.1"}}, r"You must specify how much cores and memory"),
        ({**JOB, "memory": "a lot"}, r"SLURMCluster can't be started so \(ValueError: Could not interpret"),
        ({**JOB, "worker_extra_args": "--resources GPU=1", "interface": "lo"}, r"SLURMCluster can't be started so"),
        ({**JOB, "interface": "nonsense0"}, r"nonsense0"),
    ],
)
def test_options_that_the_class_refuses_are_a_clear_error(
    options: Callable[..., str], tmp_path: Path, cluster: dict[str, Any], complaint: str
) -> None:
    path = options(cluster={**cluster, "shared_temp_directory": str(tmp_path)}, scale=1)
    with pytest.raises(ClusterError, match=complaint):
        managed_cluster("slurm", path).__enter__()
    assert [left.name for left in tmp_path.iterdir()] == ["options.yaml"]
    gc.collect()  # Here, where the warning is expected that what was never made was never closed.


@pytest.mark.cluster
def test_an_open_scheduler_of_a_batch_system_is_warned_of(
    options: Callable[..., str],
    batch_system: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    batch_system("echo Submitted job 1", "exit 0")
    monkeypatch.setattr("pipeline.cluster.exposure_warning", lambda address: f"{address} is open")
    path = options(cluster=batch_options(tmp_path, security=False), adapt={"maximum": 4})
    with caplog.at_level(logging.WARNING, "pipeline.cluster"), managed_cluster("slurm", path) as engine:
        assert engine.expected_threads == 4
    assert "tcp://127.0.0.1:" in caplog.text
    assert "'security: true' encrypts" in caplog.text


# Kubernetes


def test_pods_are_what_the_options_say(options: Callable[..., str]) -> None:
    command = ["dask", "worker", "--nthreads", "2"]
    path = options(cluster={"image": "example/faceclips:1", "worker_command": command, "env": {"A": "1"}}, scale=3)
    plan = plan_cluster("kubernetes", path)
    keywords = {key: plan.keywords[key] for key in ("image", "worker_command", "env", "n_workers")}
    worker = make_cluster_spec(name="test", **keywords)["spec"]["worker"]
    (container,) = worker["spec"]["containers"]
    assert (worker["replicas"], container["image"], container["env"]) == (
        3,
        "example/faceclips:1",
        [{"name": "A", "value": "1"}],
    )
    assert container["args"][:4] == command
    assert plan.expected_threads(" ".join(container["args"])) == 6
    assert plan.keywords["create_mode"].name == "CREATE_ONLY"


def test_adapting_pods_begin_with_the_fewest(options: Callable[..., str]) -> None:
    plan = plan_cluster("kubernetes", options(adapt={"minimum": 2, "maximum": 5}))
    assert plan.keywords["n_workers"] == 2
    assert plan.expected_threads("dask worker --nthreads 1") == 5
    with pytest.raises(ClusterError, match=r"'adapt.maximum_jobs' can't be set here; allowed: maximum, minimum"):
        plan_cluster("kubernetes", options(adapt={"maximum_jobs": 5}))
    with pytest.raises(ClusterError, match=r"'cluster.cores' can't be set here; allowed: .*custom_cluster_spec.*image"):
        plan_cluster("kubernetes", options(cluster={"cores": 1}, scale=1))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_spec_of_ones_own_gets_the_number_of_workers(
    options: Callable[..., str], tmp_path: Path, as_file: bool
) -> None:
    spec: Any = make_cluster_spec(name="own", worker_command=["dask", "worker", "--nthreads", "1"])
    if as_file:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        spec = str(tmp_path / "spec.yaml")
    plan = plan_cluster("kubernetes", options(cluster={"custom_cluster_spec": spec}, scale=3), 4)
    worker = plan.keywords["custom_cluster_spec"]["spec"]["worker"]
    assert worker["replicas"] == 4
    assert plan.expected_threads(" ".join(worker["spec"]["containers"][0]["args"])) == 4


@pytest.mark.parametrize("spec", ["missing.yaml", {"spec": {}}, {"spec": {"worker": {"spec": {"containers": []}}}}, 3])
def test_a_spec_that_is_none_is_named(options: Callable[..., str], spec: Any) -> None:
    with pytest.raises(ClusterError, match=r"'cluster.custom_cluster_spec' is no DaskCluster"):
        plan_cluster("kubernetes", options(cluster={"custom_cluster_spec": spec}, scale=1))


# GPUs by dask-cuda


@pytest.fixture
def dask_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name with nothing in it, since the real one installs only beside CUDA."""
    module = ModuleType("dask_cuda")
    module.LocalCUDACluster = type("LocalCUDACluster", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)


@pytest.mark.usefixtures("dask_cuda")
def test_a_worker_a_gpu_has_the_resource_that_tasks_ask_for(options: Callable[..., str]) -> None:
    plan = plan_cluster("cuda", options(cluster={"CUDA_VISIBLE_DEVICES": "0,1", "resources": {"GPU": 2}}, scale=2))
    assert plan.keywords == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "n_workers": 2,
        "threads_per_worker": 1,
        "resources": {"GPU": 2},
        "dashboard_address": "127.0.0.1:0",
    }
    with pytest.raises(ClusterError, match=r"'adapt' is not for the GPUs of one machine; use 'scale: N'"):
        plan_cluster("cuda", options(adapt={"maximum": 2}))


# The page


def examples() -> dict[str, str]:
    """Options files of the page by kind; each begins with its name."""
    blocks = [part.partition("```")[0] for part in PAGE.split("```yaml\n")[1:]]
    return {block.partition(".yaml")[0].removeprefix("# "): block for block in blocks}


@pytest.mark.usefixtures("dask_cuda")
@pytest.mark.parametrize("name", sorted(examples()))
def test_the_options_of_the_page_can_be_used(tmp_path: Path, name: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(examples()[name], encoding="utf-8")
    plan = plan_cluster(name.partition("-")[0], str(path))
    if "custom_cluster_spec" in plan.keywords:
        ours, theirs = plan.keywords["custom_cluster_spec"], make_cluster_spec(name="faceclips")
        assert ours.keys() == theirs.keys()
        assert ours["spec"].keys() <= theirs["spec"].keys()
        assert ours["spec"]["scheduler"]["service"] == theirs["spec"]["scheduler"]["service"]
    elif plan.keys_folder is not None:
        of_jobs = {key: value for key, value in plan.keywords.items() if key != "scheduler_options"}
        job = plan.make.job_cls("tls://127.0.0.1:1", name="test", **of_jobs)
        assert plan.expected_threads(job.job_script()) in (8, 64)


def test_the_page_has_options_for_every_family() -> None:
    assert {name.partition("-")[0] for name in examples()} >= {"slurm", "pbs", "kubernetes", "cuda"}
    assert all(kind in PAGE for kind in KINDS)
