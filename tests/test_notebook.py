"""The notebook runs on a real store, says what is missing, and is kept without outputs; its page is made of it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from notebooks import render
from pipeline import viz
from pipeline.config import Settings
from tests.families import family, make_family, process
from tests.scored import write_scores
from tests.videos import moving_square

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "inspect_clips.ipynb"
PAGE = ROOT / "docs" / "inspect-clips.md"
MAX_PICTURES_BYTES = 1_200_000

Cells = dict[str, dict[str, Any]]


def cells_of(path: Path) -> Cells:
    """By their names."""
    return {cell["id"]: cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def copied(folder: Path, without: Sequence[str] = ()) -> Path:
    """The notebook in another folder, without some of its cells."""
    folder.mkdir(exist_ok=True)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["id"] not in without]
    (folder / NOTEBOOK.name).write_text(json.dumps(notebook), encoding="utf-8")
    return folder / NOTEBOOK.name


def execute(notebook: Path, **places: str) -> subprocess.CompletedProcess[str]:
    """With pytest and nbmake, as in the notebook's own folder; its outputs stay in the file."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACECLIPS_")}
    # Nothing of the user's own configuration, and the code of this checkout.
    own = {
        name: str(notebook.parent / ".jupyter") for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", "-q", "-p", "no:cacheprovider", str(notebook)],
        cwd=notebook.parent,
        env=environment | own | {"PYTHONPATH": str(ROOT)} | places,
        capture_output=True,
        text=True,
        check=False,
    )


def shown(cell: dict[str, Any]) -> dict[str, str]:
    """What a cell shows, by kind; texts it printed are ``text``."""
    found: dict[str, str] = {}
    for output in cell["outputs"]:
        found |= {kind: "".join(content) for kind, content in output.get("data", {}).items()}
        found |= {"text": "".join(output["text"])} if "text" in output else {}
    return found


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of real faces, scores of it, and its videos elsewhere than where they were extracted."""
    folder = tmp_path_factory.mktemp("project")
    videos = folder / "extracted"
    videos.mkdir()
    original, fakes, sources = family(make_family(videos), "left.mp4", "right.mp4")
    done = process(folder / "data" / "store", [original, *fakes], sources=sources)
    assert done.paired == {"left.mp4", "right.mp4"}
    write_scores(folder / "scores.parquet", done.store)
    videos.rename(folder / "videos")
    return folder


@pytest.fixture(scope="module")
def executed(project: Path) -> Cells:
    copy = copied(project / "notebooks")
    before = files_below(project / "data")
    ran = execute(
        copy, FACECLIPS_STORE="data/store", FACECLIPS_VIDEOS="videos", FACECLIPS_SCORES="scores.parquet"
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert files_below(project / "data") == before
    assert {path.name for path in copy.parent.iterdir()} == {NOTEBOOK.name, ".jupyter"}
    return cells_of(copy)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["film-strip", "boxes", "track-over-time", "pair", "cutmix", "scores"])
def test_it_draws(executed: Cells, name: str) -> None:
    picture = Image.open(io.BytesIO(base64.b64decode(shown(executed[name])["image/png"])))
    assert 400 < picture.width <= 1000


@pytest.mark.slow
def test_it_shows_the_clip_as_a_video_and_the_store_with_faces(executed: Cells) -> None:
    assert "data:video/mp4;base64," in shown(executed["video"])["text/html"]
    assert "../data/store" in shown(executed["store"])["text/html"]
    for name in ("store", "track"):
        assert "data:image/jpeg;base64," in shown(executed[name])["text/html"]
    assert "left.mp4" in shown(executed["tracks"])["text/html"]
    assert shown(executed["frames"])["text/plain"] == "((40, 32, 32, 3), dtype('uint8'))"


@pytest.mark.slow
def test_what_is_missing_is_skipped_and_said(project: Path) -> None:
    # In the project's folder, where there is a pipeline/.
    (project / "pipeline").mkdir()
    copy = copied(project, without=("batch", "cutmix"))
    ran = execute(copy, FACECLIPS_VIDEOS="nowhere", FACECLIPS_SCORES="nowhere.parquet")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    cells = cells_of(copy)
    assert "left.mp4 is not below nowhere; name its folder with FACECLIPS_VIDEOS" in shown(cells["boxes"])["text"]
    assert "there are no scores in nowhere.parquet" in shown(cells["scores"])["text"]
    assert "image/png" in shown(cells["pair"])


@pytest.mark.slow
def test_without_a_store_it_says_which_command_makes_one(tmp_path: Path) -> None:
    copy = copied(tmp_path / "notebooks")
    ran = execute(copy)
    assert ran.returncode == 1
    (error,) = (output for output in cells_of(copy)["store"]["outputs"] if output["output_type"] == "error")
    assert error["ename"] == "SystemExit"
    for said in (
        "../data/store is no face-clip store",
        "make demo",
        "pipeline.extract VIDEOS STORE",
        "FACECLIPS_STORE",
    ):
        assert said in error["evalue"]


def test_it_is_kept_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not cell["metadata"]
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    nbformat.validate(nbformat.from_dict(notebook))  # type: ignore[no-untyped-call]
    stripped = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--keep-id", "--verify", str(NOTEBOOK)], capture_output=True, check=False
    )
    assert stripped.returncode == 0, stripped.stdout


def test_its_page_is_made_of_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    at = 0
    for cell in cells_of(NOTEBOOK).values():
        at = page.find(source(cell), at)
        assert at >= 0, f"docs/inspect-clips.md lacks cell {cell['id']}; run make notebook"
    assert "skipped:" not in re.sub(r"```python\n.*?```", "", page, flags=re.DOTALL)


def test_its_page_has_its_pictures_and_names_no_place_of_a_machine() -> None:
    page = PAGE.read_text(encoding="utf-8")
    folder = PAGE.parent / render.PICTURES
    named = re.findall(rf"{render.PICTURES}/([\w.-]+)", page)
    assert sorted(named) == sorted(path.name for path in folder.iterdir())
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_PICTURES_BYTES
    assert {name.partition(".")[0] for name in named} == {
        "store", "track", "film-strip", "video", "boxes", "track-over-time", "pair", "cutmix", "scores",
    }  # fmt: skip
    assert not re.search(r"base64|<style|<video|[\s\"'`>(]/(tmp|home|work|root|Users)/", page)


def test_a_page_is_made_of_outputs() -> None:
    rng = np.random.default_rng(0)
    photo = viz.film_strip(rng.integers(0, 256, (4, 32, 32, 3), np.uint8)).to_png()
    chart = viz.track_over_time([0, 1], [[0, 0, 9, 9]] * 2, [1, 1], [True, True]).to_png()
    video = viz.video_html(np.stack(list(moving_square(6, 64, 64))), 30)._repr_html_()
    cells = [
        _cell("a-photo", {"image/png": base64.b64encode(photo).decode()}),
        _cell("chart", {"image/png": base64.b64encode(chart).decode()}),
        _cell("clip", {"text/html": f"<style>p {{}}</style><p>{video}</p>"}),
    ]
    text, pictures = render.page_of(nbformat.v4.new_notebook(cells=cells))  # type: ignore[no-untyped-call]
    assert "![a photo](images/inspect-clips/a-photo.1.jpg)" in text
    assert "![chart](images/inspect-clips/chart.1.png)" in text
    assert '<img src="images/inspect-clips/clip.1.webp"' in text
    assert "<style" not in text
    assert "<video" not in text
    assert sorted(pictures) == ["a-photo.1.jpg", "chart.1.png", "clip.1.webp"]
    moving = Image.open(io.BytesIO(pictures["clip.1.webp"]))
    assert (moving.size, getattr(moving, "n_frames", 0)) == ((192, 192), 3)


def _cell(name: str, data: dict[str, str]) -> Any:
    cell = nbformat.v4.new_code_cell(name)  # type: ignore[no-untyped-call]
    cell.id = name
    cell.outputs = [nbformat.v4.new_output("display_data", data)]  # type: ignore[no-untyped-call]
    return cell


def test_the_page_shows_a_store_of_the_defaults() -> None:
    """After a change of these: `make demo notebook`."""
    assert Settings().fingerprint() in PAGE.read_text(encoding="utf-8")
