"""Ctrl-C, SIGTERM of supervisors, SIGHUP of a terminal that is gone: what is under way is finished or tidied up."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeinfer.interruption import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

AGAIN_S = 0.05
IMPORTING = "<frozen importlib._bootstrap>"


class Ending:
    """Raises KeyboardInterrupt where the program is; `asked` is the first other than Ctrl-C to ask, or 0.

    A second of those changes nothing, a second Ctrl-C ends the tidying up too. Extension modules lose exceptions
    that are raised while they are imported, and may be left without half of their names: there the signal waits.
    """

    asked = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif not self.asked:
            self.asked = number
            raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether the command line, which may itself be run by an import, is importing something."""
    while frame and frame.f_globals.get("__name__") != __package__:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


@contextmanager
def orderly() -> Iterator[Ending]:
    """The signals go to the `Ending` given, in the main thread; other threads never get one.

    SIGHUP does not where `nohup` has it ignored.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if number != signal.SIGHUP or before[number] != signal.SIG_IGN:
            signal.signal(number, ending)
    try:
        yield ending
    finally:
        # all of them: the event loop of a service resets what it has taken to the system's default
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
