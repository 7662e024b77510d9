"""Which clips an epoch sees, and in what batches: functions of the seed and the epoch alone.

So an epoch can be entered at any batch, by any number of processes, and is the same each time. An epoch is made of
units, which no batch and no process cuts: of single clips here, of pairs in :mod:`training.pairing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from torch.utils.data import Sampler

from training.dataset import Int64Array, Window

Unit = tuple[Window, ...]


class Units(Protocol):
    """What an epoch is made of."""

    clips_per_unit: ClassVar[int]

    @property
    def num_units(self) -> int:
        """Of every epoch."""
        ...

    def draw(self, rng: np.random.Generator) -> list[Unit]:
        """Those of one epoch, in random order."""
        ...


def one_of_each(labels: Int64Array, rng: np.random.Generator) -> Int64Array:
    """All rows of the rarer class and as many of the other, one from each bucket.

    The buckets are runs of neighbours of the more frequent class, equally long but for one, so that an epoch goes
    evenly through whatever the rows are sorted by; where the first bucket begins is drawn, too.
    Source: the notebook this rebuilds, "stratified buckets".

    Args:
        labels: int (N,), 0 or 1, both present, or -1 for rows that don't take part; of rows of which those that are
            alike lie side by side.
        rng: where chance comes from.

    Returns:
        int64 (2, K), rows of ``labels``: first the rarer class, then the other, for 0 where both are as frequent.
    """
    rarer, other = sorted((np.flatnonzero(labels == label) for label in (0, 1)), key=len)
    other = np.roll(other, rng.integers(len(other)))
    drawn = [bucket[rng.integers(len(bucket))] for bucket in np.array_split(other, len(rarer))]
    return np.stack([rarer, drawn])


def balanced_rows(labels: Int64Array, rng: np.random.Generator) -> Int64Array:
    """The rows of one epoch: those of :func:`one_of_each`, shuffled.

    Returns:
        int64 (2 * count of the rarer class,), rows of ``labels``.
    """
    return rng.permutation(one_of_each(labels, rng).ravel())


def chance_of(seed: int, what: Literal["epoch", "batch"], *numbers: int) -> list[int]:
    """What the random numbers of one epoch or one batch are drawn from: another stream for each.

    A word goes first, since numpy takes [7, 1] and [7, 1, 0] for the same.
    """
    return [seed, ("epoch", "batch").index(what), *numbers]


@dataclass(frozen=True, eq=False)
class BalancedClips:
    """Single clips of random windows, balanced by class."""

    labels: Int64Array
    """int (N,), as :func:`one_of_each` has them."""

    clips_per_unit: ClassVar[int] = 1

    @property
    def num_units(self) -> int:
        """Twice the rarer class."""
        return 2 * min(int((self.labels == label).sum()) for label in (0, 1))

    def draw(self, rng: np.random.Generator) -> list[Unit]:
        """A window of each of :func:`balanced_rows`."""
        rows = balanced_rows(self.labels, rng)
        return [(Window(int(row), float(at)),) for row, at in zip(rows, rng.random(len(rows)), strict=True)]


class Batches(Sampler[list[Window]]):
    """Batches of units; this process's share of each.

    Every process computes the same batches and takes each ``world_size``-th unit of them. An epoch is cut into batches
    of nearly equal size, none larger than asked for: no unit is dropped, and no batch is a small rest.

    Args:
        units: what an epoch is made of.
        batch_size: clips a batch, over all processes; at least those of a unit.
        seed: of everything random.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, units: Units, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self._units, self._seed, self._rank, self._world_size = units, seed, rank, world_size
        self.clips_per_unit = units.clips_per_unit
        num_batches = -(-units.num_units // (batch_size // units.clips_per_unit))
        self.unit_counts = [len(part) for part in np.array_split(np.arange(units.num_units), num_batches)]
        """Units of each batch of an epoch, over all processes."""
        self.batch_sizes = [count * units.clips_per_unit for count in self.unit_counts]
        """Clips likewise."""
        self._epoch, self._first_batch = 0, 0

    def start(self, epoch: int, first_batch: int = 0) -> None:
        """Which epoch the next iteration goes through, and from which of its batches on."""
        self._epoch, self._first_batch = epoch, first_batch

    def step_of(self, batch: int, accumulate: int) -> tuple[bool, int]:
        """Of the optimizer's step that a batch of an epoch is part of: whether it is the last one, and all their clips.

        A step takes ``accumulate`` batches, the last of an epoch what is left.
        """
        first = batch - batch % accumulate
        sizes = self.batch_sizes[first : first + accumulate]
        return batch == first + len(sizes) - 1, sum(sizes)

    def __len__(self) -> int:
        return len(self.batch_sizes) - self._first_batch

    def __iter__(self) -> Iterator[list[Window]]:
        rng = np.random.default_rng(chance_of(self._seed, "epoch", self._epoch))
        units = self._units.draw(rng)
        stops = np.cumsum(self.unit_counts)
        for stop, count in list(zip(stops, self.unit_counts, strict=True))[self._first_batch :]:
            share = units[stop - count : stop][self._rank :: self._world_size]
            yield [window for unit in share for window in unit]
