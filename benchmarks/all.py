"""All programs one after the other, and the page of their figures: ``python -m benchmarks.all``, or ``make bench``.

Each runs in a process of its own, so that neither its failure nor its memory is another's, and leaves a record in
``data/benchmarks``. The page is put together from all records that are there, so that one program can be run again:
``--only extract_speed,detect_speed``. What prints no figures is on the page with its table.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import click

from benchmarks.figures import read_figures
from benchmarks.machine import describe_machine
from benchmarks.page import Record, page, read_records

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "data" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Program:
    """A benchmark and what it is run on."""

    name: str
    """Of its record."""
    module: str
    videos: str = ""
    """Folder below the media; empty: it needs none."""
    options: tuple[str, ...] = ()
    """Before the folder."""
    has_figures: bool = True
    """Whether it takes ``--json``."""

    def arguments(self, media: str) -> list[str]:
        """Of ``python -m``. A folder of media without the folder that is meant is itself taken for it."""
        below = Path(media, self.videos)
        videos = [str(below if below.is_dir() else Path(media))] if self.videos else []
        return [f"benchmarks.{self.module}", *self.options, *videos]


PROGRAMS = (
    Program("extract_speed", "extract_speed", "bench_1080p"),
    Program("detect_speed", "detect_speed", "bench_1080p"),
    Program("extract_shares", "extract_shares", "bench_1080p"),
    Program("extract_workers", "extract_workers", "bench_1080p"),
    Program("extract_memory", "extract_memory", "bench_1080p"),
    Program("track_quality-clips", "track_quality", "clips"),
    Program("track_quality-1080p", "track_quality", "bench_1080p"),
    Program("loader", "loader", "clips"),
    Program("read_window", "read_window", "clips", has_figures=False),
    Program("pair_cost", "pair_cost", "bench_1080p"),
    Program("pair_labels", "pair_labels", "clips", ("--clips",), has_figures=False),
    Program("train_step", "train_step", has_figures=False),
    Program("report_speed", "report_speed"),
)
NAMES = tuple(program.name for program in PROGRAMS)


def run(program: Program, media: str) -> Record:
    """Run it, showing what it prints."""
    arguments = program.arguments(media)
    began, started = datetime.now(UTC), perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder, "figures.json")
        command = [sys.executable, "-u", "-m", *arguments]
        command += ["--json", str(json_file)] if program.has_figures else []
        printed = []
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (our own)
            for line in process.stdout or ():
                print(line, end="", flush=True)
                printed.append(line)
        figures = read_figures(json_file) if json_file.exists() and process.returncode == 0 else []
    return Record(
        name=program.name,
        command=shlex.join(arguments),
        date=f"{began:%Y-%m-%d %H:%M} UTC",
        seconds=perf_counter() - started,
        exit_code=process.returncode,
        output="".join(printed),
        figures=tuple(figures),
    )


def _chosen(_context: click.Context, _option: click.Parameter, value: str | None) -> list[str]:
    names = list(NAMES) if value is None else [name for name in value.split(",") if name]
    if unknown := sorted(set(names) - set(NAMES)):
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(NAMES)}")
    return names


@click.command()
@click.option("--media", default="../shared/media", show_default=True, help="Has clips/ and bench_1080p/, or videos.")
@click.option("--only", "names", callback=_chosen, metavar="NAME,...", help="Not all programs; empty: only the page.")
@click.option("--records", type=click.Path(path_type=Path), default=RECORDS, help="Folder of what was measured.")
@click.option("--page", "page_file", type=click.Path(path_type=Path), default=PAGE, help="The page to write.")
def main(media: str, names: list[str], records: Path, page_file: Path) -> None:
    """Run the benchmarks, and write the page with what was measured now or before."""
    records.mkdir(parents=True, exist_ok=True)
    failed = []
    for program in PROGRAMS:
        if program.name in names:
            print(f"\n{shlex.join(program.arguments(media))}", flush=True)
            record = run(program, media)
            record.write(records)
            failed += [program.name] if record.exit_code else []
            # After each, so that what was measured is there if the next one is stopped.
            page_file.write_text(page(read_records(records, NAMES), describe_machine()), encoding="utf-8")
    page_file.write_text(page(read_records(records, NAMES), describe_machine()), encoding="utf-8")
    print(f"\nwritten: {page_file}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
