"""An issuer of our own: paced arrivals, which LoadGen does not have, and every kind where LoadGen is not installed.

Where one lane does the work a queue needs no second thread: a picture that is due while another is worked on waits, and
its latency runs from when it was due.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable

from edgeinfer import interruption
from edgeinfer.profiling.samples import MOST_QUERIES, STREAMS, Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.interruption import Interruption
    from edgeinfer.profiling.samples import Load, Work

NAME = "edgeinfer's own loop"
Clock = Callable[[], float]


def issue(
    load: Load, work: Work, *, clock: Clock = time.perf_counter, sleep: Callable[[float], None] = time.sleep
) -> Samples:
    """Let work arrive until `load.seconds` are over, once at least; `clock` gives seconds."""
    samples = Samples(clock())
    size = STREAMS if load.kind == "multi-stream" else load.images
    with interruption.noticed() as stop, _Lanes(load.lanes, work, clock, stop) as lanes:
        for query, due in zip(range(MOST_QUERIES), _ARRIVALS[load.kind](load, samples, clock)):
            if stop.asked or lanes.failed or (query and due - samples.origin >= load.seconds):
                break
            wait = due - clock()
            if wait > 0:
                sleep(wait)
            lanes.begin(due, list(range(query * size, (query + 1) * size)))
    for due, stages, done in lanes.ended():
        samples.add(due - samples.origin, (done - due) * 1e3, stages, size)
        samples.elapsed_s = max(samples.elapsed_s, done - samples.origin)
    samples.interrupted = stop.asked
    if load.rate and not samples.interrupted:
        # the time in which nothing more came belongs to a rate
        samples.elapsed_s = max(samples.elapsed_s, load.seconds)
    return samples


class _Lanes:
    """Calls of the work: here if there is one lane, else in threads. None begins once it was asked to stop."""

    def __init__(self, count: int, work: Work, clock: Clock, stop: Interruption) -> None:
        self._work, self._clock, self._stop, self.failed = work, clock, stop, False
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="edgeinfer-server") if count > 1 else None
        self._calls: list[tuple[float, Any]] = []

    def begin(self, due: float, numbers: list[int]) -> None:
        """A call for pictures that were due then; with one lane it is over when this returns, or raises."""
        self._calls.append((due, self._pool.submit(self._call, numbers) if self._pool else self._call(numbers)))

    def _call(self, numbers: list[int]) -> tuple[dict[str, float], float] | None:
        if self._stop.asked or self.failed:
            return None
        try:
            return self._work(numbers), self._clock()
        except BaseException:
            self.failed = True
            raise

    def ended(self) -> Iterator[tuple[float, dict[str, float], float]]:
        """When each was due, its stages, and when it was done. Raises what the work raised."""
        for due, call in self._calls:
            done = call.result() if self._pool else call
            if done:
                yield due, *done

    def __enter__(self) -> _Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()


def _at_once(_: Load, __: Samples, clock: Clock) -> Iterator[float]:
    """Due as soon as the one before is done."""
    while True:
        yield clock()


def _poisson(load: Load, samples: Samples, _: Clock) -> Iterator[float]:
    chance = random.Random(load.seed)  # noqa: S311 - a schedule, no secret
    due = samples.origin
    while True:
        yield due
        due += chance.expovariate(load.rate)


def _camera(load: Load, samples: Samples, clock: Clock) -> Iterator[float]:
    """Ticks of a camera that keeps its newest picture only: those that came and went meanwhile are dropped."""
    tick = 0
    while True:
        newest = int((clock() - samples.origin) * load.rate)
        samples.dropped += max(0, newest - tick)
        tick = max(tick, newest)
        yield samples.origin + tick / load.rate
        tick += 1


_ARRIVALS: dict[str, Callable[[Load, Samples, Clock], Iterator[float]]] = {
    "single-stream": _at_once,
    "multi-stream": _at_once,
    "offline": _at_once,
    "server": _poisson,
    "paced": _camera,
}
