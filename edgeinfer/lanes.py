"""What calls of a model run on: lanes, of which each call leases one and waits while all are taken."""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Callable, TypeVar

from edgeinfer import lifetime
from edgeinfer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.backends import Engine
    from edgeinfer.devices import Device

T = TypeVar("T")
LOOK_S = 0.5  # how often who waits looks whether there still is cause to
END_S = 10.0  # how long the end of the process waits for calls that run


class Lane:
    """A device with its own buffers and an engine context on it: what one call needs for itself."""

    def __init__(self, device: Device, engine: Engine) -> None:
        self.device, self.engine = device, engine
        self.way = device.join(engine)

    def close(self) -> None:
        with closing(self.device), closing(self.engine):
            self.way.close()  # first: a graph runs what is its engine's


class _Fleet:
    """Lanes that serve together: engines that share weights, closed together when no call, or nobody, has any."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = tuple(lanes)
        self.close = weakref.finalize(self, _close, self.lanes)  # once, and not after the end of the process
        self.close.atexit = False


def _close(lanes: Sequence[Lane]) -> None:
    # contexts before the weights they share, which the first lane holds; a failure stops none of the rest
    with ExitStack() as each:
        for lane in lanes:
            each.callback(lane.close)


class Lanes(lifetime.Guest):
    """The lanes of one pipeline: leased by its calls, exchanged and freed when no call has any."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._fleet = _Fleet(lanes)
        # by the call that has it, after its thread's number; with its fleet, which is not closed while a call has any
        self._taken: dict[tuple[int, object], tuple[_Fleet, Lane]] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._ending = self._inherited = False
        self.closed = False
        lifetime.watch(self)

    def __len__(self) -> int:
        return len(self._fleet.lanes)

    @property
    def first(self) -> Lane:
        return self._fleet.lanes[0]

    def leased(self, work: Callable[[Lane], T]) -> T:
        """What `work` gives, with a lane of its own.

        A signal's exception, wherever it comes, neither loses a lane nor leaves the lock taken: to take a lane and note
        for which call is one step, so is giving it back, and `with` enters a lock of C, no condition.
        """
        call = threading.get_ident(), object()
        try:
            return work(self._lease(call))
        finally:
            self._taken.pop(call, None)
            with self._lock:
                self._changed.notify_all()

    def _lease(self, call: tuple[int, object]) -> Lane:
        if self._inherited:
            raise InputError(
                "the pipeline was loaded before this process was forked, and works in its parent only",
                hint='load the bundle in each process, or start them with multiprocessing.get_context("spawn")',
            )
        if self._within() >= max(1, len(self)):
            raise InputError(
                "the pipeline was called by what interrupted a call of it, which it would wait for without end",
                hint="let the signal's handler set a flag, or load the bundle with more contexts",
            )
        with self._lock:
            self._await(lambda: self.closed or bool(self._idle() and not self._barred()))
            # the first of them: with one caller the same lane stays warm in the caches
            for lane in self._idle()[:1]:
                self._taken[call] = self._fleet, lane
            self._check_open()  # asked last: a signal's handler may close at any moment
        return self._taken[call][1]

    def _check_open(self) -> None:
        """Raise InputError if these are closed."""
        if self.closed:
            raise InputError("the pipeline is closed", hint="load the bundle again")

    def _await(self, fact: Callable[[], bool]) -> None:
        """Wait, with the lock, until this is true; the word that it is a signal's exception may have broken off."""
        while not self._changed.wait_for(fact, LOOK_S):
            continue

    def _within(self) -> int:
        """How many calls this thread is in the middle of: none, but in the handler of a signal that came in them."""
        return [thread for thread, _ in [*self._taken]].count(threading.get_ident())

    def _idle(self) -> list[Lane]:
        taken = [lane for _, lane in [*self._taken.values()]]
        return [lane for lane in self._fleet.lanes if lane not in taken]

    def _home(self, fleet: _Fleet) -> bool:
        return all(fleet is not taken for taken, _ in [*self._taken.values()])

    def _barred(self) -> bool:
        """Whether the process ends and this thread may be stopped by it at any moment."""
        return self._ending and threading.current_thread().daemon

    def take_over(self, other: Lanes, meanwhile: Callable[[], None]) -> None:
        """Lease from now on what `other` has, which is closed by it; free what was leased so far.

        `meanwhile` is called between the last lease of the old ones and the first of the new. Waits for running calls.
        Raises InputError when these are closed.
        """
        self._check_open()
        old = other._give_up()
        with self._lock:
            if not self.closed:  # in the meantime
                old, self._fleet = self._fleet, old
                meanwhile()
                self._changed.notify_all()
                self._await(lambda: self._home(old))
        old.close()

    def _give_up(self) -> _Fleet:
        """All lanes, once they are home; these are closed then, and none are left."""
        with self._lock:
            self._await(lambda: self._home(self._fleet))
            self.closed = True
            given, self._fleet = self._fleet, _Fleet(())
            self._changed.notify_all()
        return given

    @property
    def may_wait(self) -> bool:
        """Whether this thread may wait for all calls: not in a fork, and not in the middle of a call of its own."""
        return not (self._inherited or self._within())

    def close(self) -> None:
        """Lease none any more, and free them once no call has any; where this thread may not wait, only the former.

        In a forked process nothing is done.
        """
        if self._inherited:
            return
        may_wait = self.may_wait
        with self._lock:
            self.closed = True
            self._changed.notify_all()
            if not may_wait:
                return
            self._await(lambda: self._home(self._fleet))
        self._fleet.close()

    def halt(self) -> None:
        """From now on calls of daemon threads wait for the end of the process."""
        self._ending = True

    def settle(self) -> None:
        """Wait for running calls, within reason."""
        with self._lock:
            self._changed.wait_for(lambda: self._home(self._fleet), END_S)

    def orphan(self) -> None:
        """Refuse calls in this process, and keep its copy of the engines until it has ended."""
        import ctypes

        self._inherited = True
        # one reference too many: even the interpreter's own end must not free them
        for held in (self._fleet, self._taken):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
