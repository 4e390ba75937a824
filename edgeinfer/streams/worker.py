"""The threads that call a stream's model; they work on after the main thread's end, when Python's own pools do not."""

from __future__ import annotations

import threading
from itertools import groupby
from typing import TYPE_CHECKING, Optional

from edgeinfer import lifetime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from queue import SimpleQueue

    from edgeinfer.results import Result
    from edgeinfer.sources import Frame
    from edgeinfer.streams import Model

    Work = Optional[tuple[list[Frame], Future[Sequence[Result]]]]

END_S = 10.0  # how long the end of the process waits for a call that runs


class Worker(threading.Thread, lifetime.Guest):
    """Takes frames, whose results the model is asked for, until it is handed None instead."""

    def __init__(self, place: int, model: Model, works: SimpleQueue[Work]) -> None:
        super().__init__(name=f"stream {place}", daemon=True)
        self._model, self._works = model, works
        lifetime.watch(self)

    def run(self) -> None:
        """The thread's work."""
        while self._done(self._works.get()):
            continue

    def _done(self, work: Work) -> bool:
        """Whether there was something to do; of it nothing is kept."""
        if work is None:
            return False
        frames, future = work
        try:
            results = self._results(frames)
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            future.set_exception(error)
            del work, future  # else the error, by way of this frame, would hold itself
        else:
            future.set_result(results)
        return True

    def _results(self, frames: list[Frame]) -> list[Result]:
        """A result a frame; neighbours whose pixels are of one kind go through the model together."""
        results: list[Result] = []
        for pixels, alike in groupby(frames, lambda frame: frame.pixels):
            results += self._model.batch([frame.image for frame in alike], pixels=pixels)
        return results

    def halt(self) -> None:
        """Begin nothing after what waits now."""
        self._works.put(None)

    def settle(self) -> None:
        """Wait for a call that runs."""
        if self.ident is not None:
            self.join(END_S)
