"""The README and the pages of docs/ are true: their commands exist, the short ones run, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from pipeline.store import FaceStore
from tests.faces import Face, face_video
from tests.scored import write_scores

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
README = PAGES[0].read_text(encoding="utf-8")


class Block(NamedTuple):
    """What is between two lines of three backticks."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]


def command_lines(page: str) -> Iterator[list[str]]:
    """What a reader would type, in words, without the comments."""
    for language, text in blocks(page):
        if language == "":
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(r"(\S+=\S+ )*(\.venv/bin/|make |python )", line):
                    yield shlex.split(line, comments=True)


def modules_called(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each ``python -m MODULE ARGUMENTS`` of the project's packages."""
    for words in command_lines(page):
        if "-m" in words:
            module, *arguments = words[words.index("-m") + 1 :]
            if module.partition(".")[0] in {"pipeline", "training", "inference", "benchmarks"}:
                yield module, arguments


CALLS = [(path.name, module, arguments) for path in PAGES for module, arguments in modules_called(path.read_text())]


def click_command(module: str) -> click.Command:
    loaded = importlib.import_module("pipeline.__main__" if module == "pipeline" else module)
    command = loaded._commands() if module == "pipeline.store" else loaded.main
    assert isinstance(command, click.Command)
    return command


def parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """As far as reading the command line goes.

    Raises:
        click.UsageError: an option, an argument or a command that there isn't.
    """
    with command.make_context(name, list(arguments)) as context:
        if isinstance(command, click.Group) and context._protected_args:
            called, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert below is not None
            parse(below, str(called), rest)


def test_there_are_commands_to_look_at() -> None:
    assert len([call for call in CALLS if call[0] == "README.md"]) >= 12
    assert {module for _, module, _ in CALLS} >= {"pipeline.extract", "training.train", "inference.predict"}


@pytest.mark.parametrize(("page", "module", "arguments"), CALLS, ids=[" ".join([c[0], c[1], *c[2]]) for c in CALLS])
def test_every_command_has_the_options_it_is_shown_with(page: str, module: str, arguments: list[str]) -> None:
    # [--resume] is --resume, or nothing; ... is more of the same.
    parse(click_command(module), module, [word.strip("[]") for word in arguments if word != "..."])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"\b[A-Z]+_(?:TABLE|MINUTES|SECONDS)\b|\bTODO\b|\bTBD\b", page.read_text(encoding="utf-8")) == []


def test_every_benchmark_that_is_named_exists() -> None:
    named = {name for path in PAGES for name in re.findall(r"\bbenchmarks\.([a-z_]+)\b", path.read_text())} - {"md"}
    assert named
    assert [name for name in sorted(named) if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in PAGES for name in re.findall(r"`make ([a-z-]+)", path.read_text())}
    named |= {words[1] for words in command_lines(README) if words[0] == "make"}
    assert {"test", "demo"} <= named
    assert named <= targets


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


# What runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo has been, but smaller: a video, its store, and scores of it."""
    path = tmp_path_factory.mktemp("readme")
    (path / "VIDEOS").mkdir()
    face = Face("hopper", side=150, start=(40, 30), speed=(0.2, 0.2))
    face_video(path / "VIDEOS" / "one.mp4", 45, (face,), 320, 240)
    return path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.cluster
def test_the_short_commands_of_the_readme_run_one_after_the_other(folder: Path) -> None:
    calls = list(modules_called(README))
    extract = next(arguments for module, arguments in calls if module == "pipeline.extract")
    assert extract == ["VIDEOS", "STORE"]
    extracted = run(folder, "-m", "pipeline.extract", *extract)
    assert extracted.returncode == 0, extracted.stderr
    assert re.search(r"^ok +1 +1 +45 ", extracted.stdout, re.MULTILINE)

    (folder / "data").mkdir()
    (folder / "STORE").rename(folder / "data" / "store")
    scores = folder / "results" / "validation" / "scores.parquet"
    scores.parent.mkdir(parents=True)
    write_scores(scores, FaceStore.open(str(folder / "data" / "store")))

    short = [call for call in calls if call[0] in {"pipeline", "pipeline.index", "pipeline.report", "pipeline.store"}]
    assert {module for module, _ in short} == {"pipeline", "pipeline.report", "pipeline.store"}
    for module, arguments in short:
        ran = run(folder, "-m", module, *arguments)
        assert ran.returncode == 0, (module, arguments, ran.stderr)
    assert "<!doctype html>" in (folder / "data" / "report.html").read_text(encoding="utf-8")[:200].lower()

    for number, (language, code) in enumerate(blocks(README)):
        if language == "python":
            # The first video of this store has no label; that of the demo has.
            ran = run(folder, "-c", code.replace('pc.field("label") == 1', 'pc.field("label").is_null()'))
            assert ran.returncode == 0, (number, ran.stderr)
    assert (folder / "data" / "strip.png").stat().st_size > 1000
