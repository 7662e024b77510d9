"""What all commands share: options, types of arguments, errors as one clear message, exit codes, names from inputs made
harmless to print.

Flags that are facts about a machine can be given as environment variables, too: commands that are written down, as in
``dvc.yaml``, then stay the same on every machine.
"""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from pipeline.errors import InputError, WriteError
from pipeline.nearest import did_you_mean

if TYPE_CHECKING:  # Generic in the release that is tested with; older ones will do.
    _TextType = click.ParamType[str]
    _TextChoice = click.Choice[str]
else:
    _TextType, _TextChoice = click.ParamType, click.Choice

_OF_THE_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
EXIT_TOO_MANY_FAILURES = 3
EXIT_INTERRUPTED = 130
_STDERR_FILE_NUMBER = 2


class PathOrUrl(_TextType):
    """A path or a URL, taken as it is: what is wrong with it, whoever opens it says best. Shells complete it."""

    name = "path"

    def __init__(self, kind: Literal["file", "dir"]) -> None:
        self.kind = kind
        """What a shell offers: files and folders, or folders only."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # To a file system it would be the folder that this runs in, or all of the disk.
        if value == "" and isinstance(param, click.Argument):
            self.fail("it is empty; give a path", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        return [CompletionItem(incomplete, type=self.kind)]


FILE = PathOrUrl("file")
FOLDER = PathOrUrl("dir")


class OneOf(_TextChoice):
    """One of some names; the nearest is named where it is none of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}{did_you_mean(str(value), self.choices)}", param, ctx)


class OneGlob(click.Command):
    """A command that takes a glob, which a shell replaces by what it matches unless it is quoted."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "unexpected extra argument" not in error.message:
                raise
            raise click.UsageError(f"{error.message}; put a glob in quotes: 'videos/*.mp4'", ctx) from None


machine_option = partial(click.option, show_envvar=True)
"""An option about the machine; give it an ``envvar``."""
device_option = machine_option(
    "--device",
    type=OneOf(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    envvar="FACECLIPS_DEVICE",
    help="What networks run on; auto: a GPU where there is one.",
)
loader_workers_option = machine_option(
    "--loader-workers",
    type=click.IntRange(min=0),
    envvar="FACECLIPS_LOADER_WORKERS",
    help="Processes that read clips. Default: 0, on a GPU 4.",
)
params_option = click.option(
    "--params", type=FILE, metavar="FILE", help="Settings; params.yaml in this folder by default, if there is one."
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
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise RunFailedError(f"{error}; mend that and run the same command again") from error
        if isinstance(error, InputError | OSError):
            raise BadInputError(_in_words(error)) from error
        raise RunFailedError(f"{type(error).__name__}: {error} (--debug shows where this came from)") from error


def _in_words(error: InputError | OSError) -> str:
    """What the system says of a path, so that it is known what to do; all others say it themselves."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename is not None and error.errno:
        return f"{error.filename!r} is a file, and a folder is needed there; give another path"
    if isinstance(error, PermissionError) and error.filename is not None and error.errno:
        return f"{error.filename!r} is not for this user to read or write; change its permissions, or give another path"
    return str(error)


def ask_for_interrupts() -> Callable[[], bool]:
    """From now on SIGINT and SIGTERM only make the returned function true, so that work stops where it may be resumed.

    That may take a while, so it is said. The second one interrupts without ceremony.
    """
    interrupts: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        if interrupts:
            raise KeyboardInterrupt
        interrupts.append(number)
        # Not print: this may have interrupted a write to the same buffer.
        with suppress(OSError):
            os.write(_STDERR_FILE_NUMBER, b"\nstopping where it can go on later; once more to stop at once\n")

    _handle_interrupts(interrupt)
    return lambda: bool(interrupts)


def raise_interrupts() -> Callable[[], None]:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt, and once more where the returned function is called.

    What is raised while Python is in a finaliser or in a callback of a weak reference goes no further than that: Python
    prints it and goes on. So a loop that works for hours must ask, or an interrupt may be lost.
    """
    interrupts: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    def raise_again() -> None:
        if interrupts:
            raise KeyboardInterrupt

    _handle_interrupts(interrupt)
    return raise_again


def _handle_interrupts(handler: Callable[[int, object], None]) -> None:
    """What is ignored stays so: a shell starts what runs in its background like that, and Ctrl-C isn't meant for it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def listed(names: Sequence[str], most: int = 10) -> str:
    """Some names, fit to be printed, and how many more there are."""
    rest = len(names) - most
    return printable(", ".join(names[:most])) + (f" and {rest} more" if rest > 0 else "")


def printable(text: str) -> str:
    """Text from outside with its control characters escaped: a file name can't move the cursor or fake a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
