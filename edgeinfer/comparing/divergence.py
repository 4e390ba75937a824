"""The first layer at which two ONNX graphs part, found by bisection: inner tensors are made outputs, one at a time.

A tensor that is an output cannot be fused away, so what is seen is the layer's own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgeinfer import backends
from edgeinfer.errors import BackendUnavailable, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

# the relative difference from which tensors count as parted, by the less exact precision of the two
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 1e-1}


@dataclass(frozen=True)
class Side:
    """An ONNX file, and the backend that runs it."""

    path: Path
    backend: str
    precision: str


@dataclass(frozen=True)
class Parting:
    """The first `tensor` that differs by more than `tolerance`, its node and operator; and the one `before` it."""

    tensor: str
    node: str
    operator: str
    relative: float
    tolerance: float
    before: str
    before_relative: float
    probes: int


def relative(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Root mean square of the differences over that of the first's values; infinite where only one is all zeros."""
    first, second = one.astype(np.float64), two.astype(np.float64)
    size, apart = float(np.sqrt(np.mean(first**2))), float(np.sqrt(np.mean((first - second) ** 2)))
    return apart / size if size else (float("inf") if apart else 0.0)


def parting(one: Side, other: Side, inputs: Tensors, outputs: Sequence[str]) -> Parting | None:
    """Where the two part on these inputs; None if every output lies within the tolerance.

    Tensors are matched by name, in the order of the first graph, and taken to stay apart once they have parted. Raises
    BackendUnavailable without the onnx package, EngineError.
    """
    graphs = [_Graph(side, inputs) for side in (one, other)]
    tolerance = max(TOLERANCE[side.precision] for side in (one, other))
    names = [name for name in graphs[0].producers if name in graphs[1].producers]
    known: dict[int, float] = {}

    def apart(place: int) -> float:
        if place not in known:
            values = [graph.value(names[place]) for graph in graphs]
            known[place] = relative(*values) if values[0].shape == values[1].shape else float("inf")
        return known[place]

    ends = [names.index(name) for name in outputs if name in names]
    last = min((place for place in ends if apart(place) > tolerance), default=-1)
    if last < 0:
        return None
    low, high = -1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if apart(middle) > tolerance else (middle, high)
    node, operator = graphs[0].producers[names[high]]
    before, span = (names[low], apart(low)) if low >= 0 else ("", 0.0)
    return Parting(names[high], node, operator, apart(high), tolerance, before, span, len(known))


class _Graph:
    """A model whose inner tensors can be asked for; `producers`: tensor -> (node, operator) for floats, in order."""

    def __init__(self, side: Side, inputs: Tensors) -> None:
        try:
            import onnx
        except ModuleNotFoundError as missing:
            raise BackendUnavailable("onnx is not installed", hint='pip install "edgeinfer[export]"') from missing
        self._onnx, self._side, self._inputs = onnx, side, inputs
        try:
            self._model = onnx.load(side.path)
        except Exception as error:
            raise EngineError(f"{side.path}: onnx cannot read it: {error}", hint="export the bundle again") from error
        nodes = self._model.graph.node
        self.producers = {name: (node.name or name, node.op_type) for node in nodes for name in node.output if name}

    def value(self, name: str) -> NDArray[Any]:
        """What this tensor is on the inputs."""
        exposed = self._onnx.ModelProto()
        exposed.CopyFrom(self._model)
        if name not in [output.name for output in exposed.graph.output]:
            exposed.graph.output.append(self._onnx.ValueInfoProto(name=name))
        return RUNNERS[self._side.backend](exposed.SerializeToString(), name, self._inputs)


def _on_ort(model: bytes, name: str, inputs: Tensors) -> NDArray[Any]:
    backends.load("ort")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    value: NDArray[Any] = session.run([name], dict(inputs))[0]
    return value


def _on_ov(model: bytes, name: str, inputs: Tensors) -> NDArray[Any]:
    backends.load("ov")
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    value: NDArray[Any] = np.array(compiled(dict(inputs))[compiled.output(name)])
    return value


RUNNERS: dict[str, Callable[[bytes, str, Tensors], NDArray[Any]]] = {"ort": _on_ort, "ov": _on_ov}
