"""One version of a model at work: a bounded queue, a batcher, and a worker for every context of the pipeline."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import numpy as np

from edgeinfer.devices import STAGES
from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.results import Detections
from edgeinfer.serve.refusals import INTERNAL, OVERLOADED, UNAVAILABLE, Refusal
from edgeinfer.serve.tally import Ran

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from edgeinfer.cascade import Cascade
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.serve.faces import Work
    from edgeinfer.serve.limits import Limits

LOG = logging.getLogger("edgeinfer.serve")
Steps = tuple[int, int, int]
LOOK_S = 1.0  # how often raw outputs are looked at; of pictures all are


class Job:
    """Work on its way through a station; `answer` is a future of the event loop that submitted it.

    One that is `seated` has a place of its own in every queue: it takes no room from others, and needs none.
    """

    def __init__(
        self, work: Work, answer: asyncio.Future[Any], note: Callable[[Ran], None], *, seated: bool = False
    ) -> None:
        self.work, self.answer, self.note, self.seated = work, answer, note, seated
        self.entered_ns = time.monotonic_ns()


class Ended(NamedTuple):
    """How a batch ended: an answer for each job, or the error of all of them."""

    answers: Sequence[Any]
    error: Exception | None
    steps_ns: Steps


class Station:
    """Takes jobs from the event loop and runs them on threads of its own, in the order they came.

    `suspect` is set when the engine failed, or gave NaN: somebody should test it again. `sight` is what
    looks at pictures, the pipeline itself or with a classifier behind it. Above `score` lies what
    detectors report, whatever confidence the pipeline was opened with.
    """

    def __init__(
        self, pipeline: Pipeline, limits: Limits, *, sight: Cascade | None = None, score: float | None = None
    ) -> None:
        self.pipeline, self.suspect = pipeline, False
        self.sight: Pipeline | Cascade = sight or pipeline
        self._limits, self._score = limits, score
        self._most = min(pipeline.spec.batch.max, max(limits.batch, pipeline.spec.batch.min))
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._began: dict[int, float] = {}
        self._looked = 0.0
        self._workers = [
            threading.Thread(target=self._work, args=(place,), name=f"{pipeline.spec.name}-{place}", daemon=True)
            for place in range(pipeline.contexts)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, job: Job) -> None:
        """Queue a job; Refusal at once if the queue is full or the station closes."""
        with self._changed:
            if self._closing:
                raise Refusal(UNAVAILABLE, "the model is being unloaded")
            if not job.seated:
                self._check_room()
            self._queue.append(job)
            self._changed.notify()

    def check_room(self) -> None:
        """Refusal if a job would find the queue full."""
        with self._changed:
            self._check_room()

    def _check_room(self) -> None:
        if len(self._queue) < self._limits.queue:
            return
        waiting = sum(not job.seated for job in self._queue)
        if waiting >= self._limits.queue:
            raise Refusal(OVERLOADED, f"the model's queue is full: {waiting} requests wait")

    def withdraw(self, job: Job) -> None:
        """Take back a job whose caller has gone; without effect when it runs already."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    @property
    def age(self) -> float:
        """Seconds that the first job in the queue has waited."""
        with self._changed:
            return (time.monotonic_ns() - self._queue[0].entered_ns) / 1e9 if self._queue else 0.0

    @property
    def busy(self) -> float:
        """Seconds that the longest running batch has run."""
        began = list(self._began.values())
        return time.monotonic() - min(began) if began else 0.0

    def close(self, timeout: float) -> None:
        """Finish what waits, within `timeout` seconds, then close the pipeline; call it off the event loop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        ends = time.monotonic() + timeout
        for worker in self._workers:
            worker.join(max(0.0, ends - time.monotonic()))
        if any(worker.is_alive() for worker in self._workers):
            LOG.error("%s: a worker is stuck; its engine stays open", self.pipeline.spec.name)
            return
        self.sight.close()

    def _work(self, place: int) -> None:
        while self._worked(place):
            continue

    def _worked(self, place: int) -> bool:
        """Run the next batch, of which nothing is kept while another is waited for; False when the station closes."""
        batch = self._take()
        if not batch:
            return False
        self._began[place] = time.monotonic()
        began_ns = time.monotonic_ns()
        ended = self._run(batch)
        del self._began[place]
        self._settle(batch, began_ns, ended)
        if batch[0].work.key == "raw":
            self._look_at(ended.answers)
        return True

    def _look_at(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Suspect the engine if these outputs are not finite; their requests have been answered already."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        for answer in answers:
            if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in answer.values()):
                self.suspect = True

    def _take(self) -> list[Job]:
        """The next batch: jobs of one key, from the head of the queue; empty when the station closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return []
            batch = [self._queue.popleft()]
            rows = batch[0].work.rows
            patience_ns = batch[0].entered_ns + int(self._limits.delay * 1e9)
            while rows < self._most:
                if self._queue:
                    following = self._queue[0].work
                    if following.key != batch[0].work.key or rows + following.rows > self._most:
                        break
                    rows += following.rows
                    batch.append(self._queue.popleft())
                    continue
                left_ns = patience_ns - time.monotonic_ns()
                if left_ns <= 0 or self._closing:
                    break
                self._changed.wait(left_ns / 1e9)
            if self._queue:
                self._changed.notify()  # who was woken for what stays was this one
            return batch

    def _run(self, batch: list[Job]) -> Ended:
        works = [job.work for job in batch]
        try:
            answers, steps = self._tensors(works) if works[0].key == "raw" else self._images(works)
        except EdgeInferError as error:
            if isinstance(error, EngineError):
                self.suspect = True
            LOG.warning("%s: %s", self.pipeline.spec.name, error)
            return Ended((), error, (0, 0, 0))
        except Exception as error:
            self.suspect = True
            LOG.exception("%s failed", self.pipeline.spec.name)
            return Ended((), Refusal(INTERNAL, f"the model failed: {type(error).__name__}"), (0, 0, 0))
        return Ended(answers, None, steps)

    def _tensors(self, works: list[Work]) -> tuple[list[Any], Steps]:
        marks = [time.perf_counter_ns()]
        tensors = works[0].data
        if len(works) > 1:
            tensors = {name: np.concatenate([work.data[name] for work in works]) for name in tensors}
        marks.append(time.perf_counter_ns())
        outputs = self.pipeline.infer(tensors)
        marks.append(time.perf_counter_ns())
        answers, row = [], 0
        for work in works:
            answers.append({name: output[row : row + work.rows] for name, output in outputs.items()})
            row += work.rows
        return answers, (marks[1] - marks[0], marks[2] - marks[1], time.perf_counter_ns() - marks[2])

    def _images(self, works: list[Work]) -> tuple[list[Any], Steps]:
        results = self.sight.batch([work.data for work in works], pixels=works[0].key.split()[-1])
        before, during, after, again = (int(results[0].timings_ms.get(one, 0.0) * 1e6) for one in (*STAGES, "classify"))
        if self._score is not None:
            results = [one.above(self._score) if isinstance(one, Detections) else one for one in results]
        return results, (before, during + again, after)

    def _settle(self, batch: list[Job], began_ns: int, ended: Ended) -> None:
        try:
            batch[0].answer.get_loop().call_soon_threadsafe(_answer, batch, began_ns, ended)
        except RuntimeError:  # the event loop is gone, and whoever waited with it
            LOG.debug("nobody waits any more")


def _answer(batch: list[Job], began_ns: int, ended: Ended) -> None:
    """Hand the answers over, in the event loop; what is counted of them waits until they are on their way."""
    for place, job in enumerate(batch):
        if job.answer.done():
            continue
        if ended.error:
            job.answer.set_exception(ended.error)
        else:
            job.answer.set_result(ended.answers[place])
    if not ended.error:
        queued = tuple(began_ns - job.entered_ns for job in batch)
        ran = Ran(sum(job.work.rows for job in batch), queued, ended.steps_ns)
        # every job of a batch has the same face, so the first one's note is that of all
        batch[0].answer.get_loop().call_soon(batch[0].note, ran)
