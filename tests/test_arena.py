"""Memory that is lent in pieces and taken back: nobody's piece is anybody else's, and in the end all is there again."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arena import Arena
from pipeline.types import BoolArray, UInt8Array

PAGE = 4096
"""Bytes that a piece is rounded up to."""
NUM_PAGES = 12

sizes = st.integers(1, 5 * PAGE)
"""Up to five pages."""
steps = st.lists(st.one_of(st.tuples(st.just("take"), sizes), st.tuples(st.just("give back"), st.integers(0, 99))))


def num_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE)


class Ledger:
    """An arena, and what it should know."""

    def __init__(self) -> None:
        self.arena = Arena(NUM_PAGES * PAGE)
        whole = self.arena.take(NUM_PAGES * PAGE)
        assert whole is not None
        self._start = whole.ctypes.data
        self.arena.give_back(whole)
        self.is_free: BoolArray = np.ones(NUM_PAGES, bool)
        self.lent: list[tuple[UInt8Array, int]] = []
        """Each with the value that was written into it."""

    @property
    def first_fits(self) -> list[tuple[int, int]]:
        """First page and length of each free piece."""
        runs = [(free, len(list(run))) for free, run in groupby(self.is_free.tolist())]
        starts = np.cumsum([0, *(length for _, length in runs)]).tolist()
        return [(start, length) for start, (free, length) in zip(starts, runs, strict=False) if free]

    def pages(self, array: UInt8Array) -> slice:
        first = (array.ctypes.data - self._start) // PAGE
        return slice(first, first + num_pages(array.nbytes))

    def take(self, num_bytes: int, value: int) -> None:
        array = self.arena.take(num_bytes)
        fitting = [start for start, length in self.first_fits if length >= num_pages(num_bytes)]
        assert (array is not None) == bool(fitting), "refused only where no piece is large enough"
        if array is not None:
            assert array.shape == (num_bytes,)
            assert array.dtype == np.uint8
            assert array.flags.c_contiguous
            assert self.pages(array).start == fitting[0], "the first piece that fits"
            self.is_free[self.pages(array)] = False
            array[:] = value
            self.lent.append((array, value))

    def give_back(self, number: int) -> None:
        array, _ = self.lent.pop(number)
        self.is_free[self.pages(array)] = True
        self.arena.give_back(array)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_what_is_lent_is_the_borrowers_alone_until_it_is_given_back(sequence: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    for value, (what, number) in enumerate(sequence):
        if what == "take":
            ledger.take(number, value % 256)
        elif ledger.lent:
            ledger.give_back(number % len(ledger.lent))
        assert all((array == written).all() for array, written in ledger.lent)
        assert ledger.arena.num_free_bytes == PAGE * ledger.is_free.sum()
    while ledger.lent:
        ledger.give_back(len(sequence) % len(ledger.lent))
    assert ledger.arena.num_free_bytes == ledger.arena.num_bytes
    assert ledger.arena.take(ledger.arena.num_bytes) is not None, "in one piece again"
    assert ledger.arena.num_free_bytes == 0


def test_a_hole_is_filled_before_what_was_never_used() -> None:
    arena = Arena(4 * PAGE)
    first, second = arena.take(PAGE), arena.take(PAGE)
    assert first is not None
    assert second is not None
    arena.give_back(first)
    assert arena.take(2 * PAGE) is not None, "behind the second: it doesn't fit before it"
    again = arena.take(1)
    assert again is not None
    assert again.ctypes.data == first.ctypes.data


def test_free_bytes_in_two_pieces_are_not_one() -> None:
    arena = Arena(3 * PAGE)
    pieces = [arena.take(PAGE) for _ in range(3)]
    for piece in pieces[::2]:
        assert piece is not None
        arena.give_back(piece)
    assert arena.num_free_bytes == 2 * PAGE
    assert arena.take(2 * PAGE) is None


def test_an_arena_of_nothing_lends_nothing() -> None:
    arena = Arena(0)
    assert arena.take(1) is None
    assert arena.num_free_bytes == arena.num_bytes == 0


def test_a_limit_is_kept_and_takes_everything_back() -> None:
    arena = Arena(4 * PAGE)
    first = arena.take(PAGE)
    assert first is not None
    arena.limit(2 * PAGE)
    assert arena.num_free_bytes == arena.num_bytes == 2 * PAGE
    assert arena.take(3 * PAGE) is None
    again = arena.take(2 * PAGE)
    assert again is not None
    assert again.ctypes.data == first.ctypes.data
    arena.limit(9 * PAGE)
    assert arena.num_free_bytes == arena.num_bytes == arena.capacity_bytes == 4 * PAGE
