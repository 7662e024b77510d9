"""``python -m pipeline.child FD``: the process that does the work, started and watched by ``supervise.py``.

It takes one item after the other from its parent and says how far it is. It ends with its parent, or when it has had
nothing to do for long.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection

IDLE_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1  # From linux/prctl.h.


def _end_with_parent(connection: Connection) -> None:
    """A thread notices that the other end is gone; on Linux the kernel does, too, whatever this process hangs in."""

    def watch() -> None:
        hung_up = select.poll()
        hung_up.register(connection.fileno(), select.POLLHUP)
        while not any(events & (select.POLLHUP | select.POLLERR) for _, events in hung_up.poll()):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(connection: Connection) -> None:
    """Work through items until the parent hangs up, or sends nothing for long."""
    while connection.poll(IDLE_SECONDS):
        try:
            item, call = connection.recv()
        except EOFError:
            return
        connection.send(("taken", None))
        try:
            answer = ("done", call(item, lambda what: connection.send(("at", what))))
        except Exception as error:  # Carried to the parent, not swallowed.
            answer = ("error", error)
        try:
            connection.send(answer)
        except Exception as error:  # What can't be pickled raises errors of all kinds.
            connection.send(("error", RuntimeError(f"its {type(answer[1]).__name__} can't be sent: {error}")))


def main() -> None:
    """The parent decides when this ends: at Ctrl-C a terminal interrupts every process of the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    _end_with_parent(connection)
    serve(connection)


if __name__ == "__main__":
    main()
