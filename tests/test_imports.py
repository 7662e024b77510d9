"""Who may import whom. The directions are what keeps each room of the house small enough to be understood alone."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "training", "inference")
COMMANDS = frozenset(
    {
        "pipeline.index",
        "pipeline.extract",
        "pipeline.sample",
        "pipeline.report",
        "training.train",
        "inference.predict",
        "inference.evaluate",
    }
)
SHARED = ("store", "files", "types", "errors", "settings", "cli", "nearest", "device", "versions")
"""Modules of the pipeline that every stage speaks: the store, its vocabulary, and how commands are given and fail."""
FOREIGN: Mapping[str, frozenset[str]] = {
    "pipeline": frozenset(),
    "training": frozenset(f"pipeline.{name}" for name in SHARED),
    "inference": frozenset(
        [
            *(f"pipeline.{name}" for name in SHARED),
            *(f"training.{name}" for name in ("models", "dataset", "checkpoint", "split", "metrics")),
        ]
    ),
}
"""What a package may import of the others."""
SOLE_IMPORTER: Mapping[str, str] = {
    "facenet_pytorch": "pipeline.detect",
    "dask": "pipeline.cluster",
    "distributed": "pipeline.cluster",
    "dask_jobqueue": "pipeline.cluster_options",
    "dask_kubernetes": "pipeline.cluster_options",
    "dask_cuda": "pipeline.cluster_options",
    "jinja2": "pipeline.reporting.page",
}
LIGHT = ("store", "store_track", "files", "schema", "writer", "upkeep")
"""Modules of the pipeline that a reader of a store needs, who may have neither torch nor dask."""


def sources(root: Path) -> dict[str, ast.Module]:
    """Parsed modules by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(module: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    """Dotted names of all modules imported anywhere in a module, also inside functions."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in known else base
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "import_lean":
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def broken_rules(root: Path) -> list[str]:
    """One sentence for each import that isn't allowed."""
    modules = sources(root)
    broken = []
    for importer, module in modules.items():
        package = importer.partition(".")[0]
        for name in imported(module, modules):
            top = name.partition(".")[0]
            if name.startswith("."):
                broken.append(f"{importer} imports relatively: {name}")
            if name in COMMANDS:
                broken.append(f"{importer} imports the command {name}")
            if top in PACKAGES and top != package and not any(is_within(name, m) for m in FOREIGN[package]):
                broken.append(f"{importer} imports {name} of another package")
            if top in SOLE_IMPORTER and SOLE_IMPORTER[top] != importer:
                broken.append(f"{importer} imports {name}, which is for {SOLE_IMPORTER[top]} alone")
        if importer != "pipeline.decode" and uses_video_capture(module):
            broken.append(f"{importer} uses VideoCapture, which is for pipeline.decode alone")
    return broken


def uses_video_capture(module: ast.Module) -> bool:
    names = (
        node.attr if isinstance(node, ast.Attribute) else node.name if isinstance(node, ast.alias) else ""
        for node in ast.walk(module)
    )
    return "VideoCapture" in names


def test_every_import_goes_in_an_allowed_direction() -> None:
    assert broken_rules(ROOT) == []


def test_what_only_one_module_may_know_that_module_does_know() -> None:
    modules = sources(ROOT)
    assert uses_video_capture(modules["pipeline.decode"])
    assert "facenet_pytorch" in imported(modules["pipeline.detect"], modules)
    assert {"dask", "distributed"} <= set(imported(modules["pipeline.cluster"], modules))


@pytest.mark.parametrize(
    ("path", "code", "complaint"),
    [
        ("pipeline/a.py", "import cv2\nreader = cv2.VideoCapture('a.mp4')", "uses VideoCapture"),
        ("pipeline/a.py", "from cv2 import VideoCapture as Reader", "uses VideoCapture"),
        ("pipeline/a.py", "def f():\n    from facenet_pytorch import MTCNN", "for pipeline.detect alone"),
        ("pipeline/a.py", "MTCNN = import_lean('facenet_pytorch').MTCNN", "for pipeline.detect alone"),
        ("training/a.py", "import distributed.scheduler", "for pipeline.cluster alone"),
        ("pipeline/a.py", "from pipeline.extract import main", "the command pipeline.extract"),
        ("pipeline/a.py", "from pipeline import extract", "the command pipeline.extract"),
        ("pipeline/a.py", "from . import extract", "imports relatively"),
        ("pipeline/a.py", "import training.dataset", "training.dataset of another package"),
        ("training/a.py", "from pipeline.writer import StoreWriteError", "pipeline.writer of another package"),
        ("training/a.py", "from pipeline.stores import x", "pipeline.stores of another package"),
        ("training/a.py", "import inference", "inference of another package"),
        ("inference/a.py", "from training.cutmix import mix", "training.cutmix of another package"),
        ("inference/a.py", "from training import train", "the command training.train"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, code: str, complaint: str) -> None:
    for name in ("pipeline/extract.py", "training/train.py", path):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / path).write_text(code, encoding="utf-8")
    assert any(complaint in broken for broken in broken_rules(tmp_path))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("pipeline/detect.py", "from facenet_pytorch import MTCNN"),
        ("training/a.py", "from pipeline.store import FaceStore\nfrom pipeline import types\nimport torch"),
        ("inference/a.py", "from training.models.i3d import I3D\nfrom training.checkpoint import load"),
    ],
)
def test_a_right_import_is_let_through(tmp_path: Path, path: str, code: str) -> None:
    for name in ("pipeline/types.py", path):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / path).write_text(code, encoding="utf-8")
    assert broken_rules(tmp_path) == []


def test_a_store_is_read_without_torch_and_without_dask() -> None:
    """Asked of a fresh interpreter, with everything that the modules import inside functions too."""
    modules = sources(ROOT)
    needed = {f"pipeline.{name}" for name in LIGHT}
    while more := {name for of in needed for name in imported(modules[of], modules) if name in modules} - needed:
        needed |= more
    code = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(json.dumps([*sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code, *sorted(needed)], cwd=ROOT, capture_output=True, check=True)
    loaded = set(json.loads(result.stdout))
    assert needed <= loaded
    assert loaded.isdisjoint({"torch", "torchvision", "facenet_pytorch", "dask", "distributed"})
