"""Which clips an epoch sees, and in what batches: functions of the seed and the epoch alone.

So an epoch can be entered at any batch, by any number of processes, and is the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

from training.dataset import Int64Array, Window


def balanced_rows(labels: Int64Array, rng: np.random.Generator) -> Int64Array:
    """The rows of one epoch: all of the rarer class once and as many of the other, one from each bucket; shuffled.

    The buckets are runs of neighbours of the more frequent class, equally long but for one, so that an epoch goes
    evenly through whatever the rows are sorted by; where the first bucket begins is drawn, too.
    Source: the notebook this rebuilds, "stratified buckets".

    Args:
        labels: int (N,), 0 or 1; of rows of which those that are alike lie side by side.
        rng: where chance comes from.

    Returns:
        int64 (2 * count of the rarer class,), rows of ``labels``.
    """
    rarer, other = sorted((np.flatnonzero(labels == label) for label in (0, 1)), key=len)
    other = np.roll(other, rng.integers(len(other)))
    drawn = [bucket[rng.integers(len(bucket))] for bucket in np.array_split(other, len(rarer))]
    return rng.permutation(np.concatenate([rarer, drawn]))


def chance_of(seed: int, what: Literal["epoch", "batch"], *numbers: int) -> list[int]:
    """What the random numbers of one epoch or one batch are drawn from: another stream for each.

    A word goes first, since numpy takes [7, 1] and [7, 1, 0] for the same.
    """
    return [seed, ("epoch", "batch").index(what), *numbers]


class BalancedBatches(Sampler[list[Window]]):
    """Batches of random windows, balanced by class; this process's share of each.

    Every process computes the same batches and takes each ``world_size``-th clip of them. An epoch is cut into batches
    of nearly equal size, none larger than asked for: no clip is dropped, and no batch is a small rest.

    Args:
        labels: int (N,), 0 or 1, as :func:`balanced_rows` has them.
        batch_size: clips a batch, over all processes.
        seed: of everything random.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, labels: Int64Array, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self._labels, self._seed, self._rank, self._world_size = labels, seed, rank, world_size
        num_clips = 2 * int(np.bincount(labels, minlength=2).min())
        num_batches = -(-num_clips // batch_size)
        self.batch_sizes = [len(part) for part in np.array_split(np.arange(num_clips), num_batches)]
        """Clips of each batch of an epoch, over all processes."""
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
        rows = balanced_rows(self._labels, rng)
        windows = [Window(int(row), float(position)) for row, position in zip(rows, rng.random(len(rows)), strict=True)]
        stops = np.cumsum(self.batch_sizes)
        for stop, size in list(zip(stops, self.batch_sizes, strict=True))[self._first_batch :]:
            yield windows[stop - size : stop][self._rank :: self._world_size]
