"""Ctrl-C during a measurement: noticed between two calls, so that what was measured until then stays whole."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interruption:
    """`asked` turns true with the first Ctrl-C; the second raises KeyboardInterrupt at once."""

    asked = False

    def __call__(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def noticed() -> Iterator[Interruption]:
    """Ctrl-C goes to the `Interruption` given, in the main thread; other threads never get one."""
    stop = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
