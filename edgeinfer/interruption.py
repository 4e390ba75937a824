"""Ctrl-C, SIGTERM and SIGHUP in work that no exception may be thrown through: heard, and heeded between two calls."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    """The signals go to the `Interruption` given, so that what was measured until then stays whole.

    `patient` is for a block that no exception may be thrown through.
    """
    stop = Interruption(patient=patient)
    with taken(stop):
        yield stop


@contextmanager
def taken(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """The signals go to the handler, in the main thread; other threads never get one.

    SIGTERM and SIGHUP only where a function has them, for else they end the process, which is as well. That function
    hears of them when the block is over; its KeyboardInterrupt is dropped: the handler has seen to the end of the work.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = []

    def handle(number: int, frame: Any) -> None:
        if number != signal.SIGINT:
            terminated.append(number)
        handler(number, frame)

    ours = [number for number in SIGNALS if _ours(number)]
    before = {number: signal.signal(number, handle) for number in ours}
    try:
        yield
    finally:
        for number, last in before.items():
            signal.signal(number, last or signal.SIG_DFL)
        if terminated:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(terminated[0])


def _ours(number: int) -> bool:
    return number == signal.SIGINT or callable(signal.getsignal(number))
