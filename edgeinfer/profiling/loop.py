"""An issuer of our own: paced arrivals, which LoadGen does not have, and every kind where LoadGen is not installed.

One thread does the work, as in the system under test that LoadGen gets, so a queue needs no second thread:
a picture that is due while another is worked on waits, and its latency runs from when it was due.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Callable

from edgeinfer import interruption
from edgeinfer.profiling.samples import MOST_QUERIES, STREAMS, Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.profiling.samples import Load, Work

NAME = "edgeinfer's own loop"
Clock = Callable[[], float]


def issue(
    load: Load, work: Work, *, clock: Clock = time.perf_counter, sleep: Callable[[float], None] = time.sleep
) -> Samples:
    """Let work arrive until `load.seconds` are over, once at least; `clock` gives seconds."""
    samples = Samples(clock())
    size = STREAMS if load.kind == "multi-stream" else load.images
    with interruption.noticed() as stop:
        for query, due in zip(range(MOST_QUERIES), _ARRIVALS[load.kind](load, samples, clock)):
            if stop.asked or (query and due - samples.origin >= load.seconds):
                break
            wait = due - clock()
            if wait > 0:
                sleep(wait)
            stages = work(list(range(query * size, (query + 1) * size)))
            done = clock()
            samples.add(due - samples.origin, (done - due) * 1e3, stages, size)
            samples.elapsed_s = done - samples.origin
    samples.interrupted = stop.asked
    if load.rate and not samples.interrupted:
        # the time in which nothing more came belongs to a rate
        samples.elapsed_s = max(samples.elapsed_s, load.seconds)
    return samples


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
