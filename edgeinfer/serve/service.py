"""What a request means, whichever way it came: both protocols ask here."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import edgeinfer
from edgeinfer.serve.cameras import Cameras
from edgeinfer.serve.daemons import DaemonThreads
from edgeinfer.serve.memory import Memory
from edgeinfer.serve.ranking import ranked
from edgeinfer.serve.refusals import FORBIDDEN, INVALID, NOT_FOUND, OVERLOADED, TIMEOUT, UNAVAILABLE, Refusal, refusal
from edgeinfer.serve.regions import Regions, brought, placed
from edgeinfer.serve.station import Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from concurrent.futures import Executor

    from edgeinfer.serve.cameras import Mount
    from edgeinfer.serve.faces import Slot, Work
    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.metrics import Metrics
    from edgeinfer.serve.repository import Found, Repository
    from edgeinfer.serve.tensors import Span, Tensor

Answered = TypeVar("Answered")
EXTENSIONS = ("classification", "binary_tensor_data", "model_repository", "statistics", "model_configuration")
SHARED = "system_shared_memory"  # where it is open to requests
SCRAPE_S = 10.0  # that a scrape may take: Prometheus waits no longer, unless told to


@dataclass(frozen=True)
class Request:
    """What a model is asked; `outputs` empty means all, `timeout` 0 the service's own, in seconds.

    By their names, `classes` says of which outputs so many best classes are asked for, and `places` which are to lie in
    shared memory.
    """

    inputs: tuple[Tensor, ...]
    id: str = ""
    outputs: tuple[str, ...] = ()
    timeout: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    places: dict[str, Span] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The outputs that were asked for, in that order."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]


class Service:
    """Answers requests from the models of a repository. `ready` is false until the start is over, and at the end.

    `mounts` are its cameras. Requests may load models if it is `managed`, and leave tensors in shared memory if that
    is `shared`.
    """

    def __init__(
        self,
        repository: Repository,
        limits: Limits,
        metrics: Metrics,
        threads: Executor,
        *,
        mounts: Sequence[Mount] = (),
        managed: bool = False,
        shared: bool = False,
    ) -> None:
        self.repository, self.limits, self.metrics = repository, limits, metrics
        self.ready, self._threads, self.memory = False, threads, Memory(limits.memory)
        self.cameras, self.regions, self._managed = Cameras(mounts), Regions(allowed=shared), managed
        self._scraping = DaemonThreads()
        self._scrape: asyncio.Future[bytes] | None = None

    async def infer(
        self,
        model: str,
        version: str,
        read: Callable[[Found], Awaitable[Request]],
        fits: Callable[[Answer], None] = lambda _: None,
    ) -> Answer:
        """Run the request that `read` makes of what a client sent to this model, if its answer `fits`.

        Refusal says why not, of those two as well.
        """

        async def work(found: Found) -> tuple[Answer, Found]:
            request = await read(found)
            found = self.repository.find(model, version)  # another may have taken over meanwhile
            with self.memory.share() as take:
                answer, ran = await self._infer(found, request, [brought(tensor, take) for tensor in request.inputs])
            fits(answer)
            return answer, ran

        answer, _ = await self._counted(self.repository.find(model, version), work)
        return answer

    async def _infer(self, found: Found, request: Request, inputs: Sequence[Tensor]) -> tuple[Answer, Found]:
        given = {tensor.name: tensor for tensor in inputs}
        if len(given) != len(request.inputs):
            raise Refusal(INVALID, "two inputs have the same name")
        names = _wanted(request, found)

        def accept() -> Work:
            return found.face.accept(given, request.parameters, self.limits)

        limit = min(request.timeout or self.limits.timeout, self.limits.timeout)
        result, ran = await self._answer(found, accept, limit, slow=found.face.slow(given))
        tensors = {tensor.name: tensor for tensor in ran.face.give(result)}
        if not set(names) <= tensors.keys():
            raise Refusal(UNAVAILABLE, f"model {ran.name!r} has changed its outputs; ask again")
        chosen = {name: _ranked(ran, tensors[name], request.classes.get(name, 0)) for name in names}
        outputs = tuple(placed(tensor, request.places.get(name)) for name, tensor in chosen.items())
        return Answer(ran.name, str(ran.version.number), request.id, outputs), ran

    async def see(self, name: str, look: Callable[[], Work]) -> tuple[Any, Found]:
        """Run the picture that `look` gives, off the event loop, through a model's face for pictures."""

        def work(found: Found) -> Awaitable[tuple[Any, Found]]:
            return self._answer(found, look, self.limits.timeout, slow=True)

        return await self._counted(self.repository.find(name), work)

    def start_cameras(self) -> None:
        """Follow the cameras, once models are served. UsageError if one asks for a model that is not there."""
        self.metrics.follow(self.cameras)
        self.cameras.start(self)

    async def turn(self, name: str, work: Work) -> tuple[Any, Found]:
        """Run a camera's frame: it waits behind the requests that came before it, and is not counted as one."""
        return await self._answer(self.repository.find(name), lambda: work, self.limits.timeout, seated=True)

    async def _counted(
        self, found: Found, work: Callable[[Found], Awaitable[tuple[Answered, Found]]]
    ) -> tuple[Answered, Found]:
        """What the work on a request gives, and the version that gave it; how it ended is counted, however it ends."""
        came = time.monotonic_ns()
        try:
            answer, found = await work(found)
        except Exception as error:
            self._count(found, came, _outcome(error))
            raise
        except asyncio.CancelledError:
            self._count(found, came, "cancelled")
            raise
        self._count(found, came, "ok")
        return answer, found

    async def _answer(
        self, found: Found, accept: Callable[[], Work], limit: float, *, slow: bool = False, seated: bool = False
    ) -> tuple[Any, Found]:
        """What the model makes of the work that `accept` gives, within so many seconds; `slow` if that gives pixels."""
        ends = asyncio.get_running_loop().time() + limit
        try:
            if not slow:
                return await self._turn(found, accept(), ends, seated=seated), found
            found.version.station.check_room()
            with self.memory.share() as take:
                work = await self._given(accept, limit)
                take(work.data.nbytes)
                # pictures suit every version
                found = self.repository.find(found.name, found.asked)
                return await self._turn(found, work, ends), found
        except asyncio.TimeoutError:
            raise Refusal(TIMEOUT, f"no answer within {limit:g} s") from None

    async def _given(self, accept: Callable[[], Work], limit: float) -> Work:
        """The work that `accept` gives off the event loop; TimeoutError if it takes more seconds.

        Before Python 3.12 asyncio.wait_for forgets a cancellation that comes when the work is done.
        """
        giving: asyncio.Future[Work] = asyncio.ensure_future(self.off_loop(accept))
        try:
            if not (await asyncio.wait((giving,), timeout=limit))[0]:
                raise asyncio.TimeoutError
            return giving.result()
        finally:
            giving.cancel()

    async def _turn(self, found: Found, work: Work, ends: float, *, seated: bool = False) -> Any:
        """Wait in the queue of the version found; TimeoutError once the loop's clock says `ends`."""
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future(), self.metrics.noting(found), seated=seated)
        found.version.station.submit(job)
        clock = loop.call_at(ends, _expire, job.answer)
        try:
            return await job.answer
        except (asyncio.CancelledError, asyncio.TimeoutError):
            found.version.station.withdraw(job)
            raise
        finally:
            clock.cancel()

    def _count(self, found: Found, came: int, outcome: str) -> None:
        """Count a request once its answer is on its way, and before the event loop takes the next one."""
        ns = time.monotonic_ns() - came
        asyncio.get_running_loop().call_soon(self.metrics.answered, found, outcome, ns)

    async def off_loop(self, work: Callable[[], Any]) -> Any:
        """Run what takes long on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def exposition(self) -> bytes:
        """What Prometheus is told: one look at a time, however many ask. Refusal if a sensor does not answer."""
        if self._scrape is None or self._scrape.done():
            self._scrape = asyncio.ensure_future(self._scraping.run(self.metrics.text))
        looking = self._scrape
        if not (await asyncio.wait((looking,), timeout=SCRAPE_S))[0]:
            raise Refusal(UNAVAILABLE, f"a sensor of this machine did not answer within {SCRAPE_S:g} s")
        return looking.result()

    def live(self) -> bool:
        """Whether no worker is stuck and every engine still passes its self-test."""
        versions = [found.version for found in self.repository.served()]
        return all(one.station.busy < self.limits.stuck and not one.fault for one in versions)

    def is_ready(self) -> bool:
        """Whether the start is over and something sound is served."""
        return not self.why_unready()

    def why_unready(self) -> str:
        """What is in the way of requests; empty if nothing is. Anybody may hear it: it names no model."""
        if not self.ready:
            return "the service is starting or ending"
        if not self.repository.served():
            return "no model is loaded"
        return "" if self.live() else "a model is stuck, or fails its self-test"

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model would answer. Refusal for one that is not served here at all."""
        self.repository.model(name)
        try:
            found = self.repository.find(name, version)
        except Refusal as error:
            if error.kind == NOT_FOUND:
                raise
            return False
        return self.ready and not found.version.fault and found.version.station.busy < self.limits.stuck

    def need_managed(self) -> None:
        """Refusal if the models are not the requests' to load."""
        if not self._managed:
            raise Refusal(FORBIDDEN, "the model repository is not open to requests; start with --manage")

    def about(self) -> dict[str, Any]:
        """Server metadata."""
        extensions = [*EXTENSIONS, *([SHARED] if self.regions.allowed else [])]
        return {"name": "edgeinfer", "version": edgeinfer.__version__, "extensions": extensions}

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Model metadata."""
        found = self.repository.find(name, version)
        return {
            "name": found.name,
            "versions": [str(found.version.number)],
            "platform": platform(found),
            "inputs": [_described(slot) for slot in found.face.inputs],
            "outputs": [_described(slot) for slot in found.face.outputs],
        }

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """Model configuration, as far as it means something here."""
        found = self.repository.find(name, version)
        inputs, outputs = found.face.inputs, found.face.outputs
        most = min(found.version.spec.batch.max, self.limits.batch) if any(slot.batched for slot in inputs) else 0
        config: dict[str, Any] = {
            "name": found.name,
            "platform": platform(found),
            "backend": "edgeinfer",
            "max_batch_size": most,
            "input": [{**_configured(slot), "optional": slot.optional} for slot in inputs],
            "output": [_configured(slot) for slot in outputs],
        }
        if most:
            config["dynamic_batching"] = {"max_queue_delay_microseconds": int(self.limits.delay * 1e6)}
        return config

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Statistics of one model, or of all."""
        chosen = [self.repository.find(name, version)] if name else self.repository.served()
        rows = [{"name": found.name, "version": str(found.version.number), **found.tally.as_dict()} for found in chosen]
        return {"model_stats": rows}


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(asyncio.TimeoutError())


def platform(found: Found) -> str:
    """What runs the model, in one word."""
    return f"edgeinfer_{found.version.station.pipeline.backend}"


def _wanted(request: Request, found: Found) -> tuple[str, ...]:
    names = tuple(slot.name for slot in found.face.outputs)
    for name in request.outputs:
        if name not in names:
            raise Refusal(INVALID, f"output {name[:100]!r} is not one of {', '.join(names)}")
    if len(set(request.outputs)) != len(request.outputs):
        raise Refusal(INVALID, "two outputs have the same name")
    return request.outputs or names


def _ranked(found: Found, tensor: Tensor, count: int) -> Tensor:
    """The tensor, or its best classes if those are asked for."""
    if not count:
        return tensor
    spec = found.version.spec
    batched = any(slot.batched for slot in found.face.outputs if slot.name == tensor.name)
    return ranked(tensor, count, spec.labels, batched=batched)


def _described(slot: Slot) -> dict[str, Any]:
    return {"name": slot.name, "datatype": slot.datatype, "shape": list(slot.shape)}


def _configured(slot: Slot) -> dict[str, Any]:
    kind = "STRING" if slot.datatype == "BYTES" else slot.datatype
    return {
        "name": slot.name,
        "data_type": f"TYPE_{kind}",
        "dims": list(slot.shape[1:] if slot.batched else slot.shape),
    }


def _outcome(error: Exception) -> str:
    kind = refusal(error).kind
    if kind == OVERLOADED:
        return "overload"
    if kind == TIMEOUT:
        return "timeout"
    return "invalid" if kind.http < 500 else "failed"
