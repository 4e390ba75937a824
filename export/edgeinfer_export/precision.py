"""float16 in the graph: weights and arithmetic in half, inputs and outputs as they were, casts where the two meet.

Every tensor has one type that the operators' own declarations allow, so that strongly typed builders take the graph.
What half precision cannot hold stays float32: decoding (boxes in pixels need more than 11 bits), operators that know
no half, and constants that would vanish. Larger ones are clamped, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.errors import ExportError
from edgeinfer_export import onnxgraph

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LARGEST = 65504.0
# the share of a constant that rounding may cost: 2^-12 at most of normal numbers, all of those that vanish
ROUNDING = 2.0**-9
# a constant of so many numbers may be a shape
SHAPES = 64
# operators that only move numbers: behind a node left in float32 they would round what it was left for
MOVING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
# operators with weights: behind the last of them, a detector of another tool decodes
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Half:
    """The model in float16, and how many of its numbers were `clamped`."""

    model: Any
    clamped: int


def to_half(model: Any, keep: Collection[str] = ()) -> Half:
    """The float32 `model` in float16; `model` itself stays as it is.

    Inputs and outputs keep their names, types and shapes. The nodes in `keep`, and those of `delicate`, stay float32.
    Raises ExportError for a graph with branches or loops.
    """
    return _Halving(model, {*keep, *delicate(model)}).result()


def delicate(model: Any) -> set[str]:
    """Names of the nodes that decode, and of all that reads them: half a pixel of 640 is lost in float16.

    In our own graphs those are the ones under `decode`, in others all behind the last weights.
    """
    own = model.producer_name == "edgeinfer"
    behind = [] if own else last(model.graph.node, is_weighted)
    names = {title(node) for node in behind if not is_weighted(node)}
    reached: set[str] = set()
    for node in model.graph.node:
        if "decode" in node.name.split(".") or title(node) in names or reached.intersection(node.input):
            names.add(title(node))
            reached.update(node.output)
    return names


def is_weighted(node: Any) -> bool:
    return node.op_type in WEIGHTED


def last(nodes: Sequence[Any], weighted: Callable[[Any], bool]) -> list[Any]:
    """The nodes that lead to no weighted one."""
    before: set[str] = set()
    found = []
    for node in reversed(nodes):
        leading = not before.isdisjoint(node.output)
        found += [] if leading else [node]
        if leading or weighted(node):
            before.update(node.input)
    return found


def title(node: Any) -> str:
    """What a node is called here: its name, or where it has none, its output's."""
    return str(node.name or node.output[0])


def inferred(model: Any) -> dict[str, Any]:
    """Type and shape of every tensor in the graph but its constants, by the standard's rules of inference."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.CopyFrom(onnx.GraphProto(name=model.graph.name, node=model.graph.node, input=model.graph.input))
    for one in model.graph.initializer:
        # large ones decide on no type or shape, and copying them takes room
        if math.prod(one.dims) <= SHAPES:
            bare.graph.initializer.append(one)
        else:
            bare.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    bare.graph.output.extend(model.graph.output)
    graph = onnx.shape_inference.infer_shapes(bare).graph
    return {one.name: one.type.tensor_type for one in (*graph.value_info, *graph.input, *graph.output)}


def element_types(model: Any) -> dict[str, int]:
    """The element type of every tensor in the graph, its constants included."""
    types = {name: one.elem_type for name, one in inferred(model).items()}
    return {**types, **{one.name: one.data_type for one in model.graph.initializer}}


class _Halving:
    """One conversion. A tensor `x` is float32 under its own name, and float16 under `x.half`, wherever it is either."""

    def __init__(self, model: Any, keep: set[str]) -> None:
        self._model, self._keep = model, keep
        self._opset = onnxgraph.opset(model)
        self._types = element_types(model)
        self._values = {one.name: one for one in model.graph.initializer}
        self._given = {value.name for value in model.graph.input}
        self._there = set(self._given)
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._clamped = 0

    def result(self) -> Half:
        source = self._model.graph
        for node in source.node:
            self._add(node)
        for value in source.output:
            self._named(value.name, half=False)
        model = onnxgraph.emptied(self._model)
        graph = model.graph
        graph.input.extend(value for value in source.input if value.name not in self._values)
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._constants.values())
        return Half(model, self._clamped)

    def _add(self, node: Any) -> None:
        """The node, reading and writing the types it takes from now on."""
        where = title(node)
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(
                f"node {where} ({node.op_type}) has a graph of its own, which float16 does not reach",
                hint="export the model without branches and loops, or with --precision fp32",
            )
        inputs, outputs = self._free(node)
        able = bool(inputs or outputs) and not self._moves_exact(node)
        halved = able and where not in self._keep and self._holds(node, inputs)
        if not halved:
            inputs, outputs = set(), set()
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._named(name, half=place in inputs) for place, name in enumerate(node.input)]
        copy.output[:] = [f"{name}.half" if place in outputs else name for place, name in enumerate(node.output)]
        self._there.update(copy.output)
        if halved:
            self._retype(copy)
        self._nodes.append(copy)

    def _moves_exact(self, node: Any) -> bool:
        """Whether it only moves what a node before it has in float32 alone."""
        if node.op_type not in MOVING or node.input[0] in self._given:
            return False
        return node.input[0] in self._there and f"{node.input[0]}.half" not in self._there

    def _is_float(self, name: str) -> bool:
        return bool(self._types.get(name) == FLOAT)

    def _free(self, node: Any) -> tuple[set[int], set[int]]:
        """The places of the float32 inputs and outputs that the operator takes in float16 just as well."""
        schema = onnx.defs.get_schema(node.op_type, self._opset, "")
        able = {one.type_param_str for one in schema.type_constraints if "tensor(float16)" in one.allowed_type_strs}
        inputs = self._formal(node.input, schema.inputs)
        outputs = self._formal(node.output, schema.outputs)
        # a formal type is a variable such as T, or tensor(float) itself: what is neither able nor fixed holds all back
        if any(one not in able and one != "tensor(float)" for one in (*inputs.values(), *outputs.values())):
            return set(), set()
        return tuple({place for place, one in part.items() if one in able} for part in (inputs, outputs))  # type: ignore[return-value]

    def _formal(self, names: Sequence[str], declared: Sequence[Any]) -> dict[int, str]:
        last = len(declared) - 1
        floats = [place for place, name in enumerate(names) if name and self._is_float(name)]
        return {place: declared[min(place, last)].type_str for place in floats}

    def _holds(self, node: Any, inputs: set[int]) -> bool:
        """Whether float16 holds the node's constants: none but negligible ones vanish or lose their digits."""
        tensors = [self._values[node.input[place]] for place in inputs if node.input[place] in self._values]
        tensors += [one.t for one in node.attribute if one.HasField("t") and one.t.data_type == FLOAT]
        return all(_rounding(numpy_helper.to_array(tensor)) <= ROUNDING for tensor in tensors)

    def _retype(self, node: Any) -> None:
        """Attributes that speak of float32."""
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == FLOAT:
                attribute.i = HALF
            elif attribute.HasField("t") and attribute.t.data_type == FLOAT:
                attribute.t.CopyFrom(self._half(attribute.t, attribute.t.name))

    def _named(self, name: str, *, half: bool) -> str:
        """The name of this tensor in the type asked for, which is made where it is not there yet."""
        if not self._is_float(name) or name in self._values:
            return self._constant(name, half=half and self._is_float(name))
        own, other = (f"{name}.half", name) if half else (name, f"{name}.half")
        if own not in self._there:
            path = f"{name}.to_half" if half else f"{name}.to_float"
            self._nodes.append(helper.make_node("Cast", [other], [own], path, to=HALF if half else FLOAT))
            self._there.add(own)
        return own

    def _constant(self, name: str, *, half: bool) -> str:
        own = f"{name}.half" if half else name
        if name in self._values and own not in self._constants:
            self._constants[own] = self._half(self._values[name], own) if half else self._values[name]
        return own

    def _half(self, tensor: Any, name: str) -> Any:
        numbers = numpy_helper.to_array(tensor)
        self._clamped += int(np.count_nonzero(np.abs(numbers) > LARGEST))
        return numpy_helper.from_array(numbers.clip(-LARGEST, LARGEST).astype(np.float16), name)


def _rounding(numbers: NDArray[Any]) -> float:
    """What is lost of finite `numbers` by rounding them to float16, as a share of their size; clamping not counted."""
    numbers = numbers[np.abs(numbers) <= LARGEST]
    size = float(np.abs(numbers).sum(dtype=np.float64))
    lost = np.abs(numbers - numbers.astype(np.float16)).sum(dtype=np.float64)
    return float(lost) / size if size else 0.0
