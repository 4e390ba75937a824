"""From an engine's outputs on the GPU to results on the host: kernels, one small copy, and the reading of it.

Which of the three ways a model takes is settled by its spec: `of(spec)`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeinfer.devices import _decoding, launch
from edgeinfer.devices._driver import call
from edgeinfer.devices._memory import Mirror, view
from edgeinfer.errors import SpecError
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Boxes, TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.devices import Tensors
    from edgeinfer.devices.gpu import Device
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec, Placement


class Readout(Protocol):
    """One way from outputs to results."""

    sources: tuple[str, ...]  # the kernel files it launches

    def __init__(self, spec: ModelSpec, gpu: Device) -> None: ...

    def enqueue(self, outputs: Tensors, count: int, frames: int) -> None:
        """Put on the stream what turns `count` pictures' outputs into records the host can read.

        `frames` is the address of their records on the GPU, with fresh counters.
        """

    def read(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:
        """The results, once the stream has come so far. Raises EngineError on NaN."""


def of(spec: ModelSpec) -> type[Readout]:
    """Raises SpecError for outputs that no kernel reads."""
    if isinstance(spec.decode, Boxes) and spec.decode.where == "graph":
        return _Suppressed
    first = spec.outputs[0]
    if first.dtype not in launch.DTYPES:
        raise SpecError(
            f"output {first.name} is {first.dtype}; on the GPU it must be one of {', '.join(launch.DTYPES)}",
            hint="export the model with float outputs, or run it with --backend ort",
        )
    return _Classes if isinstance(spec.decode, TopK) else _Detections


class _Records:
    """What our kernels find, in one record a picture. Their launches are kept while the tensors stay where they are."""

    def __init__(self, spec: ModelSpec, gpu: Device, record: np.dtype[Any]) -> None:
        self._spec, self._gpu, self._name = spec, gpu, spec.outputs[0].name
        self._record = record
        self._results = Mirror(gpu.memory, spec.batch.max * record.itemsize, mapped=gpu.integrated)
        self._kept: dict[tuple[int, int, int], list[launch.Launch]] = {}

    def enqueue(self, outputs: Tensors, count: int, frames: int) -> None:
        key = (count, outputs[self._name].pointer, frames)
        if key not in self._kept:
            if len(self._kept) >= 16:
                self._kept.clear()
            self._kept[key] = self._planned(*key)
        for one in self._kept[key]:
            self._gpu.kernels.launch(one, self._gpu.handle)
        self._results.pull(count * self._record.itemsize, self._gpu.handle)

    def _planned(self, count: int, output: int, frames: int) -> list[launch.Launch]:
        raise NotImplementedError

    def _records(self, count: int) -> NDArray[Any]:
        """Those of so many pictures."""
        return self._results.host[: count * self._record.itemsize].view(self._record)

    def _rows(self, record: Any) -> NDArray[Any]:
        """What was found. Raises EngineError on NaN."""
        if record["status"]:
            raise _decoding.not_finite(self._name)
        rows: NDArray[Any] = record["rows"][: record["count"]]
        return rows


class _Classes(_Records):
    """The best classes of each picture."""

    sources: tuple[str, ...] = ("topk",)

    def __init__(self, spec: ModelSpec, gpu: Device) -> None:
        assert isinstance(spec.decode, TopK)
        super().__init__(spec, gpu, launch.classify_result(min(spec.decode.k, len(spec.labels))))

    def _planned(self, count: int, output: int, frames: int) -> list[launch.Launch]:  # noqa: ARG002
        return [launch.classify(self._spec, count, output=output, results=self._results.pointer)]

    def read(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:  # noqa: ARG002
        return [self._result(record, place) for record, place in zip(self._records(len(placements)), placements)]

    def _result(self, record: Any, place: Placement) -> Result:
        rows = self._rows(record)
        return Classification(rows["class_id"].copy(), rows["score"].copy(), self._spec.labels, place.source)


class _Detections(_Records):
    """Boxes decoded and suppressed by our kernels."""

    sources: tuple[str, ...] = ("decode", "nms")

    def __init__(self, spec: ModelSpec, gpu: Device) -> None:
        self._plan = launch.Detect(spec, spec.batch.max)
        self._workspace = gpu.memory.on_device(self._plan.workspace_bytes)
        super().__init__(spec, gpu, self._plan.result)
        self._roomy: _Roomy | None = None

    def _planned(self, count: int, output: int, frames: int) -> list[launch.Launch]:
        at = {"workspace": self._workspace, "results": self._results.pointer}
        return self._plan.launches(count, frames=frames, output=output, **at)

    def read(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:
        results = []
        for row, (record, place) in enumerate(zip(self._records(len(placements)), placements)):
            crowded = record["status"] == launch.OVERFLOWED
            results.append(self._result(self._again(outputs, row, record, place) if crowded else record, place))
        return results

    def _again(self, outputs: Tensors, row: int, record: Any, place: Placement) -> Any:
        """The record of a picture with more candidates than there was room for, from the same output."""
        needed = int(record["candidates"])
        if self._roomy is None or self._roomy.capacity < needed:
            outgrown, self._roomy = self._roomy, None  # whatever becomes of the next one
            if outgrown is not None:
                outgrown.free()
            self._roomy = _Roomy(self._spec, self._gpu, needed)
        tensor = outputs[self._name]
        return self._roomy.run(tensor.pointer + row * (tensor.nbytes // tensor.shape[0]), place)

    def _result(self, record: Any, place: Placement) -> Result:
        rows = self._rows(record)
        boxes, scores, class_ids = (rows[name].copy() for name in ("box", "score", "class_id"))
        _decoding.check_classes(class_ids, self._spec)
        return Detections(boxes, scores, class_ids, self._spec.labels, place.source)


class _Roomy:
    """Decoding and suppression of one picture with room for many candidates; kept, for they seldom come alone."""

    def __init__(self, spec: ModelSpec, gpu: Device, needed: int) -> None:
        self._gpu = gpu
        self._plan = launch.Detect(spec, 1, capacity=1 << (needed - 1).bit_length())
        self.capacity = self._plan.capacity
        with ExitStack() as undo:  # where memory is short, nothing stays taken
            self._frames = Mirror(gpu.memory, launch.FRAME.itemsize, mapped=False)
            undo.callback(self._frames.free)
            self._results = Mirror(gpu.memory, self._plan.result.itemsize, mapped=gpu.integrated)
            undo.callback(self._results.free)
            self._workspace = gpu.memory.on_device(self._plan.workspace_bytes)
            undo.pop_all()

    def run(self, output: int, place: Placement) -> Any:
        stream = self._gpu.handle
        self._frames.host[...] = geometry([place])
        self._frames.push(self._frames.nbytes, stream)
        at = {"frames": self._frames.pointer, "workspace": self._workspace, "results": self._results.pointer}
        for one in self._plan.launches(1, output=output, **at):
            self._gpu.kernels.launch(one, stream)
        self._results.pull(self._results.nbytes, stream)
        self._gpu.wait()
        return self._results.host.view(self._plan.result)[0]

    def free(self) -> None:
        self._frames.free()
        self._results.free()
        self._gpu.memory.free(self._workspace)


class _Suppressed:
    """Boxes that the model suppressed itself: its small outputs are copied and read as the CPU device reads them."""

    sources: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec, gpu: Device) -> None:
        self._spec, self._gpu = spec, gpu
        self._places: dict[str, range] = {}
        end = 0
        for tensor in spec.outputs:
            nbytes = int(np.prod(tensor.at(spec.batch.max))) * np.dtype(tensor.dtype).itemsize
            self._places[tensor.name] = range(end, end + nbytes)
            end = -(-(end + nbytes) // 64) * 64
        self._address = gpu.memory.on_host(end)
        self._host = view(self._address, end)

    def enqueue(self, outputs: Tensors, count: int, frames: int) -> None:  # noqa: ARG002
        for name, place in self._places.items():
            tensor = outputs[name]
            nbytes = tensor.nbytes // tensor.shape[0] * count
            call("cuMemcpyDtoHAsync", self._address + place.start, tensor.pointer, nbytes, self._gpu.handle)

    def read(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:  # noqa: ARG002
        num, *rows = (self._rows(tensor.name, tensor.dtype, len(placements)) for tensor in self._spec.outputs)
        return [self._result(num[at], [one[at] for one in rows], place) for at, place in enumerate(placements)]

    def _rows(self, name: str, dtype: str, count: int) -> NDArray[Any]:
        (tensor,) = [one for one in self._spec.outputs if one.name == name]
        place = self._places[name]
        shape = tensor.at(self._spec.batch.max)
        return self._host[place.start : place.stop].view(dtype).reshape(shape)[:count]

    def _result(self, num: NDArray[Any], rows: list[NDArray[Any]], place: Placement) -> Result:
        assert isinstance(self._spec.decode, Boxes)
        found = _decoding.suppressed(num, rows, self._spec.decode)
        _decoding.check_classes(found.class_ids, self._spec)
        boxes = place.to_source(found.boxes).astype(np.float32)
        return Detections(boxes, found.scores, found.class_ids, self._spec.labels, place.source)


def geometry(placements: Sequence[Placement]) -> NDArray[np.uint8]:
    """The bytes of frame records that have counters and places, and no pixels."""
    nowhere = launch.Pixels(0, 0, 0, (0, 0, 0))
    return launch.frames([nowhere] * len(placements), placements).view(np.uint8)
