"""Flags about machines: who does the work, with how many threads, on which device."""

from __future__ import annotations

import pytest

from pipeline import machines
from pipeline.cluster import threads_per_worker
from pipeline.machines import Machines


def test_there_is_a_worker_a_core_but_no_more_than_families_and_at_least_one() -> None:
    here = Machines(device="cpu")
    assert here.num_workers(10**6) == threads_per_worker(1)
    assert here.num_workers(1) == 1
    assert here.num_workers(0) == 1
    assert Machines(workers=7, device="cpu").num_workers(1) == 7
    assert Machines(workers=0, device="cpu").num_workers(100) == 0


def test_what_a_cluster_has_is_not_known_here() -> None:
    there = Machines(scheduler="tcp://10.0.0.5:8786", device="cuda")
    assert (there.gpus, there.num_workers(100), there.num_threads(0)) == ((), 0, 1)
    assert there.resources == {"GPU": 1}
    assert Machines(cluster="slurm", device="auto").resources is None
    assert Machines(cluster="slurm", device="cpu", decode_device="cuda").resources == {"GPU": 1}
    Machines(scheduler="tcp://10.0.0.5:8786", decode_device="cuda").check()


def test_workers_on_this_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "choose_device", lambda _device: "cuda")
    monkeypatch.setattr(machines, "visible_gpus", lambda: ("2", "5"))
    here = Machines(device="auto")
    assert (here.gpus, here.num_workers(100), here.resources) == (("2", "5"), 2, {"GPU": 1})
    assert Machines(device="cpu").gpus == ()
    assert Machines(device="cpu").resources is None


def test_an_open_scheduler_is_warned_about_and_one_on_this_machine_is_not() -> None:
    assert "any code" in str(Machines(scheduler="tcp://10.0.0.5:8786").warning())
    assert Machines(scheduler="tcp://127.0.0.1:8786").warning() is None
    assert Machines().warning() is None
