"""int8 in the graph: explicit QuantizeLinear / DequantizeLinear pairs, from the ranges that calibration has seen.

`cpu`: uint8 activations with a zero point, and biases in the int32 of their accumulators, as ONNX Runtime's kernels
take them. `trt`: symmetric int8 activations and float32 biases, as TensorRT demands. Weights are int8 in both, with a
scale for each output channel. What stays float32, and where the pairs stand, is `placement`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeinfer_export import nearest, onnxgraph
from edgeinfer_export.placement import Net

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from edgeinfer_export.ranges import Range

FLAVORS = ("cpu", "trt")
# a bias in int32 takes the scale of its accumulator, which must not be so fine that it overflows
LARGEST_BIAS = 2.0**30
FLOAT32 = np.finfo(np.float32)


def points(model: Any) -> set[str]:
    """Every tensor whose range is needed, whatever the flavour."""
    net = Net(model)
    return {name for flavor in FLAVORS for name in net.points(flavor)}


def quantize(model: Any, ranges: Mapping[str, Range], flavor: str, keep: Collection[str] = ()) -> Any:
    """The float32 `model` in int8 of this flavour, `cpu` or `trt`; `model` itself stays as it is.

    `ranges`: least and greatest value of each of its `points`. The nodes in `keep` stay float32, by their titles.
    """
    return _Quantizing(Net(model, keep), ranges, flavor).result()


@dataclass(frozen=True)
class _Scale:
    """value = (number - zero) * step."""

    step: np.float32
    zero: NDArray[Any]


class _Quantizing:
    def __init__(self, net: Net, ranges: Mapping[str, Range], flavor: str) -> None:
        self._net, self._flavor, self._ranges = net, flavor, ranges
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._points = net.points(flavor)
        self._scales = self._shared(ranges)
        self._convolutions = {node.output[0] for node in net.convolutions(flavor)}

    def _shared(self, ranges: Mapping[str, Range]) -> dict[str, _Scale]:
        """A scale for each point; those that go together have the scale of all their values."""
        parent = {name: name for name in sorted(self._points)}

        def root(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for one, other in self._net.together(self._points):
            parent[root(other)] = root(one)
        members: dict[str, list[Range]] = {}
        for name in parent:
            members.setdefault(root(name), []).append(ranges[name])
        whole = {name: (min(one.low for one in all_), max(one.high for one in all_)) for name, all_ in members.items()}
        return {name: self._scale(*whole[root(name)]) for name in parent}

    def _scale(self, low: float, high: float) -> _Scale:
        low, high = min(low, 0.0), max(high, 0.0)
        if self._flavor == "trt":
            return _Scale(_step(max(-low, high) / 127), np.array(0, np.int8))
        step = _step((high - low) / 255)
        return _Scale(step, np.array(np.clip(round(-low / float(step)), 0, 255), np.uint8))

    def result(self) -> Any:
        source = self._net.model
        for value in source.graph.input:
            self._pair(value.name)
        for node in source.graph.node:
            self._add(node)
        read = {name for node in self._nodes for name in node.input}
        model = onnxgraph.emptied(source)
        graph = model.graph
        graph.input.extend(source.graph.input)
        graph.node.extend(self._nodes)
        graph.initializer.extend(one for one in source.graph.initializer if one.name in read)
        graph.initializer.extend(self._constants.values())
        if self._flavor == "cpu":
            nearest.copied(model, self._points)
        return model

    def _add(self, node: Any) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [f"{name}.dequantized" if name in self._points else name for name in node.input]
        if node.output[0] in self._convolutions and node.input[0] in self._points:
            self._weights(copy, node)
        self._nodes.append(copy)
        for name in node.output:
            self._pair(name)

    def _pair(self, name: str) -> None:
        """The tensor rounded to 8 bits, for all who read it."""
        if name not in self._points:
            return
        scale = self._scales[name]
        step, zero = self._constant(f"{name}.scale", scale.step), self._constant(f"{name}.zero", scale.zero)
        self._nodes += [
            helper.make_node("QuantizeLinear", [name, step, zero], [f"{name}.quantized"], f"{name}.quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{name}.quantized", step, zero], [f"{name}.dequantized"], f"{name}.dequantize"
            ),
        ]

    def _constant(self, name: str, value: Any) -> str:
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def _weights(self, copy: Any, node: Any) -> None:
        """int8 weights by output channel, and for CPUs the bias in its accumulator's int32."""
        names = [self._own(name, node) for name in node.input]
        weight, *bias = (numpy_helper.to_array(self._net.constants[name]) for name in node.input[1:] if name)
        step = self._scales[node.input[0]].step
        largest = np.abs(weight.reshape(len(weight), -1)).max(1).astype(np.float64) / 127
        if self._flavor == "cpu" and bias:
            largest = np.maximum(largest, np.abs(bias[0]).astype(np.float64) / (float(step) * LARGEST_BIAS))
        steps = _dividing(np.where(largest > 0, largest, 1.0))
        rounded = np.round(weight / steps.reshape(-1, *[1] * (weight.ndim - 1))).clip(-127, 127).astype(np.int8)
        copy.input[1] = self._dequantized(names[1], rounded, steps)
        if bias:
            lost = rounded * steps.reshape(-1, *[1] * (weight.ndim - 1)) - weight
            bias[0] = bias[0] - self._shift(node, lost)
            if self._flavor == "trt":
                held = bias[0].clip(FLOAT32.min, FLOAT32.max).astype(np.float32)
                copy.input[2] = self._constant(f"{names[2]}.corrected", held)
        if self._flavor == "cpu" and bias:
            fine = _dividing(steps.astype(np.float64) * float(step))
            whole = np.round(bias[0] / fine.astype(np.float64)).clip(-(2**31), 2**31 - 1).astype(np.int32)
            copy.input[2] = self._dequantized(names[2], whole, fine)

    def _own(self, name: str, node: Any) -> str:
        """What the numbers are called that are made for `node` of a constant that others may read too."""
        return name if self._net.readers[name] == 1 else f"{node.output[0]}.{name}"

    def _shift(self, node: Any, lost: NDArray[Any]) -> NDArray[np.float64] | float:
        """By how much the rounding of its weights moves the mean of each output: what the bias makes good.

        Nagel and others, "Data-free quantization through weight equalization and bias correction", 2019.
        """
        means = np.array(self._ranges[node.input[0]].means)
        groups = next((one.i for one in node.attribute if one.name == "group"), 1)
        if not len(means) or len(means) != lost.shape[1] * groups:
            return 0.0
        apart = lost.sum(axis=tuple(range(2, lost.ndim)), dtype=np.float64).reshape(groups, -1, lost.shape[1])
        shift: NDArray[np.float64] = (apart * means.reshape(groups, 1, -1)).sum(-1).reshape(-1)
        return shift

    def _dequantized(self, name: str, numbers: NDArray[Any], steps: NDArray[np.float32]) -> str:
        inputs = (
            (f"{name}.quantized", numbers),
            (f"{name}.scale", steps),
            (f"{name}.zero", np.zeros_like(numbers, shape=len(steps))),
        )
        names = [self._constant(own, value) for own, value in inputs]
        self._nodes.append(
            helper.make_node("DequantizeLinear", names, [f"{name}.dequantized"], f"{name}.dequantize", axis=0)
        )
        return f"{name}.dequantized"


def _dividing(steps: NDArray[np.float64]) -> NDArray[np.float32]:
    """Steps that divide, and of which float32 holds 127."""
    return steps.clip(FLOAT32.tiny, FLOAT32.max / 128).astype(np.float32)


def _step(width: float) -> np.float32:
    """A step that float32 holds and that divides: of a tensor that is always 0, any."""
    step: np.float32 = np.float32(max(width, 1e-30) if width else 1)
    return step
