"""What an extraction's time goes to: ``python -m benchmarks.extract_shares FOLDER``.

All videos as one partition in this process, in one thread, so that nothing goes on side by side. Decoding, detecting,
and cropping with writing are the columns of the videos table; shrinking frames for the detector and looking for scene
cuts is part of detecting. The rest is what the clock has besides: tracking, opening files, committing.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

import click

from benchmarks.extraction import extract_here
from benchmarks.figures import Figure, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from benchmarks.timing import MIN_REPEATS
from pipeline.catalog import build_index
from pipeline.config import Settings

MAX_REST = 5.0
PARTS = {"decode": "decode_seconds", "detect": "detect_seconds", "crop and write": "write_seconds"}


def measure(folder: str, repeats: int) -> list[Figure]:
    """Prints the table."""
    index, _ = build_index(folder)
    extract_here(index, Settings())  # Loads the networks and the file cache.
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        whole, outcomes = extract_here(index, Settings())
        spent = {part: sum(getattr(outcome, column) for outcome in outcomes) for part, column in PARTS.items()}
        for name, value in {**spent, "rest": whole - sum(spent.values()), "whole": whole}.items():
            seconds[name].append(value)
    shares = {
        name: [100 * own / whole for own, whole in zip(values, seconds["whole"], strict=True)]
        for name, values in seconds.items()
    }
    print(f"{len(index)} videos, 1 thread, median of {repeats}\n{'':<16}{'s':>8}{'% of the whole (least, most)':>32}")
    for name, values in shares.items():
        spread = f"{statistics.median(values):.1f} ({min(values):.1f}, {max(values):.1f})"
        print(f"{name:<16}{statistics.median(seconds[name]):>8.2f}{spread:>32}")
    rest = statistics.median(shares["rest"])
    return [at_most("share not spent on decoding, detecting, cropping, writing", rest, MAX_REST, "{:.1f} %")]


@click.command()
@click.argument("folder")
@click.option("--repeats", default=MIN_REPEATS, show_default=True)
@json_option
def main(folder: str, repeats: int, json_file: Path | None) -> None:
    """Prints seconds and shares."""
    print(describe_machine())
    report_figures(measure(folder, repeats), json_file)


if __name__ == "__main__":
    main()
