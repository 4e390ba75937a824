"""One picture in, one result out: preprocess -> engine -> postprocess, timed by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from edgeinfer.errors import InputError
from edgeinfer.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.backends import Engine
    from edgeinfer.building import Upgrade
    from edgeinfer.devices import Device
    from edgeinfer.lanes import Lane
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec


def several(images: Any) -> list[Any]:
    """The pictures in this; InputError if it is one itself, whose rows would pass for grey ones, or no list."""
    shape: tuple[int, ...] = getattr(images, "shape", (0,))
    if not hasattr(images, "__len__") or not shape:
        raise InputError(
            f"batch takes a list of pictures, got {type(images).__name__}",
            hint="model.batch([*images]) holds all at once; for as many as come, call model(image) for each",
        )
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        raise InputError(
            f"batch takes several pictures, got one array of {tuple(shape)}",
            hint="model(image), or model.batch([image])",
        )
    return [*images]


def _kind(thing: Any) -> str:
    """An array's shape and dtype; of what is none, its class."""
    return f"{thing.shape} {thing.dtype}" if hasattr(thing, "dtype") else type(thing).__name__


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
        self._lanes = Lanes(lanes)
        self.upgrade: Upgrade | None = None  # builds the engine that will take over, where that was asked for

    @property
    def contexts(self) -> int:
        """How many calls may run at the same time."""
        return len(self._lanes)

    @property
    def device(self) -> Device:
        """Where the first context's tensors live."""
        return self._lanes.first.device

    @property
    def engine(self) -> Engine:
        """What runs the first context."""
        return self._lanes.first.engine

    @property
    def graph(self) -> str:
        """Empty if a frame is one CUDA graph, else why it runs stage by stage; a GPU engine may tell after it ran."""
        return self._lanes.first.way.graph

    def __call__(self, image: Any, *, pixels: str = "bgr") -> Result:
        """A picture -> its result: `Detections` of a detector, `Classification` of a classifier.

        image (h, w, 3) uint8 BGR as OpenCV reads it, (h, w) grey or (h, w, 4) BGRA; with `pixels` "rgb" RGB or RGBA,
        with "nv12" (h * 3 / 2, w). On a GPU arrays there (CuPy, PyTorch, PyCUDA) are read too. It is only read, and
        the result owns its arrays. Raises InputError, EngineError, DeviceError.
        """
        return self.batch([image], pixels=pixels)[0]

    def batch(self, images: Sequence[Any], *, pixels: str = "bgr") -> list[Result]:
        """A list, or array (n, h, w, 3), of pictures -> a result each, in their order; runs of at most `group`."""
        pictures = several(images)
        return self._lanes.leased(lambda lane: self._run(lane, pictures, pixels))

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
        return self._lanes.leased(lambda lane: lane.device.fetch(lane.engine.run(lane.device.send(tensors)), rows))

    def _rows(self, tensors: Any) -> int:
        """How many rows all the inputs have, once they are found as the spec declares them."""
        names = {tensor.name for tensor in self.spec.inputs}
        given = {*tensors} if isinstance(tensors, Mapping) else {f"without names ({_kind(tensors)})"}
        if given != names:
            raise InputError(
                f"inputs are {', '.join(sorted(given)) or 'none'}; the model takes {', '.join(sorted(names))}"
            )
        rows = next(iter(getattr(tensors[self.spec.inputs[0].name], "shape", ())), 0)
        for tensor in self.spec.inputs:
            array, most = tensors[tensor.name], tensor.batch.max
            found = getattr(array, "dtype", ""), getattr(array, "shape", ())
            if found != (tensor.dtype, tensor.at(rows)) or not 1 <= rows <= most:
                wanted = f"the model takes {tensor.at(most)} {tensor.dtype}"
                raise InputError(f"input {tensor.name} is {_kind(array)}, {wanted}")
        return rows

    def swap(self, other: Pipeline) -> None:
        """Serve every call that starts from now on by what `other` has, which is closed by it; free what served so far.

        Both must be of the same spec. Waits for running calls; none fails, waits for it, or is served by both.
        Raises InputError when this pipeline is closed.
        """
        self._lanes.take_over(other._lanes, lambda: self._pass_for(other))

    def _pass_for(self, other: Pipeline) -> None:
        self.backend, self.artifact, self.plan, self.group = other.backend, other.artifact, other.plan, other.group

    def close(self) -> None:
        """Stop building, wait for running calls, then free every engine and device; in a forked process do nothing.

        In the handler of a signal that interrupted a call it refuses further calls and leaves the rest to the next
        `close()`, or to the end of the last reference: that call would be waited for without end.
        """
        if self.upgrade and self._lanes.may_wait:
            self.upgrade.stop()
        self._lanes.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a pipeline cannot be copied or pickled: it holds an engine", hint="load the bundle again, in each process"
        )

    def __repr__(self) -> str:
        what = f"{self.spec.name}: {self.spec.task}, {self.backend} {self.artifact}".rstrip()
        return f"<Pipeline {what}{', closed' if self._lanes.closed else ''}>"

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
