"""An iterator run in a thread of its own, some items ahead of whoever takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


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
