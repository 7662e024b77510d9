"""Round numbers for the axes of drawings; pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Tick:
    """A value on an upright axis."""

    y: float
    label: str


def round_step(span: float, most: int) -> float:
    """The smallest round number of which at most ``most`` fit into a span above 0."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least))
    # A hair of tolerance: 0.3 / 3 is a little more than 0.1.
    return next(factor * power for factor in _ROUND if factor * power >= least * (1 - 1e-9))


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, which is above it, at most ``most`` + 1 of them."""
    step = round_step(high - low, most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float) -> str:
    """As one would write it: no more digits than it has, thousands apart."""
    text = f"{value:,.4f}".rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def short_count(count: float) -> str:
    """A count that takes little room: in thousands from ten thousand on, in millions from one on."""
    if count >= 1e6:
        return f"{count / 1e6:.3g}M"
    return f"{count / 1e3:.0f}k" if count >= 1e4 else f"{count:,.0f}"
