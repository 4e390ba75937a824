"""One picture in, one result out: preprocess -> engine -> postprocess, timed by stage."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Callable, NoReturn, TypeVar

from edgeinfer import lifetime
from edgeinfer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.backends import Engine
    from edgeinfer.building import Upgrade
    from edgeinfer.devices import Device
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec

T = TypeVar("T")
LOOK_S = 0.5  # how often who waits looks whether there still is cause to
END_S = 10.0  # how long the end of the process waits for calls that run


def check_several(images: Any) -> None:
    """InputError if this is no list, or one picture (h, w, channels), whose rows would pass for grey pictures."""
    if not hasattr(images, "__len__"):
        raise InputError(
            f"batch takes a list of pictures, got {type(images).__name__}",
            hint="model.batch([*images]) holds all at once; for as many as come, call model(image) for each",
        )
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        raise InputError(
            f"batch takes several pictures, got one array of {tuple(shape)}",
            hint="model(image), or model.batch([image])",
        )


def _kind(thing: Any) -> str:
    """An array's shape and dtype; of what is none, its class."""
    return f"{thing.shape} {thing.dtype}" if hasattr(thing, "dtype") else type(thing).__name__


class Lane:
    """A device with its own buffers and an engine context on it: what one call needs for itself."""

    def __init__(self, device: Device, engine: Engine) -> None:
        self.device, self.engine = device, engine
        self.way = device.join(engine)

    def close(self) -> None:
        with closing(self.device):
            self.engine.close()


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


class Pipeline:
    """A loaded model. Any thread may call it: a call leases one lane and waits while all are taken.

    `spec` is what runs (with the thresholds asked for at load); `backend` and `artifact` say what runs it;
    `plan` is the words of the plan that chose it, if one did. `group` is how many pictures a run takes at most:
    `batch`, or as many as the model does. `timings` are milliseconds by stage of the last run, whoever called;
    each result has those of its own.
    """

    def __init__(
        self,
        spec: ModelSpec,
        lanes: Sequence[Lane],
        *,
        backend: str = "",
        artifact: str = "",
        batch: int = 0,
        plan: str = "",
    ) -> None:
        self.spec, self.backend, self.artifact, self.plan = spec, backend, artifact, plan
        self.group = min(batch or spec.batch.max, spec.batch.max)
        self.timings: dict[str, float] = {}
        self._fleet = _Fleet(lanes)
        self._taken: dict[tuple[int, object], Lane] = {}  # by the call that has it, after its thread's number
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = self._ending = self._inherited = False
        self.upgrade: Upgrade | None = None  # builds the engine that will take over, where that was asked for
        lifetime.watch(self)

    @property
    def contexts(self) -> int:
        """How many calls may run at the same time."""
        return len(self._fleet.lanes)

    @property
    def device(self) -> Device:
        return self._fleet.lanes[0].device

    @property
    def engine(self) -> Engine:
        return self._fleet.lanes[0].engine

    @property
    def graph(self) -> str:
        """Empty if a frame is one CUDA graph, else why it runs stage by stage; a GPU engine may tell after it ran."""
        return self._fleet.lanes[0].way.graph

    def __call__(self, image: Any, *, pixels: str = "bgr") -> Result:
        """A picture -> its result: `Detections` of a detector, `Classification` of a classifier.

        image (h, w, 3) uint8 BGR as OpenCV reads it, (h, w) grey or (h, w, 4) BGRA; with `pixels` "rgb" RGB or RGBA,
        with "nv12" (h * 3 / 2, w). On a GPU arrays there (CuPy, PyTorch, PyCUDA) are read too. It is only read, and
        the result owns its arrays. Raises InputError, EngineError, DeviceError.
        """
        return self.batch([image], pixels=pixels)[0]

    def batch(self, images: Sequence[Any], *, pixels: str = "bgr") -> list[Result]:
        """A list, or array (n, h, w, 3), of pictures -> a result each, in their order; runs of at most `group`."""
        check_several(images)
        return self._leased(lambda lane: self._run(lane, images, pixels))

    def _run(self, lane: Lane, images: Sequence[Any], pixels: str) -> list[Result]:
        results: list[Result] = []
        step = self.group
        for start in range(0, len(images), step):
            found, timings = lane.way.run(images[start : start + step], pixels)
            for result in found:
                result.timings_ms.update(timings)
            self.timings = timings
            results += found
        return results

    def infer(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The engine alone: input arrays by name (n, ...), n at most the model's batch -> output arrays by name, owned.

        Names, dtypes and shapes are those of `spec.inputs` and `spec.outputs`. Raises InputError, EngineError.
        """
        rows = self._rows(tensors)
        return self._leased(lambda lane: lane.device.fetch(lane.engine.run(lane.device.send(tensors)), rows))

    def _rows(self, tensors: Any) -> int:
        """How many rows all the inputs have, once they are found as the spec declares them."""
        names = {tensor.name for tensor in self.spec.inputs}
        given = {*tensors} if isinstance(tensors, Mapping) else {f"without names ({_kind(tensors)})"}
        if given != names:
            raise InputError(f"inputs are {', '.join(sorted(given))}; the model takes {', '.join(sorted(names))}")
        rows = next(iter(getattr(tensors[self.spec.inputs[0].name], "shape", ())), 0)
        for tensor in self.spec.inputs:
            array, most = tensors[tensor.name], tensor.batch.max
            found = getattr(array, "dtype", ""), getattr(array, "shape", ())
            if found != (tensor.dtype, tensor.at(rows)) or not 1 <= rows <= most:
                wanted = f"the model takes {tensor.at(most)} {tensor.dtype}"
                raise InputError(f"input {tensor.name} is {_kind(array)}, {wanted}")
        return rows

    def _leased(self, work: Callable[[Lane], T]) -> T:
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
        if self._within() >= max(1, self.contexts):
            raise InputError(
                "the pipeline was called by what interrupted a call of it, which it would wait for without end",
                hint="let the signal's handler set a flag, or load the bundle with more contexts",
            )
        with self._lock:
            self._await(lambda: self._closed or bool(self._idle() and not self._barred()))
            # the first of them: with one caller the same lane stays warm in the caches
            for lane in self._idle()[:1]:
                self._taken[call] = lane
            if self._closed:  # asked last: a signal's handler may close at any moment
                raise InputError("the pipeline is closed", hint="load the bundle again")
        return self._taken[call]

    def _await(self, fact: Callable[[], bool]) -> None:
        """Wait, with the lock, until this is true; the word that it is a signal's exception may have broken off."""
        while not self._changed.wait_for(fact, LOOK_S):
            continue

    def _within(self) -> int:
        """How many calls this thread is in the middle of: none, but in the handler of a signal that came in them."""
        return [thread for thread, _ in [*self._taken]].count(threading.get_ident())

    def _idle(self) -> list[Lane]:
        taken = [*self._taken.values()]
        return [lane for lane in self._fleet.lanes if lane not in taken]

    def _home(self, fleet: _Fleet) -> bool:
        return not {*fleet.lanes} & {*self._taken.values()}

    def _barred(self) -> bool:
        """Whether the process ends and this thread may be stopped by it at any moment."""
        return self._ending and threading.current_thread().daemon

    def swap(self, other: Pipeline) -> None:
        """Serve every call that starts from now on by what `other` has, which is closed by it; free what served so far.

        Both must be of the same spec. Waits for running calls; none fails, waits for it, or is served by both.
        Raises InputError when this pipeline is closed.
        """
        if self._closed:
            raise InputError("the pipeline is closed", hint="load the bundle again")
        old = other._give_up()
        with self._lock:
            if not self._closed:  # meanwhile
                old, self._fleet = self._fleet, old
                self.backend, self.artifact, self.plan = other.backend, other.artifact, other.plan
                self.group = other.group
                self._changed.notify_all()
                self._await(lambda: self._home(old))
        old.close()

    def _give_up(self) -> _Fleet:
        """All lanes, once they are home; this pipeline is closed then, and holds none."""
        with self._lock:
            self._await(lambda: self._home(self._fleet))
            self._closed = True
            given, self._fleet = self._fleet, _Fleet(())
            self._changed.notify_all()
        return given

    def close(self) -> None:
        """Stop building, wait for running calls, then free every engine and device; in a forked process do nothing.

        In the handler of a signal that interrupted a call it refuses further calls and leaves the rest to the next
        `close()`, or to the end of the last reference: that call would be waited for without end.
        """
        if self._inherited:
            return
        interrupting = self._within()
        if self.upgrade and not interrupting:
            self.upgrade.stop()
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            if interrupting:
                return
            self._await(lambda: self._home(self._fleet))
        self._fleet.close()

    def halt(self) -> None:
        """Of `lifetime.Guest`: from now on calls of daemon threads wait for the end of the process."""
        self._ending = True

    def settle(self) -> None:
        """Of `lifetime.Guest`: wait for running calls, within reason."""
        with self._lock:
            self._changed.wait_for(lambda: self._home(self._fleet), END_S)

    def orphan(self) -> None:
        """Of `lifetime.Guest`: refuse calls in this process, and keep its copy of the engines until it has ended."""
        import ctypes

        self._inherited = True
        # one reference too many: even the interpreter's own end must not free them
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._fleet))

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a pipeline cannot be copied or pickled: it holds an engine", hint="load the bundle again, in each process"
        )

    def __repr__(self) -> str:
        what = f"{self.spec.name}: {self.spec.task}, {self.backend} {self.artifact}".rstrip()
        return f"<Pipeline {what}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
