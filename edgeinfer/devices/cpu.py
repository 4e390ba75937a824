"""The CPU as a device: NumPy and OpenCV; the reference for every other device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices import _decoding
from edgeinfer.devices._planes import Planes
from edgeinfer.devices._stages import Stages
from edgeinfer.devices.images import picture
from edgeinfer.errors import InputError
from edgeinfer.pictures import opencv
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Boxes, TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.backends import Engine
    from edgeinfer.devices import Tensors
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec, Placement

cv2 = opencv()


class Device:
    """Main memory for one lane: the input tensor, and scratch that grows to the largest picture seen."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        tensor = spec.inputs[0]
        self._tensor = self.empty(tensor.at(spec.batch.max), tensor.dtype)
        self._tensor[...] = 0
        self._planes = Planes(spec.preprocess, self._tensor)
        self._inputs: dict[int, Tensors] = {}

    @staticmethod
    def check_libraries() -> None:
        """Nothing is missing where this could be imported."""

    def preprocess(self, images: Sequence[Any], pixels: str = "bgr") -> tuple[Tensors, list[Placement]]:
        """Pictures -> the model's input by name, valid until the next call, and where each picture lies in it."""
        batch = self._spec.batch
        if not 1 <= len(images) <= batch.max:
            raise InputError(f"a batch must be 1 to {batch.max} images, got {len(images)}")
        pictures = [picture(image, pixels) for image in images]
        placements = [self._planes.fill(place, one) for place, one in enumerate(pictures)]
        return self._rows(max(len(images), batch.min)), placements

    def _rows(self, count: int) -> Tensors:
        """The first `count` rows of the tensor: always the same views, so that engines bind them once."""
        if count not in self._inputs:
            self._inputs[count] = {self._spec.inputs[0].name: self._tensor[:count]}
        return self._inputs[count]

    def postprocess(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:
        """Engine outputs by name -> one result a placement; EngineError if they hold NaN."""
        read = self._classification if isinstance(self._spec.decode, TopK) else self._detections
        return [read(outputs, row, placement) for row, placement in enumerate(placements)]

    def _classification(self, outputs: Tensors, row: int, placement: Placement) -> Result:
        decode, name = self._spec.decode, self._spec.outputs[0].name
        assert isinstance(decode, TopK)
        class_ids, scores = _decoding.classes(outputs[name][row], decode, name)
        return Classification(class_ids, scores, self._spec.labels, placement.source)

    def _detections(self, outputs: Tensors, row: int, placement: Placement) -> Result:
        decode, names = self._spec.decode, [output.name for output in self._spec.outputs]
        assert isinstance(decode, Boxes)
        if decode.where == "graph":
            num, *rows = (outputs[name][row] for name in names)
            found = _decoding.suppressed(num, rows, decode)
        else:
            found = _decoding.boxes(outputs[names[0]][row], decode, names[0])
        _decoding.check_classes(found.class_ids, self._spec)
        boxes = placement.to_source(found.boxes).astype(np.float32)
        return Detections(boxes, found.scores, found.class_ids, self._spec.labels, placement.source)

    def join(self, engine: Engine) -> Stages:
        """The whole way of frames through this device and an engine on it."""
        return Stages(self, engine)

    def send(self, tensors: Tensors) -> Tensors:
        """The arrays themselves where an engine can read them; zeros fill up the smallest batch."""
        return {name: self._readable(array) for name, array in tensors.items()}

    def _readable(self, array: NDArray[Any]) -> NDArray[Any]:
        missing = self._spec.batch.min - len(array)
        if missing > 0:
            return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        return np.require(array, requirements=["C", "A"])

    def fetch(self, outputs: Tensors, rows: int) -> dict[str, Any]:
        """Copies of the first `rows` rows."""
        return {name: _in_rows(output[:rows]) for name, output in outputs.items()}

    def empty(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An uninitialised array."""
        return np.empty(shape, dtype)

    def mark(self) -> float:
        """Seconds of the clock that timings use."""
        return time.perf_counter()

    def elapsed_ms(self, start: float, end: float) -> float:
        """Milliseconds between two marks."""
        return (end - start) * 1e3

    def close(self) -> None:
        """Free the buffers; calling it twice is harmless."""
        self._inputs.clear()
        self._tensor = np.empty(0, self._tensor.dtype)
        self._planes = Planes(self._spec.preprocess, self._tensor)


def _in_rows(output: NDArray[Any]) -> NDArray[Any]:
    """A copy that lies row by row; of rows that are columns OpenCV makes it faster than NumPy."""
    result: NDArray[Any] = np.empty(output.shape, output.dtype)
    if output.ndim == 3 and output.dtype == np.float32 and output.transpose(0, 2, 1).flags.c_contiguous:
        for columns, rows in zip(output.transpose(0, 2, 1), result):
            cv2.transpose(columns, dst=rows)
    else:
        result[...] = output
    return result
