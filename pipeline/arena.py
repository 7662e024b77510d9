"""Memory for pictures of all sizes that live for seconds, taken from the system once a process and used again.

The system gives a page of memory when it is first written to, which takes twenty times as long as the writing; and the
heap would be torn to pieces.
"""

from __future__ import annotations

import bisect

import numpy as np

from pipeline.types import UInt8Array

_PAGE_BYTES = 4096


class Arena:
    """A fixed amount of memory, lent out in contiguous pieces.

    The first piece that fits is lent, so that what is never needed is never taken from the system.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        """That may be lent."""
        self._bytes: UInt8Array = np.empty(num_bytes, np.uint8)
        self._free = [(0, num_bytes)]
        """From where to where, ascending; no two adjacent."""

    @property
    def capacity_bytes(self) -> int:
        """The most that may ever be lent."""
        return len(self._bytes)

    @property
    def num_free_bytes(self) -> int:
        """In pieces that may be too small."""
        return sum(stop - start for start, stop in self._free)

    def limit(self, num_bytes: int) -> None:
        """Lend no more than that, or the capacity, from now on. What was lent is taken back and must not be used any
        more."""
        self.num_bytes = min(num_bytes, self.capacity_bytes)
        self._free = [(0, self.num_bytes)]

    def take(self, num_bytes: int) -> UInt8Array | None:
        """An array of uint8 (num_bytes,) with anything in it; None if no piece is large enough."""
        num_lent = _rounded(num_bytes)
        for number, (start, stop) in enumerate(self._free):
            if num_lent <= stop - start:
                self._free[number : number + 1] = [(start + num_lent, stop)] if start + num_lent < stop else []
                return self._bytes[start : start + num_bytes]
        return None

    def give_back(self, array: UInt8Array) -> None:
        """Take back what :meth:`take` lent; the array must not be used any more."""
        start = array.ctypes.data - self._bytes.ctypes.data
        stop = start + _rounded(array.nbytes)
        number = bisect.bisect(self._free, (start, stop))
        if number < len(self._free) and self._free[number][0] == stop:
            stop = self._free.pop(number)[1]
        if number and self._free[number - 1][1] == start:
            number -= 1
            start = self._free.pop(number)[0]
        self._free.insert(number, (start, stop))


def _rounded(num_bytes: int) -> int:
    return -(-num_bytes // _PAGE_BYTES) * _PAGE_BYTES
