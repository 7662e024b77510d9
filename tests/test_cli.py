"""What commands do with trouble: one message, an exit code that says whose it is, nothing raw on the terminal."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from pydantic import Field

from pipeline.cli import (
    FOLDER,
    OneGlob,
    OneOf,
    ask_for_interrupts,
    device_option,
    machine_option,
    plain_errors,
    printable,
    raise_interrupts,
)
from pipeline.nearest import did_you_mean, did_you_mean_path, nearest, nearest_path
from pipeline.settings import ConfigError, Section, parse_settings
from pipeline.writer import StoreWriteError


def run(error: BaseException, debug: bool = False) -> Result:
    @click.command()
    def command() -> None:
        with plain_errors(debug):
            raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (ConfigError("unknown key 'a'"), 2, "unknown key 'a'"),
        (FileNotFoundError("no such folder"), 2, "no such folder"),
        (StoreWriteError("disk full"), 1, "what was written before is safe"),
        (LookupError("no credentials"), 1, "LookupError: no credentials (--debug"),
        (click.UsageError("which one?"), 2, "which one?"),
        (FileExistsError(errno.EEXIST, "File exists", "a.txt"), 2, "'a.txt' is a file, and a folder is needed there"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.txt"), 2, "give another path"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.txt"),
            2,
            "'a.txt' is not for this user to read or write",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "mend that and run the same command again"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(error: Exception, exit_code: int, message: str) -> None:
    result = run(error)
    assert result.exit_code == exit_code
    assert message in result.output
    assert "Traceback" not in result.output


def test_debug_shows_where_it_came_from() -> None:
    assert "Traceback" in run(ConfigError("unknown key"), debug=True).output


def test_an_interrupt_is_exit_code_130() -> None:
    assert run(KeyboardInterrupt()).exit_code == 130


def test_a_reader_that_went_away_is_no_bad_usage() -> None:
    assert "Error" not in run(BrokenPipeError(errno.EPIPE, "Broken pipe")).output


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    assert printable("a\nb\x1b[31m \udcff ä") == "a\\nb\\x1b[31m \\udcff ä"


interrupts = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@interrupts
@pytest.mark.usefixtures("same_signal_handlers")
def test_an_interrupt_is_asked_for_once_and_the_second_does_not_wait(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    should_stop = ask_for_interrupts()
    assert not should_stop()
    os.kill(os.getpid(), number)
    assert should_stop()
    assert "once more to stop at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@interrupts
@pytest.mark.usefixtures("same_signal_handlers")
def test_an_interrupt_that_a_finaliser_swallowed_is_raised_again(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaving:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    printed: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: printed.append(what.exc_type))
    raise_again = raise_interrupts()
    raise_again()
    Leaving()
    assert printed == [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        raise_again()


@interrupts
@pytest.mark.usefixtures("same_signal_handlers")
def test_an_interrupt_is_raised_at_once_elsewhere(number: signal.Signals) -> None:
    raise_interrupts()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.usefixtures("same_signal_handlers")
@pytest.mark.parametrize("handle", [ask_for_interrupts, raise_interrupts])
def test_ctrl_c_is_not_for_what_a_shell_runs_in_its_background(handle: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def test_facts_about_a_machine_may_come_from_the_environment() -> None:
    @click.command()
    @device_option
    @machine_option("--workers", type=int, envvar="FACECLIPS_WORKERS")
    def command(device: str, workers: int | None) -> None:
        click.echo(f"{device} {workers}")

    there = {"FACECLIPS_DEVICE": "cpu", "FACECLIPS_WORKERS": "3"}
    assert CliRunner().invoke(command, env=there).output == "cpu 3\n"
    assert CliRunner().invoke(command, ["--device", "auto"], env=there).output == "auto 3\n"
    assert "FACECLIPS_WORKERS" in CliRunner().invoke(command, ["--help"]).output


# What was probably meant


@pytest.mark.parametrize(
    ("name", "meant"),
    [("stor", "store"), ("STORE", "store"), ("test_store", "test-store"), ("runs", None), ("", None)],
)
def test_the_nearest_name_is_one_that_is_like_it(name: str, meant: str | None) -> None:
    assert nearest(name, ["sample", "store", "test-store", "train.parquet"]) == meant


def test_a_message_goes_on_with_what_was_meant_or_not_at_all() -> None:
    assert did_you_mean("mc3_81", ["i3d", "mc3_18"]) == "; did you mean 'mc3_18'?"
    assert did_you_mean("vgg", ["i3d", "mc3_18"]) == ""


def test_of_a_path_each_mistyped_part_is_mended(tmp_path: Path) -> None:
    (tmp_path / "data" / "store").mkdir(parents=True)
    (tmp_path / "data" / ".store.tmp").touch()
    assert nearest_path(f"{tmp_path}/dta/stroe") == f"{tmp_path}/data/store"
    assert did_you_mean_path(f"{tmp_path}/data/stor") == f"; did you mean '{tmp_path}/data/store'?"
    for path in (f"{tmp_path}/data/store", f"{tmp_path}/data/runs", "s3://data/stor", f"{tmp_path}/dta/runs", "a\0b"):
        assert nearest_path(path) is None


def test_a_path_is_mended_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    assert nearest_path("vidoes") == "videos"


def test_a_path_that_can_not_be_looked_at_is_like_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert nearest_path("x" * 300) is None
    Path("labels.csv").symlink_to("/nowhere/labels.csv")
    assert nearest_path("labels.csv") is None


def test_names_that_share_their_ending_only_are_not_meant() -> None:
    assert nearest("nope.mp4", ["tznpziuejr.mp4"]) is None


def test_a_name_among_very_many_is_not_looked_for_in_all_of_them() -> None:
    names = (f"{number:06}" for number in range(30_000))
    assert nearest("000001x", names) == "000001"
    assert next(names) == "010000"


class _Inner(Section):
    probability: float = 0.5


class _Crop(Section):
    size: int = Field(256, ge=16)
    cutmix: _Inner = _Inner()


class _Settings(Section):
    crop: _Crop = _Crop()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"crop": {"sise": 1}}, "unknown key 'crop.sise'; did you mean 'size'? allowed here: size, cutmix"),
        ({"crop": {"cutmix": {"prob": 1}}}, "unknown key 'crop.cutmix.prob'; allowed here: probability"),
        ({"croop": {}}, "unknown key 'croop'; did you mean 'crop'? allowed here: data, models, "),
        ({"size": 64}, "unknown key 'size'; did you mean 'crop.size'? allowed here: data, models, "),
        ({"probability": 1}, "unknown key 'probability'; did you mean 'crop.cutmix.probability'? allowed here: data, "),
    ],
)
def test_a_mistyped_key_or_one_of_another_section_is_mended(document: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_settings(document, "params.yaml", _Settings)
    assert f"params.yaml: {message}" in str(raised.value)


# Arguments


@click.command(cls=OneGlob)
@click.argument("videos")
@click.argument("store", type=FOLDER)
@click.option("--cluster", type=OneOf(["slurm", "pbs", "kubernetes"]))
def of_paths(videos: str, store: str, cluster: str | None) -> None:
    click.echo(f"{videos} {store} {cluster}")


def test_paths_and_urls_are_taken_as_they_are() -> None:
    assert CliRunner().invoke(of_paths, ["a", "s3://b/../c/"]).output == "a s3://b/../c/ None\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", ""], "Invalid value for 'STORE': it is empty; give a path"),
        (["a.mp4", "b.mp4", "store"], "(store); put a glob in quotes: 'videos/*.mp4'"),
        (["a", "b", "--cluster", "slrum"], "'slurm', 'pbs', 'kubernetes'; did you mean 'slurm'?"),
        (["a", "b", "--cluster", "cuda"], "'slurm', 'pbs', 'kubernetes'\n"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(of_paths, arguments)
    assert result.exit_code == 2
    assert message in result.output
