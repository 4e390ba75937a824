"""Ctrl-C and SIGTERM during work that no exception may be thrown through: heard, and heeded between two calls."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interruption:
    """`asked` turns true with the first signal; a second Ctrl-C raises KeyboardInterrupt at once, unless `patient`."""

    def __init__(self, *, patient: bool) -> None:
        self.asked, self._patient = False, patient

    def __call__(self, number: int, _: Any) -> None:
        if self.asked and number == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def noticed(*, patient: bool = False) -> Iterator[Interruption]:
    """Both signals go to the `Interruption` given, so that what was measured until then stays whole.

    `patient` is for a block that no exception may be thrown through.
    """
    stop = Interruption(patient=patient)
    with taken(stop):
        yield stop


@contextmanager
def taken(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Both signals go to the handler, in the main thread; other threads never get one.

    SIGTERM only where a function has it, for else it ends the process, which is as well. That function hears of it when
    the block is over; its KeyboardInterrupt is dropped, because the handler has seen to the end of the work.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = []

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGTERM:
            terminated.append(number)
        handler(number, frame)

    ours = [number for number in (signal.SIGINT, signal.SIGTERM) if _ours(number)]
    before = {number: signal.signal(number, handle) for number in ours}
    try:
        yield
    finally:
        for number, last in before.items():
            signal.signal(number, last or signal.SIG_DFL)
        if terminated:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def _ours(number: int) -> bool:
    return number == signal.SIGINT or callable(signal.getsignal(number))
