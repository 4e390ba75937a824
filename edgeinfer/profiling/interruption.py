"""Ctrl-C during a measurement: noticed between two calls, so that what was measured until then stays whole."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interruption:
    """`asked` turns true with the first Ctrl-C; the second raises KeyboardInterrupt at once, unless `patient`."""

    def __init__(self, *, patient: bool) -> None:
        self.asked, self._patient = False, patient

    def __call__(self, *_: Any) -> None:
        if self.asked and not self._patient:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def noticed(*, patient: bool = False) -> Iterator[Interruption]:
    """Ctrl-C goes to the `Interruption` given, in the main thread; other threads never get one.

    `patient` is for a block that no exception may be thrown through.
    """
    stop = Interruption(patient=patient)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
