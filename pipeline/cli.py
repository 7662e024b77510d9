"""What all commands share: options, errors as one clear message, exit codes, names from inputs made harmless to print.

Flags that are facts about a machine can be given as environment variables, too: commands that are written down, as in
``dvc.yaml``, then stay the same on every machine.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import click

from pipeline.errors import InputError, WriteError

EXIT_TOO_MANY_FAILURES = 3
EXIT_INTERRUPTED = 130

machine_option = partial(click.option, show_envvar=True)
"""An option about the machine; give it an ``envvar``."""
device_option = machine_option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, envvar="FACECLIPS_DEVICE"
)
loader_workers_option = machine_option(
    "--loader-workers",
    type=click.IntRange(min=0),
    envvar="FACECLIPS_LOADER_WORKERS",
    help="Processes that read clips. Default: 0, on a GPU 4.",
)
params_option = click.option(
    "--params", metavar="FILE", help="Settings; params.yaml in this folder by default, if there is one."
)
debug_option = click.option("--debug", is_flag=True, help="Show where in the code an error came from.")


class BadInputError(click.ClickException):
    """Something is wrong with what the command was given."""

    exit_code = 2


class RunFailedError(click.ClickException):
    """The command was fine, the machine or the cluster was not. What is committed stays."""

    exit_code = 1


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Errors end the command with one message and an exit code; ``debug`` adds the traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click's own business; a RunFailedError is one of them, too.
    except Exception as error:  # The boundary of a command: libraries behind a URL raise errors of all kinds.
        if debug:
            traceback.print_exc()
        if isinstance(error, WriteError):
            raise RunFailedError(
                f"{error}; what was written before is safe: mend that and run the same command again"
            ) from error
        if isinstance(error, InputError | OSError):
            raise BadInputError(str(error)) from error
        raise RunFailedError(f"{type(error).__name__}: {error} (--debug shows where this came from)") from error


def ask_for_interrupts() -> Callable[[], bool]:
    """From now on SIGINT and SIGTERM only make the returned function true, so that work stops where it may be resumed.

    The second one interrupts without ceremony.
    """
    interrupts: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        if interrupts:
            raise KeyboardInterrupt
        interrupts.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    return lambda: bool(interrupts)


def listed(names: Sequence[str], most: int = 10) -> str:
    """Some names, fit to be printed, and how many more there are."""
    rest = len(names) - most
    return printable(", ".join(names[:most])) + (f" and {rest} more" if rest > 0 else "")


def printable(text: str) -> str:
    """Text from outside with its control characters escaped: a file name can't move the cursor or fake a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
