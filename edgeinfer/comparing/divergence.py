"""The first layer at which two ONNX graphs part, found by bisection: inner tensors are made outputs, one at a time.

A tensor that is an output cannot be fused away, so what is seen is the layer's own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import numpy as np

from edgeinfer import backends
from edgeinfer.errors import BackendUnavailable, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

# the relative difference from which tensors count as parted, by the less exact precision of the two
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 1e-1}
# operators that compute nothing: what differs in their output differs in an input, however small a part of it
MOVES = {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Side:
    """An ONNX file, and the backend that runs it."""

    path: Path
    backend: str
    precision: str


@dataclass(frozen=True)
class Parting:
    """The first `tensor` that differs by more than `tolerance`, its node and operator; and the one `before` it.

    `between` counts the tensors from the one to the other that have not been looked at: 0 once it is found.
    """

    tensor: str
    node: str
    operator: str
    relative: float
    tolerance: float
    before: str
    before_relative: float
    probes: int
    between: int = 0


def gaps(one: NDArray[Any], two: NDArray[Any]) -> NDArray[Any]:
    """How far each element is apart: 0 where both are the same infinity, or NaN, infinite where only one is."""
    alike = (one == two) | (np.isnan(one) & np.isnan(two))
    with np.errstate(invalid="ignore"):
        apart = np.where(alike, 0, np.abs(one - two))  # also of single numbers, which cannot be written into
    return np.where(np.isnan(apart), np.inf, apart)


def relative(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Root mean square of the gaps over that of the first's finite values; infinite where only one is all zeros."""
    first, second = one.astype(np.float64), two.astype(np.float64)
    size, apart = _root_mean_square(first[np.isfinite(first)]), _root_mean_square(gaps(first, second))
    return apart / size if size else (float("inf") if apart else 0.0)


def _root_mean_square(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def partings(one: Side, other: Side, inputs: Tensors, outputs: Mapping[str, Sequence[Any]]) -> Iterator[Parting]:
    """Where the two part on these inputs, ever closer; nothing if every output lies within the tolerance.

    `outputs` by name, each with the indices of its parts: coordinates in pixels beside scores would hide what the
    scores differ by. Tensors are matched by name. On the way to an output they are taken to stay apart once they have
    parted. The last layer given has parted, and nothing that it reads has. Raises BackendUnavailable without the onnx
    package, EngineError.
    """
    pair = _Pair(one, other, inputs, outputs)
    end = next((name for name in pair.shared if name in outputs and pair.parted(name)), "")
    while end:
        if pair.parted(end):
            for found, before, between in _bisected(pair.way_to(end), pair.parted):
                end = found
                yield pair.told(found, before, between)
        end = pair.source(end)


def _bisected(names: Sequence[str], apart: Callable[[str], bool]) -> Iterator[tuple[str, str, int]]:
    """The first from which on they are apart, as the last is, and the one before it or ''; and how many lie between."""
    low, high = -1, len(names) - 1
    yield names[high], "", high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if apart(names[middle]) else (middle, high)
        yield names[high], names[low] if low >= 0 else "", high - low - 1


class _Pair:
    """Two graphs on the same inputs: the tensors they share, in order, and how far those are apart, each asked once."""

    def __init__(self, one: Side, other: Side, inputs: Tensors, outputs: Mapping[str, Sequence[Any]]) -> None:
        self._graphs = [_Graph(side, inputs) for side in (one, other)]
        self._outputs, self._known = outputs, dict[str, float]()
        self._tolerance = max(TOLERANCE[side.precision] for side in (one, other))
        self._makers = self._graphs[0].producers
        self.shared = [name for name in self._makers if name in self._graphs[1].producers]

    def way_to(self, end: str) -> list[str]:
        """The shared tensors that `end` is made from, and itself."""
        way = self._graphs[0].way_to(end)
        return [name for name in self.shared if name in way]

    def apart(self, name: str) -> float:
        """How far the two are apart in this tensor, in its worst part."""
        if name not in self._known:
            first, second = (graph.value(name) for graph in self._graphs)
            parts = self._outputs.get(name, (...,))
            same = first.shape == second.shape
            self._known[name] = max(relative(first[part], second[part]) for part in parts) if same else float("inf")
        return self._known[name]

    def parted(self, name: str) -> bool:
        return self.apart(name) > self._tolerance

    def source(self, name: str) -> str:
        """What it reads that has parted; or, where it only moves numbers, that moved some that may have."""
        makers = self._makers
        read = [one for one in makers[name].inputs if one in self.shared]
        moved = [one for one in read if makers[name].operator in MOVES and makers[one].operator in MOVES]
        return next(filter(self.parted, read), "") or max(filter(self.apart, moved), key=self.apart, default="")

    def told(self, found: str, before: str, between: int) -> Parting:
        """The parting at `found`, after the tensor `before` or none, with so many between."""
        maker, span = self._makers[found], self.apart(before) if before else 0.0
        probes = len(self._known)
        apart, tolerance = self.apart(found), self._tolerance
        return Parting(found, maker.node, maker.operator, apart, tolerance, before, span, probes, between)


class _Maker(NamedTuple):
    """The node that makes a tensor, its operator, and the tensors that it reads."""

    node: str
    operator: str
    inputs: tuple[str, ...]


class _Graph:
    """A model whose inner tensors can be asked for; `producers`: who makes each tensor, in order."""

    def __init__(self, side: Side, inputs: Tensors) -> None:
        try:
            import onnx
        except ModuleNotFoundError as missing:
            raise BackendUnavailable("onnx is not installed", hint="pip install onnx") from missing
        self._onnx, self._side, self._inputs = onnx, side, inputs
        try:
            self._model = onnx.load(side.path)
        except Exception as error:
            raise EngineError(f"{side.path}: onnx cannot read it: {error}", hint="export the bundle again") from error
        makers = [(node, _Maker(node.name, node.op_type, tuple(node.input))) for node in self._model.graph.node]
        self.producers = {
            name: maker._replace(node=maker.node or name) for node, maker in makers for name in node.output if name
        }

    def way_to(self, end: str) -> set[str]:
        """The tensors that `end` is made from, and itself."""
        way: set[str] = set()
        ahead = [end]
        while ahead:
            name = ahead.pop()
            if name in self.producers and name not in way:
                way.add(name)
                ahead += self.producers[name].inputs
        return way

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
