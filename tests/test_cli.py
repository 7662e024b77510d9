"""What commands do with trouble: one message, an exit code that says whose it is, nothing raw on the terminal."""

from __future__ import annotations

import errno
import os
import signal

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import ask_for_interrupts, device_option, machine_option, plain_errors, printable
from pipeline.settings import ConfigError
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_asked_for_once_and_the_second_does_not_wait(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        should_stop = ask_for_interrupts()
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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
