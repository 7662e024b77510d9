"""Items made in another thread: the same ones, not too many, and nothing left behind. Nothing here waits for time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ahead import map_ahead, read_ahead

SAFETY_SECONDS = 30.0
"""For which a test that has failed already may hang."""


def is_over() -> bool:
    """No thread of ours is left."""
    return not any(thread.name.startswith(("read-ahead", "map-ahead")) for thread in threading.enumerate())


class Made:
    """Makes numbers, and says how many so far."""

    def __init__(self, num_items: int, tell_at: int = -1, error: BaseException | None = None) -> None:
        self._num_items = num_items
        self._tell_at = tell_at
        self._error = error
        self.num_asked_for = 0
        self.num_made = 0
        self.most_ahead = 0
        self.told = threading.Event()

    def __iter__(self) -> Iterator[int]:
        for number in range(self._num_items):
            self.num_made += 1
            # What was asked for may not have been handed over yet, so this is never more than there really are.
            self.most_ahead = max(self.most_ahead, self.num_made - self.num_asked_for)
            if self.num_made == self._tell_at:
                self.told.set()
            yield number
        if self._error is not None:
            raise self._error


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.integers(1, 8))
def test_the_same_items_in_the_same_order_and_never_too_many(num_items: int, max_ahead: int) -> None:
    made = Made(num_items)
    taken = read_ahead(made, max_ahead)
    for number in range(num_items):
        made.num_asked_for += 1
        assert next(taken) == number
    assert next(taken, None) is None
    assert made.most_ahead <= max_ahead + 1, "those that wait, and the one that is about to"
    assert is_over()


def test_items_are_made_while_one_is_looked_at() -> None:
    made = Made(100, tell_at=1 + 4)
    taken = read_ahead(made, max_ahead=4)
    made.num_asked_for += 1
    assert next(taken) == 0
    assert made.told.wait(SAFETY_SECONDS), "nobody asked for the next four"
    made.num_asked_for += 1
    assert next(taken) == 1
    taken.close()
    assert made.most_ahead <= 4 + 1
    assert is_over()


def test_nothing_is_made_before_somebody_asks() -> None:
    made = Made(3)
    taken = read_ahead(made, 2)
    assert (made.num_made, is_over()) == (0, True)
    taken.close()
    assert (made.num_made, is_over()) == (0, True)


@pytest.mark.parametrize("num_items", [0, 1, 7])
@pytest.mark.parametrize("error", [ValueError("injected"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_comes_where_its_item_would_have(num_items: int, error: BaseException) -> None:
    taken = read_ahead(Made(num_items, error=error), 3)
    assert [next(taken) for _ in range(num_items)] == list(range(num_items))
    with pytest.raises(type(error)) as caught:
        next(taken)
    assert caught.value is error
    assert is_over()


@pytest.mark.parametrize("num_items", [5, 1000])
@pytest.mark.parametrize("max_ahead", [1, 6])
def test_closing_early_ends_the_thread(num_items: int, max_ahead: int) -> None:
    made = Made(num_items)
    taken = read_ahead(made, max_ahead)
    made.num_asked_for += 2
    assert [next(taken), next(taken)] == [0, 1]
    taken.close()
    assert is_over()
    assert made.num_made < 1000


def test_an_error_after_the_last_item_that_was_wanted_is_nobodys() -> None:
    made = Made(3, error=ValueError("injected"))
    taken = read_ahead(made, 6)
    assert next(taken) == 0
    taken.close()
    assert is_over()


def test_an_error_of_whoever_takes_them_ends_the_thread() -> None:
    def take(items: Iterator[int]) -> None:
        for item in items:
            if item == 3:
                raise RuntimeError("injected")

    taken = read_ahead(range(1000), 2)
    with pytest.raises(RuntimeError, match="injected"):
        take(taken)
    taken.close()
    assert is_over()


def test_closing_waits_for_the_item_that_is_being_made() -> None:
    """Or a video would be closed while a frame of it is being decoded."""
    is_making, may_go_on = threading.Event(), threading.Event()
    happened: list[str] = []

    def slow() -> Iterator[int]:
        yield 0
        is_making.set()
        may_go_on.wait(SAFETY_SECONDS)
        happened.append("made")
        yield 1

    def close() -> None:
        taken.close()
        happened.append("closed")

    taken = read_ahead(slow(), 1)
    assert next(taken) == 0
    assert is_making.wait(SAFETY_SECONDS)
    closing = threading.Thread(target=close)
    closing.start()
    may_go_on.set()
    closing.join(SAFETY_SECONDS)
    assert happened == ["made", "closed"]
    assert is_over()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.integers(1, 8))
def test_results_come_in_the_order_of_their_items_and_never_too_many(num_items: int, num_threads: int) -> None:
    made = Made(num_items)
    results = map_ahead(lambda number: number * number, made, num_threads)
    for number in range(num_items):
        made.num_asked_for += 1
        assert next(results) == number * number
    assert next(results, None) is None
    assert made.most_ahead <= num_threads + 1
    assert is_over()


def test_items_are_worked_on_side_by_side() -> None:
    together = threading.Barrier(3, timeout=SAFETY_SECONDS)  # It breaks, an error, where they aren't.
    assert sorted(map_ahead(lambda _: together.wait(), range(3), 3)) == [0, 1, 2]


def test_an_error_comes_where_its_result_would_have_and_nothing_is_left_behind() -> None:
    results = map_ahead(lambda number: 1 / (2 - number), range(1000), 2)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert is_over()


def test_whoever_takes_no_more_results_leaves_no_thread() -> None:
    made = Made(1000)
    results = map_ahead(lambda number: number, made, 2)
    assert next(results) == 0
    results.close()
    assert is_over()
    assert made.num_made <= 3
