"""The process that a model lives in: what its end would break off, and what a fork of it inherits.

Once the interpreter ends, Python stops a daemon thread where it comes back from a library, and many libraries (those of
pybind11, OpenCV) take that for an error and abort the process: before the end such threads are kept from starting work.
A forked process has none of its parent's threads, for which libraries would wait when they are asked to free something.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref


class Guest:
    """Something that works in threads, or holds what does: `watch` it."""

    def halt(self) -> None:
        """The process is about to end: start nothing more in daemon threads."""

    def settle(self) -> None:
        """Wait for what runs, so far as that makes sense."""

    def orphan(self) -> None:
        """In a fork of the process, which has no such threads: nothing inherited may be used, waited for or freed."""


_GUESTS: weakref.WeakKeyDictionary[Guest, None] = weakref.WeakKeyDictionary()
_ENDING = threading.Event()


def watch(guest: Guest) -> None:
    """Tell the guest, as long as it is there, of the end of this process and of its forks."""
    _GUESTS[guest] = None
    if _ENDING.is_set():  # the others have been told
        guest.halt()


def _present() -> list[Guest]:
    """Those that are there, while other threads may add some."""
    return [guest for reference in _GUESTS.keyrefs() if (guest := reference()) is not None]


@atexit.register
def _end() -> None:
    _ENDING.set()
    guests = _present()
    for guest in guests:
        guest.halt()
    for guest in guests:
        guest.settle()


def _fork() -> None:
    inherited = _present()
    _GUESTS.clear()
    for guest in inherited:
        guest.orphan()


os.register_at_fork(after_in_child=_fork)
