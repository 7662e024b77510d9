"""How commands are found, helped with and completed, from the front door to each of them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, CompletionItem
from click.testing import CliRunner, Result

from inference.checkpoints import find_checkpoints
from pipeline.__main__ import COMMANDS, STAGES, Entry, main
from pipeline.errors import InputError
from pipeline.store import FaceStore
from tests import test_imports
from tests.stores import small_store
from tests.videos import moving_square, write_video
from training.models import model_names

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="faceclips")


# Finding


def test_the_list_of_commands_is_whole() -> None:
    assert {entry.module for entry in COMMANDS.values()} == test_imports.COMMANDS | {"pipeline.store"}
    assert {entry.module.partition(".")[0] for entry in COMMANDS.values()} == set(test_imports.PACKAGES)


def test_commands_are_listed_by_stage_with_a_line_each() -> None:
    output = run("--help").output
    for title, entries in STAGES.items():
        listed = output.split(f"{title}:\n", 1)[1].split("\n\n", 1)[0].splitlines()
        assert [re.split(r"  +", line.strip(), maxsplit=1) for line in listed] == [
            [name, entry.summary] for name, entry in entries.items()
        ]


def modules_after(*arguments: str) -> set[str]:
    """What a fresh interpreter has imported once the front door has done something."""
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from pipeline.__main__ import main\n"
        "result = CliRunner().invoke(main, sys.argv[1:])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(json.dumps([*sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, check=True)
    return set(json.loads(ran.stdout))


def test_the_list_is_shown_without_loading_a_command() -> None:
    loaded = modules_after("--help")
    assert loaded.isdisjoint({"torch", "dask", "distributed", "cv2", "numpy", "pyarrow"})
    assert loaded.isdisjoint(entry.module for entry in COMMANDS.values())


def test_the_help_of_an_extraction_does_not_wait_for_torch() -> None:
    loaded = modules_after("extract", "--help")
    assert "pipeline.extract" in loaded
    assert loaded.isdisjoint({"torch", "cv2", "training", "inference"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("extrct", "No such command 'extrct'. Did you mean 'extract'?"),
        ("pipeline.extract", "No such command 'pipeline.extract'. Did you mean 'extract'?"),
        ("submit", "No such command 'submit'.\n"),
        ("--verbos", "No such option '--verbos'."),
    ],
)
def test_a_mistyped_command_is_bad_usage(name: str, message: str) -> None:
    result = run(name)
    assert result.exit_code == 2
    assert message in result.output


def test_a_command_does_what_its_module_does(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    results = [
        CliRunner().invoke(command, [*words, str(tmp_path), str(tmp_path / "out.parquet")])
        for command, words in ((main, ["index"]), (COMMANDS["index"].load(), []))
    ]
    assert results[0].exit_code == results[1].exit_code == 0
    assert results[0].output == results[1].output
    assert "videos: 1" in results[0].output


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipeline.index", None)
    result = run("index", "videos", "out.parquet")
    assert result.exit_code == 1
    assert "python -m pipeline.index can't be loaded (ModuleNotFoundError: " in result.output
    assert "Traceback" not in result.output


def test_an_interrupt_while_a_command_is_loaded_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert run("train").exit_code == 130


def test_the_script_is_the_front_door() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"faceclips": "pipeline.__main__:main"}


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("way", ["module", "script"])
def test_worker_processes_start_whichever_way_the_command_came(tmp_path: Path, way: str) -> None:
    """Processes that are spawned import what was run as ``__main__`` once more."""
    script = tmp_path / "faceclips"
    script.write_text(
        "import sys\nfrom pipeline.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    write_video(tmp_path / "a.mp4", moving_square(12))
    command = [sys.executable, *(["-m", "pipeline"] if way == "module" else [str(script)]), "extract"]
    paths = [str(tmp_path / "a.mp4"), str(tmp_path / "store")]
    ran = subprocess.run([*command, *paths, "--workers", "2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert FaceStore.open(str(tmp_path / "store")).videos["status"].to_pylist() == ["no_face"]


# Help


def leaves(name: str, entry: Entry) -> Iterator[tuple[list[str], click.Command]]:
    """A command, or all commands of a group."""
    command = entry.load()
    below = command.commands.items() if isinstance(command, click.Group) else ()
    yield [name], command
    yield from (([name, other], of) for other, of in below)


def examples(text: str) -> list[list[str]]:
    """The words of each command line below ``Example:``."""
    found = text.replace("\\\n", " ").partition("Example")[2]
    return [shlex.split(line) for line in re.findall(r"python -m (\w+\.\w+ .*)", found)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_can_be_given(name: str) -> None:
    entry = COMMANDS[name]
    for words, command in leaves(name, entry):
        result = run(*words, "--help")
        assert result.exit_code == 0
        found = examples(result.output)
        assert found, words
        for module, *arguments in found:
            assert module == entry.module
            if len(words) > 1:
                assert arguments.pop(0) == words[1]
            if not isinstance(command, click.Group):
                command.make_context(module, arguments)  # Raises click.UsageError: an option that there isn't, ...


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "report"])
def test_help_says_what_exit_codes_mean_and_what_options_are_for(name: str) -> None:
    for words, command in leaves(name, COMMANDS[name]):
        output = run(*words, "--help").output
        assert isinstance(command, click.Group) or "exit code" in output.lower() or words[0] == "store"
        silent = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
        assert silent == []


# Completion


def completed(words: str, incomplete: str = "") -> list[CompletionItem]:
    return BashComplete(main, {}, "faceclips", "_FACECLIPS_COMPLETE").get_completions(words.split(), incomplete)


def values(words: str, incomplete: str = "") -> list[str]:
    return [item.value for item in completed(words, incomplete)]


def test_commands_are_completed_with_their_line_of_help() -> None:
    assert [item.value for item in completed("")] == [*COMMANDS]
    assert [(item.value, item.help) for item in completed("", "ex")] == [("extract", COMMANDS["extract"].summary)]
    assert values("", "--h") == ["--help"]
    assert values("store", "v") == ["verify"]


def test_options_choices_and_models_are_completed() -> None:
    assert values("extract a b", "--wo") == ["--workers", "--worker-memory-gb"]
    assert values("extract a b --cluster", "s") == ["slurm", "sge"]
    assert values("train a b --device", "") == ["auto", "cpu", "cuda"]
    assert values("train a b --model", "") == model_names()
    assert values("train a b --model", "mc") == ["mc3_18"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("extract", "file"),
        ("extract videos", "dir"),
        ("extract videos store --params", "file"),
        ("extract videos store --labels", "file"),
        ("index", "file"),
        ("sample", "dir"),
        ("store verify", "dir"),
        ("train", "dir"),
        ("train store", "dir"),
        ("predict", "dir"),
        ("predict store", "file"),
        ("predict store runs/a", "file"),
        ("predict store runs/a --out", "file"),
        ("evaluate", "file"),
        ("evaluate a.parquet store", "dir"),
    ],
)
def test_paths_are_left_to_the_shell(words: str, kind: str) -> None:
    assert [(item.value, item.type) for item in completed(words, "data/st")] == [("data/st", kind)]


def test_the_line_for_bash_makes_it_ask() -> None:
    command = [sys.executable, "-c", "from pipeline.__main__ import main; main(prog_name='faceclips')"]
    environment = {"_FACECLIPS_COMPLETE": "bash_complete", "COMP_WORDS": "faceclips ev", "COMP_CWORD": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "plain,evaluate\n"
    assert "_FACECLIPS_COMPLETE=bash_source faceclips" in run("--help").output


# Wrong input


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be wrong in: ``data/store``, ``videos/a.mp4`` (empty), ``good.csv``, ``note.txt``."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    small_store(Path("data/store"))
    Path("videos").mkdir()
    Path("videos/a.mp4").touch()
    Path("good.csv").write_text("path,label\na.mp4,REAL\n")
    Path("note.txt").write_text("hello")
    Path("options.yaml").write_text("cluster: {core: 1}\nscale: 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extract vidoes data/new", "check the path; did you mean 'videos'?"),
        ("extract data/store videos", "'data/store' is a face-clip store, not a folder of videos; VIDEOS comes first"),
        ("extract videos/a.mp4 videos/b.mp4 data/new", "put a glob in quotes"),
        ("extract videos note.txt", "note.txt is a file; a store is a folder, so give another path"),
        ("extract videos note.txt/store --workers 0", "no store can be made at "),
        (
            "extract videos s4://bucket/store",
            "s4://bucket/store can't be opened (Protocol not known: s4); give a folder",
        ),
        ("extract videos data/new --labels gud.csv", "check the path; did you mean 'good.csv'?"),
        ("extract videos data/new --params note.txt", "note.txt: expected sections such as 'detect:', got str"),
        ("extract videos data/new --params option.yaml", "with --params; did you mean 'options.yaml'?"),
        ("extract videos data/new --cluster slrum", "did you mean 'slurm'?"),
        ("extract videos data/new --cluster slurm", "--cluster slurm needs --cluster-options FILE"),
        ("extract videos data/new --cluster slurm --cluster-options option.yaml", "did you mean 'options.yaml'?"),
        ("extract videos data/new --cluster slurm --cluster-options options.yaml", "did you mean 'cores'?"),
        ("extract videos data/new --scheduler tls://127.0.0.1:1", "is encrypted: give --tls-ca-file"),
        ("index videos note.txt/out.parquet", "'note.txt' is a file, and a folder is needed there"),
        ("store info data/stor", "has no store.json; check the path; did you mean 'data/store'?"),
        ("store info data", "has no store.json; check the path; did you mean 'data/store'?"),
        ("store infoo data/store", "No such command 'infoo'."),
        ("sample note.txt", "'note.txt' is a file"),
        ("train data/store runs/a --model mc3_81", "There is no model 'mc3_81'. Choose one of: mc3_18, "),
        ("train data/stor runs/a --model mc3_18", "did you mean 'data/store'?"),
        ("predict data/store videos --out a.parquet", "videos is a folder without checkpoints"),
        ("predict data/store nota.txt --out a.parquet", "did you mean 'note.txt'?"),
        ("evaluate good.csf data/store out", "did you mean 'good.csv'?"),
        (
            "evaluate data/store good.csv out",
            "data/store is a folder; give a file that python -m inference.predict wrote",
        ),
    ],
)
def test_wrong_input_is_bad_usage_in_words(folder: Path, line: str, message: str) -> None:
    result = run(*line.split())
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (folder / "data" / "new").exists()


def test_a_run_that_is_not_there_is_mended(tmp_path: Path) -> None:
    for name in ("mc3_18", "i3d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.safetensors").touch()
    with pytest.raises(InputError, match=r"its runs with a best.safetensors: i3d, mc3_18; did you mean 'mc3_18'\?"):
        find_checkpoints([str(tmp_path)], ["mc3_81"])
