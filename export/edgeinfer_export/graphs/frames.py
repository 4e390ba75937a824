"""`--preprocess graph`: a model that takes uint8 frames and does the arithmetic in its first convolution if it can.

A gain and the order of the channels go into that convolution's weights, since zero times any gain is zero. A mean does
not where the convolution pads: a padded zero stands for the mean, not for a black pixel. Then it is subtracted before,
and the padding comes to mean the same as ever.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import edgeinfer
from edgeinfer.errors import ExportError
from edgeinfer.spec import TensorSpec
from edgeinfer_export.graphs.ops import Graph, declare

if TYPE_CHECKING:
    from edgeinfer.spec import ModelSpec, Preprocess
    from edgeinfer_export.graphs.ops import Array

FRAMES = "frames"


def take(model: Any, spec: ModelSpec, color: str) -> ModelSpec:
    """Change `model`, which takes floats (n, 3, h, w), to take uint8 frames (n, h, w, 3) in this order; its new spec.

    `spec.preprocess` then tells of the frames: their color, and mean and std in their order. Raises ExportError.
    """
    floats = spec.inputs[0]
    spec, step = _framed(spec, color)
    framed, frames = spec.preprocess, spec.inputs[0]
    (place,) = (place for place, value in enumerate(model.graph.input) if value.name == floats.name)
    kind = model.graph.input[place].type.tensor_type.elem_type
    readers = [node for node in model.graph.node if floats.name in node.input]
    graph = Graph()
    x = _planes(graph, floats.name, kind)
    conv = _First.of(model, readers)
    x = conv.fold(graph, x, framed, step) if conv else _explicit(graph, x, framed, step, kind)
    for node in readers:
        node.input[:] = [x if name == floats.name else name for name in node.input]
    model.graph.input[place].CopyFrom(declare(frames))
    graph.into(model, first=True)
    return spec


def alone(spec: ModelSpec, color: str) -> tuple[Any, ModelSpec]:
    """A model that does no more than turn uint8 frames into the floats that `spec` takes; the spec of both together."""
    framed, step = _framed(spec, color)
    floats, frames = spec.inputs[0], dataclasses.replace(framed.inputs[0], name=FRAMES)
    if floats.name == FRAMES:
        raise ExportError(
            f"{spec.name} has an input called {FRAMES} already, as the part before it would",
            hint="rename it in the ONNX, or export it with --preprocess graph",
        )
    graph = Graph()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(floats.dtype))
    x = _explicit(graph, _planes(graph, FRAMES, kind), framed.preprocess, step, kind)
    graph.node("Identity", floats.name, x)
    framed = dataclasses.replace(framed, inputs=(frames, *framed.inputs[1:]))
    return graph.model(FRAMES, [frames], [floats], edgeinfer.__version__), framed


def _framed(spec: ModelSpec, color: str) -> tuple[ModelSpec, int]:
    """The spec of a model that takes frames, and the step (1 or -1) from their channels to the model's own."""
    how, floats = spec.preprocess, spec.inputs[0]
    if how.where == "graph":
        raise ExportError(f"{spec.name} takes uint8 frames already", hint="leave --preprocess out")
    step = 1 if color == how.color else -1
    framed = dataclasses.replace(how, color=color, mean=how.mean[::step], std=how.std[::step], where="graph")
    frames = TensorSpec(floats.name, (floats.shape[0], how.size.height, how.size.width, 3), "uint8")
    return dataclasses.replace(spec, inputs=(frames, *spec.inputs[1:]), preprocess=framed), step


def _planes(graph: Graph, frames: str, kind: int) -> str:
    """Frames as numbers (n, 3, h, w)."""
    numbers = graph.node("Cast", f"{frames}.numbers", frames, to=kind)
    return graph.node("Transpose", f"{frames}.planes", numbers, perm=[0, 3, 1, 2])


def _explicit(graph: Graph, x: str, framed: Preprocess, step: int, kind: int) -> str:
    """The arithmetic as nodes, for a model whose first operator cannot take it in."""
    x = _centred(graph, x, framed, kind)
    x = graph.node("Div", f"{x}.scaled", x, _constant(graph, f"{x}.scale", 1 / np.array(framed.gain), kind))
    return graph.node("Gather", f"{x}.swapped", x, graph.integers(f"{x}.order", 2, 1, 0), axis=1) if step < 0 else x


def _centred(graph: Graph, x: str, framed: Preprocess, kind: int = TensorProto.FLOAT) -> str:
    """Pixels less the mean, where there is one."""
    if not any(framed.mean):
        return x
    return graph.node("Sub", f"{x}.centred", x, _constant(graph, f"{x}.mean", _mean(framed), kind))


def _mean(framed: Preprocess) -> Array:
    """The mean in pixel values."""
    return np.array(framed.mean, np.float64) * framed.scale


def _constant(graph: Graph, name: str, values: Array, kind: int) -> str:
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    return graph.constant(name, values.reshape(1, 3, 1, 1).astype(dtype))


class _First:
    """The convolution that alone reads the input, with weights that nothing else reads."""

    def __init__(self, node: Any, weight: Any, bias: Any) -> None:
        self._node, self._weight, self._bias = node, weight, bias

    @classmethod
    def of(cls, model: Any, readers: list[Any]) -> _First | None:
        if len(readers) != 1 or readers[0].op_type != "Conv":
            return None
        (node,) = readers
        own = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in node.input[1:]}
        uses = [name for other in model.graph.node for name in other.input if name in own]
        floats = all(tensor.data_type == TensorProto.FLOAT for tensor in own.values())
        if len(own) != len(node.input) - 1 or len(uses) != len(own) or not floats:
            return None
        weight, *bias = (own[name] for name in node.input[1:])
        # in groups, no weight sees every channel
        return cls(node, weight, bias[0] if bias else None) if weight.dims[1] == 3 else None

    @property
    def _pads(self) -> bool:
        attributes = {one.name: one for one in self._node.attribute}
        automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
        return automatic not in (b"NOTSET", b"VALID") or ("pads" in attributes and any(attributes["pads"].ints))

    def fold(self, graph: Graph, x: str, framed: Preprocess, step: int) -> str:
        """Take in the order of the channels, the gain and, if exact, the mean; gives what the convolution reads."""
        weight = numpy_helper.to_array(self._weight).astype(np.float64)[:, ::step]
        weight = weight * np.array(framed.gain)[:, None, None]
        self._set(self._weight, weight)
        if self._pads or not any(framed.mean):
            return _centred(graph, x, framed)
        offset = -(weight * _mean(framed)[:, None, None]).sum(axis=(1, 2, 3))
        if self._bias is None:
            self._node.input.append(graph.constant(f"{self._weight.name}.offset", offset.astype(np.float32)))
        else:
            self._set(self._bias, numpy_helper.to_array(self._bias) + offset)
        return x

    @staticmethod
    def _set(tensor: Any, value: Array) -> None:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))
