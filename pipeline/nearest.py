"""What was probably meant: of the names there are, the one most like a mistyped one, for the end of a message."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

_MAX_LOOKED_AT = 10_000
"""Names: a message about a typing error needn't wait for a disk with all of DFDC on it, or for all of its videos."""
_LEAST_LIKENESS = 0.7
"""Of what is suggested, as difflib has it: two names that share little but their ending are no slip of the hand."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like a mistyped one, whatever the case of its letters; None if none is like it."""
    by_lower_case = {other.lower(): other for other in islice(names, _MAX_LOOKED_AT)}
    found = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=_LEAST_LIKENESS)
    return by_lower_case[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'store'?``, to go on a message with, or nothing."""
    found = nearest(name, names)
    return f"; did you mean {found!r}?" if found is not None else ""


def nearest_path(path: str) -> str | None:
    """A path that exists where this one has a mistyped name in it; None if it exists itself, is a URL or like none."""
    if "://" in path or "\0" in path or os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names too long.
        return None
    found = Path()
    for part in Path(path).parts:
        if not os.path.exists(found / part):  # noqa: PTH110
            # A broken link is there, and isn't meant.
            names = _names(found, hidden=part.startswith("."))
            meant = nearest(part, [name for name in names if name != part])
            if meant is None:
                return None
            found /= meant
        else:
            found /= part
    return str(found)


def did_you_mean_path(path: str) -> str:
    """As :func:`did_you_mean`, of what lies on the disk."""
    found = nearest_path(path)
    return f"; did you mean {found!r}?" if found is not None else ""


def _names(folder: Path, hidden: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MAX_LOOKED_AT)]
    except OSError:
        return []
    return sorted(name for name in names if hidden or not name.startswith("."))
