"""Ways to do the same thing, timed by turns, so that what the machine does besides hits all of them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

MIN_REPEATS = 5
"""Of which a median is worth something."""

Seconds = Mapping[str, Sequence[float]]
"""By the name of the way, one for each repeat."""


def seconds_of(work: Callable[[], object]) -> float:
    """Do it."""
    started = perf_counter()
    work()
    return perf_counter() - started


def by_turns(ways: Mapping[str, Callable[[], float]], repeats: int) -> Seconds:
    """What each way says that it took, first repeat first; progress goes to stderr."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            seconds[name].append(way())
        latest = ", ".join(f"{name} {own[-1]:.2f}" for name, own in seconds.items())
        print(f"repeat {repeat + 1} of {repeats}, s: {latest}", file=sys.stderr, flush=True)
    return seconds


def ratio(seconds: Seconds, name: str, baseline: str) -> float:
    """Of the medians."""
    return statistics.median(seconds[name]) / statistics.median(seconds[baseline])


def ratios_by_repeat(seconds: Seconds, name: str, baseline: str) -> list[float]:
    """For the spread."""
    return [own / base for own, base in zip(seconds[name], seconds[baseline], strict=True)]


def time_rows(seconds: Seconds, baseline: str) -> Iterator[str]:
    """A table: medians, and ratios of them to the baseline's."""
    repeats = len(seconds[baseline])
    yield f"{f'median of {repeats} (least, most)':<36}{'s':>9}{'':>18}{'x ' + baseline:>22}   by repeat"
    for name, own in seconds.items():
        spread = f"({min(own):.2f}, {max(own):.2f})"
        each = ", ".join(f"{value:.2f}" for value in ratios_by_repeat(seconds, name, baseline))
        yield f"{name:<36}{statistics.median(own):>9.2f}{spread:>18}{ratio(seconds, name, baseline):>22.2f}   {each}"
