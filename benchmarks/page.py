"""The page of figures: what programs measured, put together from the records of their runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import Figure, verdict


@dataclass(frozen=True)
class Record:
    """One run of one program."""

    name: str
    """Of the file that keeps it."""
    command: str
    """Arguments of ``python -m``."""
    date: str
    seconds: float
    exit_code: int
    output: str
    """What it printed, the machine first."""
    figures: tuple[Figure, ...]
    """Empty where it failed, or has none."""

    def write(self, folder: Path) -> None:
        """In place of an earlier record of the same program."""
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**entry, "figures": tuple(Figure(**figure) for figure in entry["figures"])})


def read_records(folder: Path, order: Sequence[str]) -> list[Record]:
    """All that are there, those of no known name last."""
    places = {name: place for place, name in enumerate(order)}
    paths = sorted(folder.glob("*.json"), key=lambda path: (places.get(path.stem, len(places)), path.stem))
    return [Record.read(path) for path in paths]


def _goal_rows(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        for figure in record.figures:
            said = {True: "reached", False: "**not reached**", None: ""}[figure.reached]
            yield f"| {figure.what} | {figure.value} | {figure.goal} | {said} | `{record.command}` |"
        if record.exit_code:
            yield f"| nothing: exit code {record.exit_code} | | | **failed** | `{record.command}` |"


def _is_of(record: Record, machine: str) -> bool:
    """Whether it was measured there, with the same code and libraries."""
    return record.output.lstrip().startswith(machine.strip())


def _section(record: Record, machine: str) -> Iterator[str]:
    minutes = f"{record.seconds / 60:.1f} minutes"
    failed = f" It failed with exit code {record.exit_code}." if record.exit_code else ""
    # Where it was measured needn't be said again, unless it was elsewhere.
    output = record.output.strip().removeprefix(machine.strip()).strip("\n")
    yield from ("", f"## `{record.command}`", "", f"{record.date}, {minutes}.{failed}", "", "```", output, "```")


def page(records: Sequence[Record], machine: str) -> str:
    """Markdown: goals first, then what each program printed."""
    goals = [figure for record in records for figure in record.figures if figure.reached is not None]
    missed = [figure for figure in goals if verdict(figure) == "not reached"]
    elsewhere = [record.name for record in records if not _is_of(record, machine)]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`, which runs the programs below and puts their figures beside the goals that were set",
        "for them. Ratios are of medians, of both sides measured by turns in the same run. Commands are arguments of",
        "`.venv/bin/python -m`; the head of each program says what it measures.",
        "",
        "```",
        machine.strip(),
        "```",
        "",
        f"Goals reached: {len(goals) - len(missed)} of {len(goals)}.",
        "",
        *([f"Measured with other code, or on another machine: {', '.join(elsewhere)}.", ""] if elsewhere else []),
        "| what | measured | goal | | command |",
        "|---|---|---|---|---|",
        *_goal_rows(records),
    ]
    for record in records:
        lines += _section(record, machine)
    return "\n".join(lines) + "\n"
