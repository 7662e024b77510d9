"""Figures beside their goals, as programs hand them on: with ``--json FILE`` a program also writes those it printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    what: str
    value: str
    """With its unit."""
    goal: str = ""
    """With its unit; empty: none was set."""
    reached: bool | None = None
    """None: there is no goal."""


def at_most(what: str, value: float, goal: float, form: str) -> Figure:
    """A figure that is to be small.

    Args:
        what: it is of.
        value: as measured. Whether the goal is reached is decided before it is rounded.
        goal: the largest that will do.
        form: of both, such as ``{:.2f} x``.
    """
    return Figure(what, form.format(value), f"at most {form.format(goal)}", value <= goal)


def at_least(what: str, value: float, goal: float, form: str) -> Figure:
    """A figure that is to be large; arguments as of :func:`at_most`."""
    return Figure(what, form.format(value), f"at least {form.format(goal)}", value >= goal)


def verdict(figure: Figure) -> str:
    """In words; empty where there is no goal."""
    return {None: "", True: "reached", False: "not reached"}[figure.reached]


def figure_rows(figures: Sequence[Figure]) -> list[str]:
    """For people, one line a figure."""
    return [f"{f.what}: {f.value}" + (f" (goal: {f.goal}; {verdict(f)})" if f.goal else "") for f in figures]


json_option = click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Also write the figures there."
)


def report_figures(figures: Sequence[Figure], json_file: Path | None) -> None:
    """Print them, and write them where that was asked for."""
    print("\n" + "\n".join(figure_rows(figures)))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(figure) for figure in figures]), encoding="utf-8")


def read_figures(json_file: Path) -> list[Figure]:
    """What :func:`report_figures` wrote."""
    return [Figure(**entry) for entry in json.loads(json_file.read_text(encoding="utf-8"))]
