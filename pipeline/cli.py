"""What all commands share: errors as one clear message, exit codes, names from inputs made harmless to print."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pipeline.catalog import IndexFormatError, NoVideosError
from pipeline.config import ConfigError
from pipeline.labels import LabelError
from pipeline.writer import StoreFormatError, StoreMismatchError, StoreWriteError

EXIT_TOO_MANY_FAILURES = 3
EXIT_INTERRUPTED = 130

_BAD_INPUT = (ConfigError, IndexFormatError, LabelError, NoVideosError, StoreFormatError, StoreMismatchError, OSError)


class BadInputError(click.ClickException):
    """Something is wrong with what the command was given."""

    exit_code = 2


class RunFailedError(click.ClickException):
    """The command was fine, the machine or the cluster was not. What is committed stays."""

    exit_code = 1


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Known errors end the command with one message; ``debug`` adds the traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except (*_BAD_INPUT, RunFailedError) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, RunFailedError):
            raise
        if isinstance(error, StoreWriteError):
            raise RunFailedError(
                f"{error}; what is committed is safe: mend that and run the same command again"
            ) from error
        raise BadInputError(str(error)) from error


def printable(text: str) -> str:
    """Text from outside with its control characters escaped: a file name can't move the cursor or fake a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
