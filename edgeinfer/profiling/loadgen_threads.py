"""Threads for all that calls LoadGen: they last as long as the process, and are used again.

LoadGen's own thread reads what every thread has logged that called it, and crashes if one of them ended meanwhile
(6.0.17, in `TlsLogger::SwapBuffers`): once in a thousand tests, on a busy machine.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Callable

LOG = logging.getLogger(__name__)
_IDLE: list[_Worker] = []


def begin(work: Callable[[], None]) -> threading.Event:
    """Run the work in such a thread, which others may have had before. The event is set once it is over."""
    over = threading.Event()
    try:
        worker = _IDLE.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    worker.works.put((work, over))
    return over


class _Worker(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="edgeinfer-loadgen", daemon=True)
        self.works: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            self._do(*self.works.get())

    def _do(self, work: Callable[[], None], over: threading.Event) -> None:
        try:
            work()
        except Exception:
            LOG.exception("a call of LoadGen failed")
        _IDLE.append(self)
        over.set()
