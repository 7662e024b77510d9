"""Items made by other threads, some ahead of whoever takes them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


class _End:
    """There is nothing more, or an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(items: Iterable[T], max_ahead: int) -> Generator[T, None, None]:
    """The same items in the same order, while up to ``max_ahead`` more are made meanwhile.

    Closing it waits for the item that is being made. An error of ``items`` is raised where its item would have come.
    """
    made: queue.Queue[T | _End] = queue.Queue(max_ahead)
    is_wanted = True

    def make() -> None:
        end = _End()
        try:
            for item in items:
                made.put(item)
                if not is_wanted:
                    return
        except BaseException as error:  # Raised where the item would have come.
            end = _End(error)
        made.put(end)

    thread = threading.Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_wanted = False
        while thread.is_alive():
            try:
                made.get(timeout=0.01)  # Room for what it is about to put.
            except queue.Empty:
                continue
        thread.join()


def map_ahead(function: Callable[[T], Result], items: Iterable[T], num_threads: int) -> Generator[Result, None, None]:
    """What a function makes of each item, in order, while the next ``num_threads`` items are worked on meanwhile.

    For what mostly waits, such as requests. An error is raised where its result would have come; closing it waits for
    what is being worked on.
    """
    with ThreadPoolExecutor(num_threads, "map-ahead") as pool:
        coming: deque[Future[Result]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(function, item))
                if len(coming) > num_threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
