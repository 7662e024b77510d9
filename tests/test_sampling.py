"""Epochs: balanced, spread over all there is, the same for the same seed, and shared by any number of processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.dataset import Window
from training.sampling import BalancedBatches, balanced_rows

label_lists = st.tuples(st.integers(1, 12), st.integers(1, 40)).flatmap(
    lambda counts: st.permutations([0] * counts[0] + [1] * counts[1])
)


def epoch_of(batches: BalancedBatches, epoch: int, first_batch: int = 0) -> list[list[Window]]:
    batches.start(epoch, first_batch)
    return list(batches)


@given(label_lists, st.integers(0, 100))
def test_an_epoch_has_the_rarer_class_once_and_as_many_of_the_other(labels: list[int], seed: int) -> None:
    array = np.array(labels)
    counts = Counter(balanced_rows(array, np.random.default_rng(seed)).tolist())
    rarer = min((0, 1), key=lambda label: (array == label).sum())
    assert sum(counts.values()) == 2 * (array == rarer).sum()
    assert set(counts.values()) == {1}
    assert {row for row in counts if array[row] == rarer} == set(np.flatnonzero(array == rarer).tolist())


def test_the_other_class_is_drawn_evenly_over_its_neighbourhoods() -> None:
    """Ten originals and sixty fakes in order: each ten neighbours give one or two."""
    labels = np.repeat([0, 1], [10, 60])
    for seed in range(20):
        fakes = np.array([row for row in balanced_rows(labels, np.random.default_rng(seed)) if labels[row] == 1]) - 10
        assert set(np.bincount(fakes // 12, minlength=5).tolist()) <= {1, 2, 3}


def test_over_the_epochs_every_fake_has_its_turn() -> None:
    labels = np.repeat([0, 1], [4, 20])
    batches = BalancedBatches(labels, 8, seed=0)
    seen = {window.row for epoch in range(60) for batch in epoch_of(batches, epoch) for window in batch}
    assert seen == set(range(24))


@given(label_lists, st.integers(1, 17), st.integers(0, 3), st.integers(1, 4), st.data())
def test_processes_share_each_batch_and_any_batch_can_be_the_first(
    labels: list[int], batch_size: int, epoch: int, world_size: int, data: st.DataObject
) -> None:
    array = np.array(labels)
    whole = epoch_of(BalancedBatches(array, batch_size, 7), epoch)
    first = data.draw(st.integers(0, len(whole)))
    shares = [
        epoch_of(BalancedBatches(array, batch_size, 7, rank, world_size), epoch, first) for rank in range(world_size)
    ]
    for number, batch in enumerate(whole[first:]):
        assert sorted(window for share in shares for window in share[number]) == sorted(batch)


@given(label_lists, st.integers(1, 17))
def test_batches_are_nearly_equal_and_none_is_larger_than_asked(labels: list[int], batch_size: int) -> None:
    batches = BalancedBatches(np.array(labels), batch_size, 0)
    sizes = [len(batch) for batch in epoch_of(batches, 0)]
    assert sizes == batches.batch_sizes
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_each_epoch_and_each_seed_is_another_one_and_always_the_same() -> None:
    labels = np.repeat([0, 1], 6)
    epochs = [epoch_of(BalancedBatches(labels, 4, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])
    assert epochs[1] == epoch_of(BalancedBatches(labels, 4, 0), 1)


@pytest.mark.parametrize(
    ("accumulate", "ends"), [(1, [True] * 5), (2, [False, True, False, True, True]), (9, [False] * 4 + [True])]
)
def test_steps_of_several_batches_end_with_the_epoch(accumulate: int, ends: list[bool]) -> None:
    batches = BalancedBatches(np.repeat([0, 1], 11), 5, 0)
    assert batches.batch_sizes == [5, 5, 4, 4, 4]
    steps = [batches.step_of(batch, accumulate) for batch in range(5)]
    assert [end for end, _ in steps] == ends
    assert sum(clips for end, clips in steps if end) == 22
