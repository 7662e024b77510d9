"""`dvc repro` on a project of its own, with a tiny sample: it survives kills, and does again only what it must."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from git import Repo

from benchmarks.dvc_reads import opened_by_dvc

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
DVC = str(Path(sys.executable).parent / "dvc")
PACKAGES = ("pipeline", "training", "inference")
STAGES = [
    "sample@easy", "index@train", "index@test", "extract@train", "extract@test", "train@mc3_18", "train@tiny",
    "predict@validation", "predict@test", "evaluate@validation",
]  # fmt: skip
TRAIN = {
    "input_size": 64, "clip_frames": 8, "split_seed": 1, "batch_size": 4, "precision": "none",
    "cutmix": {"probability": 0.0},
}  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """Everything in this process's environment, our Python first, and one process a command."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The sample's processes would otherwise import the checkout that is installed.
    machine = {"FACECLIPS_WORKERS": "0", "FACECLIPS_SAVE_MINUTES": "0", "OMP_NUM_THREADS": "1"}
    return os.environ | machine | {"PATH": path, "PYTHONPATH": ".", "PYTHONWARNINGS": "default"} | more


def dvc(project: Path, *arguments: str, **more: str) -> str:
    ran = subprocess.run(
        [DVC, *arguments], cwd=project, env=environment(**more), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)


def repro_until(project: Path, *sights: str) -> None:
    """Kill DVC, and all that it has started, as soon as it has shown these texts one after the other."""
    with subprocess.Popen(
        [DVC, "repro"], cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        shown = b""
        for sight in sights:
            while sight.encode() not in shown:
                byte = process.stdout.read(1)
                assert byte, shown.decode()
                shown += byte
            shown = b""
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.read()


def changed_stages(project: Path) -> set[str]:
    """Stages of which something they depend on, or have made, has changed."""
    return set(json.loads(dvc(project, "status", "--json").splitlines()[-1]))


@contextmanager
def changed_file(path: Path, text: str) -> Iterator[None]:
    before = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    yield
    path.write_text(before, encoding="utf-8")


@contextmanager
def changed_params(project: Path, section: str, change: Mapping[str, Any], file: str = "params.yaml") -> Iterator[None]:
    params = yaml.safe_load((project / file).read_text())
    with changed_file(project / file, yaml.safe_dump(params | {section: params[section] | change})):
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own ``dvc.yaml`` and code with less to do."""
    path = tmp_path_factory.mktemp("project")
    for name in (*PACKAGES, ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp")
        shutil.copytree(ROOT / name, path / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, path / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["sample"] = {"easy": {"seed": 0, "real": 4, "fake": 8, "seconds": 1.2}}
    params["models"] = {name: {"model": "mc3_18", "params": f"params/{name}.yaml"} for name in ("mc3_18", "tiny")}
    params["ensemble"] = {"run": ["mc3_18", "tiny"]}
    params["extract"]["videos_per_partition"] = 2
    params["crop"]["size"] = 64
    (path / "params.yaml").write_text(yaml.safe_dump(params))
    (path / "params").mkdir()
    for name, epochs in (("mc3_18", 2), ("tiny", 1)):
        (path / "params" / f"{name}.yaml").write_text(yaml.safe_dump({"train": TRAIN | {"epochs": epochs}}))
    Repo.init(path).close()
    return path


@pytest.fixture(scope="module")
def killed(project: Path) -> dict[str, Any]:
    """What was there after a kill in the middle of an extraction, and after one in the middle of a training."""
    repro_until(project, "Running stage 'extract@train'", "4/12")
    partitions = {path: path.stat().st_mtime_ns for path in (project / "data/store/videos").glob("part-*")}
    repro_until(project, "Running stage 'train@mc3_18'", "epoch 1: train loss")
    steps = (project / "runs/mc3_18/steps.csv").read_text().splitlines()
    return {"partitions": partitions, "steps": steps}


@pytest.fixture(scope="module")
def finished(project: Path, killed: dict[str, Any]) -> str:
    """What `dvc repro` printed that ran to the end."""
    assert killed
    return dvc(project, "repro")


def test_a_kill_in_the_middle_of_an_extraction_costs_no_partition(
    project: Path, killed: dict[str, Any], finished: str
) -> None:
    assert 2 <= len(killed["partitions"]) < 6
    assert {path: path.stat().st_mtime_ns for path in killed["partitions"]} == killed["partitions"]
    assert len([*(project / "data/store/videos").glob("part-*")]) == 6


def test_a_kill_in_the_middle_of_a_training_costs_no_epoch(
    project: Path, killed: dict[str, Any], finished: str
) -> None:
    assert sorted(stages_run(finished)) == sorted(STAGES[STAGES.index("train@mc3_18") :])
    assert re.search(r"2 epochs of (\d+) batches, \1 batches are done", finished)
    steps = (project / "runs/mc3_18/steps.csv").read_text().splitlines()
    num_batches = (len(steps) - 1) // 2
    assert steps[: num_batches + 1] == killed["steps"][: num_batches + 1]


def test_everything_is_there_in_the_end(project: Path, finished: str) -> None:
    for name in ("validation", "test"):
        assert (project / "results" / name / "scores.parquet").is_file()
    with (project / "results/test/submission.csv").open(newline="") as file:
        rows = [row["filename"] for row in csv.DictReader(file)]
    with (project / "data/sample/sample_submission.csv").open(newline="") as file:
        assert rows == [row["filename"] for row in csv.DictReader(file)]
    metrics = json.loads(dvc(project, "metrics", "show", "--json"))[""]["data"]
    assert metrics["results/validation/evaluation/metrics.json"]["data"]["ensemble"]["log_loss"] > 0
    assert metrics["runs/tiny/metrics.json"]["data"]["best"]["log_loss"] > 0
    dvc(project, "plots", "show", "--out", "plots")
    page = (project / "plots" / "index.html").read_text()
    for name in ("roc_csv", "precision_recall_csv", "reliability_csv", "histogram_csv", "history_csv", "roc.png"):
        assert name in page, name


def test_nobody_who_validates_was_trained_on(project: Path, finished: str) -> None:
    (trained,) = re.findall(r"train: .* in (\d) groups", finished.split("train@tiny")[1])
    with (project / "data/sample/labels.csv").open(newline="") as file:
        groups = {row["path"]: row["group"] for row in csv.DictReader(file)}
    with (project / "results/validation/submission.csv").open(newline="") as file:
        held_out = {groups[row["filename"]] for row in csv.DictReader(file)}
    assert len(held_out) + int(trained) == len(set(groups.values()))


def test_a_second_time_there_is_nothing_to_do(project: Path, finished: str) -> None:
    assert "Data and pipelines are up to date" in dvc(project, "repro")


def test_facts_about_machines_change_nothing(project: Path, finished: str) -> None:
    machine = {"FACECLIPS_WORKERS": "2", "FACECLIPS_DEVICE": "cpu", "FACECLIPS_BATCH_MEGAPIXELS": "1"}
    assert "Data and pipelines are up to date" in dvc(project, "repro", **machine)


def test_dvc_opens_no_file_of_frames(project: Path, finished: str) -> None:
    opened = opened_by_dvc(project)
    store = project / "data" / "store"
    assert {path.relative_to(store).parts[0] for path in opened if path.is_relative_to(store)} == {
        "store.json", "tracks", "videos",
    }  # fmt: skip
    assert not [path for path in opened if path.suffix == ".safetensors" and path.name != "best.safetensors"]
    assert not [*(project / ".dvc" / "cache").rglob("*.zarr")]


@pytest.mark.parametrize(
    ("package", "first"),
    [("pipeline", "sample@easy"), ("training", "train@mc3_18"), ("inference", "predict@validation")],
)
def test_changed_code_of_a_package_does_again_what_depends_on_it(
    project: Path, finished: str, package: str, first: str
) -> None:
    module = project / package / "__init__.py"
    with changed_file(module, f"{module.read_text()}\n# Another line.\n"):
        assert changed_stages(project) == set(STAGES[STAGES.index(first) :])
    assert changed_stages(project) == set()


def test_another_aggregation_scores_nothing_again(project: Path, finished: str) -> None:
    with changed_params(project, "aggregate", {"models": "median"}):
        output = dvc(project, "repro", "predict@test")
    assert "predict@test" in stages_run(output)
    (before,) = re.findall(r"^(\d+) windows were scored before", output.split("predict@test")[1], re.MULTILINE)
    assert f"{before} windows scored, 0 failed; 0 s" in output.split("predict@test")[1]


def test_other_settings_of_the_extraction_are_refused_with_the_remedy(project: Path, finished: str) -> None:
    with changed_params(project, "crop", {"size": 72}):
        ran = subprocess.run(
            [DVC, "repro", "extract@train"], cwd=project, env=environment(), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    assert ran.returncode != 0
    assert "crop.size: store 64, now 72" in ran.stderr
    assert (project / "data/store/store.json").is_file()


def test_another_training_leaves_the_extraction_alone(project: Path, finished: str) -> None:
    # The last of those that share the project: it leaves another run behind.
    with changed_params(project, "train", {"seed": 1}, "params/tiny.yaml"):
        output = dvc(project, "repro")
        assert sorted(stages_run(output)) == sorted(STAGES[STAGES.index("train@tiny") :])
        assert "begun anew" in output
        # Of the ensemble only the model that is another one is scored again.
        assert re.search(r"^(\d+) windows were scored before\n\1 scores of other", output, re.MULTILINE)


def test_nothing_is_sent_anywhere() -> None:
    config = (ROOT / ".dvc" / "config").read_text()
    assert re.search(r"^\s*analytics = false$", config, re.MULTILINE)
    assert re.search(r"^\s*check_update = false$", config, re.MULTILINE)


def test_the_lock_belongs_to_the_pipeline() -> None:
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    assert set(lock["stages"]) == {name.replace("tiny", "r2plus1d_18") for name in STAGES}
