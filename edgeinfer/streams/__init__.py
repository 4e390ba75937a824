"""A model on cameras, streams and videos: results that say how old they are, and sources that say how they are."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from edgeinfer import given, naming, sources
from edgeinfer.errors import UsageError
from edgeinfer.pictures import MAX_PIXELS
from edgeinfer.streams.capture import Capture
from edgeinfer.streams.inbox import Captured, Inbox
from edgeinfer.streams.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from edgeinfer.results import Result
    from edgeinfer.sources import Frame, OnError
    from edgeinfer.streams.vitals import Health, Vitals
    from edgeinfer.streams.worker import Work

LOG = logging.getLogger(__name__)

MANY = 100  # pictures in a row of which no result was given, because all were too old, are worth a warning


@dataclass(frozen=True)
class Freshness:
    """How much of the present a result shows.

    `captured_ns` is the monotonic clock when the frame was captured, as far as its source or the way it came tell
    (`sources.arrivals`), `age_ms` how long ago that was when the result was handed over, and `queue_ms` the part of
    it that was spent waiting, not in the model; `sequence` counts the source's frames from 0; `dropped` of them came
    since the result before and were left for newer ones; `fault` says what is wrong with the picture ("black"), or
    nothing.
    """

    captured_ns: int
    age_ms: float
    queue_ms: float
    sequence: int
    dropped: int
    fault: str = ""

    @property
    def captured(self) -> str:
        """When that was by the clock on the wall, in UTC: `2026-11-21T08:30:00.125Z`."""
        ago_s = (time.monotonic_ns() - self.captured_ns) / 1e9
        moment = datetime.fromtimestamp(time.time() - ago_s, timezone.utc)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that goes beside a result."""
        times = {"age_ms": round(self.age_ms, 1), "queue_ms": round(self.queue_ms, 1)}
        record = {"captured": self.captured, **times, "sequence": self.sequence, "dropped": self.dropped}
        return {**record, "fault": self.fault} if self.fault else record


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame, what the model found in it, and how fresh both are; `live` if it came from a camera, not from a file."""

    frame: Frame
    result: Result
    freshness: Freshness
    live: bool
    place: int = 0  # of its source among those of the stream


class Model(Protocol):
    """What a stream asks of a model, such as `Pipeline`, `Cascade` or `Tiled`."""

    @property
    def group(self) -> int:
        """How many pictures a call should have at most."""

    @property
    def contexts(self) -> int:
        """How many calls may run at the same time."""

    def batch(self, images: Sequence[Any], *, pixels: str = "bgr") -> Sequence[Result]:
        """A result a picture."""


class Stream:
    """Iterate to get `Seen`: every frame of files, in order; the newest frame of each camera, never an older one later.

    Frames are captured by a thread for each source and run on as many threads as the model has contexts, while the
    caller handles results. Several sources share the model's batches, and take turns. `names` are what the sources are
    called, passwords left out, the second of one name with a number. `health()` may be asked from any thread.
    """

    def __init__(
        self,
        names: Sequence[str | Path],
        model: Model,
        *,
        max_age_ms: float = 0,
        patient: bool = False,
        max_pixels: int = MAX_PIXELS,
        on_error: OnError = sources.refuse,
    ) -> None:
        if not names:
            raise UsageError("a stream needs at least one source")
        given.check_number("max_age_ms", max_age_ms)
        self._model, self._max_age_ms = model, max_age_ms
        given_names = [naming.name_of(name) for name in names]
        self._names = naming.unique(given_names)
        self.names = naming.unique([naming.without_password(name) for name in given_names])
        self._inbox = Inbox(len(names))
        self._captures = [
            Capture(place, name, shown, self._inbox, patient=patient, max_pixels=max_pixels, on_error=on_error)
            for place, (name, shown) in enumerate(zip(given_names, self.names))
        ]
        self._works: SimpleQueue[Work] = SimpleQueue()
        self._workers = [Worker(place, model, self._works) for place in range(model.contexts)]
        # whoever stops iterating and begins again goes on with these
        self._running: deque[tuple[list[Captured], Future[Sequence[Result]]]] = deque()
        self._ready: deque[tuple[Captured, Result]] = deque()
        self._late = [0] * len(names)
        self._closed = False
        self._within = 0  # the thread that waits for frames or results in here
        threads: list[Capture | Worker] = [*self._workers, *self._captures]
        # weakly: one that has ended keeps its source's error, which holds whoever raised it, and so this stream; at the
        # end of the process the threads are told themselves
        weakref.finalize(self, _let_go, weakref.WeakSet(threads)).atexit = False
        for thread in threads:
            thread.start()

    @property
    def live(self) -> bool:
        """Whether a camera or stream is among the sources, or what may be one: its server has not answered yet."""
        return any(capture.live for capture in self._captures)

    @property
    def _depth(self) -> int:
        """A file's next frame is in hand before it is needed; a camera's is taken when it can be run at once."""
        return self._model.contexts + (not self.live)

    def health(self) -> dict[str, Health]:
        """How each source is, by the name it was given under; a second of that name has "(2)" after it."""
        return {name: vitals.health() for name, vitals in self.vitals().items()}

    def vitals(self) -> dict[str, Vitals]:
        """What each source has shown so far, by the same names."""
        return {name: capture.vitals for name, capture in zip(self._names, self._captures)}

    def __iter__(self) -> Iterator[Seen]:
        while not self._closed:
            if self._ready:
                seen = self._seen(*self._ready.popleft())
                if seen:
                    yield seen
            elif not self._go_on():
                break
        self._raise()

    def _go_on(self) -> bool:
        """Start what can be started, and take what is due; False when nothing runs any more."""
        self._within, running = threading.get_ident(), self._running
        try:
            self._start()
            if running and (len(running) >= self._depth or running[0][1].done() or self._inbox.drained):
                taken, future = running.popleft()
                self._ready.extend(zip(taken, future.result()))
                return True
            return bool(running)
        finally:
            self._within = 0

    def _start(self) -> None:
        """Run what waits, as far as there is room; wait for a frame or for the oldest result."""
        running = self._running
        if len(running) >= self._depth:
            return
        taken = self._inbox.take(self._model.group, lambda: bool(running) and running[0][1].done())
        if taken:
            future: Future[Sequence[Result]] = Future()
            wake = self._inbox.wake
            future.add_done_callback(lambda _: wake())  # without a way back to whoever holds the future
            self._works.put(([one.frame for one in taken], future))
            if not self._closed:  # meanwhile, and perhaps by then no worker was left for these
                running.append((taken, future))

    def _seen(self, captured: Captured, result: Result) -> Seen | None:
        """What is handed over, with its age at this moment; None for what is too old."""
        age_ms = (time.monotonic_ns() - captured.frame.captured_ns) / 1e6
        camera = captured.camera
        if captured.live and self._max_age_ms and age_ms > self._max_age_ms:
            before, self._late[camera] = self._late[camera], self._late[camera] + 1 + captured.dropped
            if before < MANY <= self._late[camera]:
                told = self.names[camera], MANY, self._max_age_ms, age_ms
                LOG.warning("%s: no result of the last %d pictures was younger than %g ms: this is %.0f ms old", *told)
            return None
        dropped, self._late[camera] = captured.dropped + self._late[camera], 0
        queue_ms = max(0.0, age_ms - sum(result.timings_ms.values()))
        shown = captured.frame.captured_ns, age_ms, queue_ms, captured.sequence, dropped, captured.fault
        return Seen(captured.frame, result, Freshness(*shown), captured.live, camera)

    def _raise(self) -> None:
        """The first error that ended a source, once everything else is done."""
        for capture in self._captures:
            if capture.error:
                raise capture.error

    def stop(self) -> None:
        """Read no more, and run no more: results come to their end. Waits for nothing, and may be called anywhere."""
        self._closed = True
        for capture in self._captures:
            capture.stop()
        self._inbox.close()
        for worker in self._workers:
            worker.halt()

    def close(self) -> None:
        """Stop, and wait for calls and reads that run.

        In the handler of a signal that interrupted the wait for the next result it does only the former.
        """
        self.stop()
        if self._within == threading.get_ident():  # and holds what the threads need to end
            return
        for worker in self._workers:
            worker.join()
        for capture in self._captures:
            capture.settle()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _let_go(threads: Iterable[Capture | Worker]) -> None:
    """What a stream leaves that nobody closed and nobody has any more: cameras and files must not stay open."""
    for thread in threads:
        thread.halt()


def stream(
    source: str | Path | Sequence[str | Path], model: Model, *, max_age_ms: float = 0, patient: bool = False
) -> Stream:
    """The model on a camera, stream or video, or on several at once; closed by `with`, or once nobody has it any more.

    Results older than `max_age_ms` are not given (0: all are); `patient` waits for cameras that are not there yet.
    Raises SourceError when a source cannot be opened, or when a file cannot be read to its end.
    """
    names = [source] if isinstance(source, (str, bytes)) or not hasattr(source, "__iter__") else list(source)
    return Stream(names, model, max_age_ms=max_age_ms, patient=patient)
