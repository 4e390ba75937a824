"""An ONNX graph under construction: operators as methods, named by the layer they come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.spec import Dim, TensorSpec

Array = NDArray[Any]
# down and across; one number for both
Pair = int | tuple[int, int]

# Taken by TensorRT 8.5 to 11, TensorRT-RTX, OpenVINO and every ONNX Runtime the package admits.
OPSET = 17
IR_VERSION = 8
DIVERGED = "the training diverged, or the file is damaged"
DAMAGED = "the checkpoint's tensors do not fit its own description; export the original checkpoint"


@dataclass(frozen=True)
class Feature:
    """A tensor (batch, channels, height, width) in the graph."""

    name: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Kernel:
    """A convolution's float32 weight (out, in / groups, height, width) and bias (out), batch norm folded in."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Activation:
    """A non-linearity: its kind, and the slope of a leaky ReLU."""

    kind: str
    slope: float = 0.0


SILU = Activation("silu")
RELU = Activation("relu")
HARDSWISH = Activation("hardswish")
LINEAR = Activation("linear")
# by what PyTorch calls them; a leaky ReLU has a slope besides
ACTIVATIONS = {"SiLU": SILU, "ReLU": RELU, "Hardswish": HARDSWISH, "Identity": LINEAR}


class Graph:
    """Nodes and constants in the order they were added; counts the multiply-adds of its convolutions.

    A node, its output and its constants share the path of their layer, so that profiles are readable.
    """

    def __init__(self) -> None:
        self.macs = 0
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}

    def constant(self, name: str, value: Array) -> str:
        self._constants[name] = np.ascontiguousarray(value).reshape(np.shape(value))
        return name

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))

    def node(self, kind: str, path: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; its name and its output's name are `path`."""
        self._nodes.append(helper.make_node(kind, list(inputs), [path], path, **attributes))
        return path

    def several(self, count: int, kind: str, path: str, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with so many outputs."""
        outputs = [f"{path}.{place}" for place in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, path, **attributes))
        return outputs

    def split(self, path: str, source: str, sizes: Sequence[int]) -> list[str]:
        """Parts along the channels."""
        return self.several(len(sizes), "Split", path, source, self.integers(f"{path}.sizes", *sizes), axis=1)

    def conv(
        self,
        path: str,
        x: Feature,
        kernel: Kernel,
        *,
        stride: Pair = 1,
        pad: Pair = 0,
        groups: int = 1,
    ) -> Feature:
        """`pad`: rows above and below, columns left and right."""
        out, inner, *shape = kernel.weight.shape
        if inner * groups != x.channels:
            raise ExportError(
                f"tensor {path}.weight is {kernel.weight.shape}: it takes {inner * groups} channels, "
                f"the layer before gives {x.channels}",
                hint=DAMAGED,
            )
        strides, pads = both(stride), both(pad) * 2
        height, width = _slid(path, x, shape, strides, pads)
        self.macs += kernel.weight.size * height * width
        name = self._convolved("Conv", path, x, kernel, strides=strides, pads=pads, group=groups)
        return Feature(name, out, height, width)

    def conv_transpose(
        self, path: str, x: Feature, kernel: Kernel, *, stride: int, pad: int, groups: int = 1
    ) -> Feature:
        """The kernel's weight is (in, out / groups, height, width)."""
        *_, rows, columns = kernel.weight.shape
        height = (x.height - 1) * stride - 2 * pad + rows
        width = (x.width - 1) * stride - 2 * pad + columns
        if min(height, width) < 1:
            raise _nothing_left(path, x)
        self.macs += kernel.weight.size * x.height * x.width
        name = self._convolved("ConvTranspose", path, x, kernel, strides=both(stride), pads=both(pad) * 2, group=groups)
        return Feature(name, len(kernel.bias), height, width)

    def pad(self, path: str, x: Feature, pads: Sequence[int]) -> Feature:
        """Zeros above, left, below and right: `pads` in ONNX's order.

        A convolution that changes nothing: ONNX Runtime takes a Pad before a MaxPool for one of minus infinity.
        """
        top, left, below, right = pads
        kernel = Kernel(np.ones((x.channels, 1, 1, 1), np.float32), np.zeros(x.channels, np.float32))
        name = self._convolved("Conv", path, x, kernel, pads=pads, group=x.channels)
        return Feature(name, x.channels, x.height + top + below, x.width + left + right)

    def _convolved(self, kind: str, path: str, x: Feature, kernel: Kernel, **attributes: Any) -> str:
        if not (np.isfinite(kernel.weight).all() and np.isfinite(kernel.bias).all()):
            raise ExportError(f"layer {path} has weights beyond float32, once its batch norm is in them", hint=DIVERGED)
        weight = self.constant(f"{path}.weight", kernel.weight)
        bias = self.constant(f"{path}.bias", kernel.bias)
        return self.node(kind, path, x.name, weight, bias, kernel_shape=kernel.weight.shape[2:], **attributes)

    def activate(self, path: str, x: Feature, activation: Activation) -> Feature:
        return dataclasses.replace(x, name=self._activated(path, x.name, activation))

    def _activated(self, path: str, x: str, activation: Activation) -> str:
        if activation.kind == "silu":
            # engines know this pair of nodes and fuse it
            return self.node("Mul", f"{path}.silu", x, self.node("Sigmoid", f"{path}.sigmoid", x))
        if activation.kind == "hardswish":
            # not the HardSwish operator: ONNX Runtime and older engines have kernels for its halves only
            gate = self.node("HardSigmoid", f"{path}.hardsigmoid", x, alpha=1 / 6, beta=0.5)
            return self.node("Mul", f"{path}.hardswish", x, gate)
        if activation.kind == "leakyrelu":
            return self.node("LeakyRelu", f"{path}.leakyrelu", x, alpha=activation.slope)
        return self.node("Relu", f"{path}.relu", x) if activation.kind == "relu" else x

    def add(self, path: str, x: Feature, y: Feature) -> Feature:
        if (x.channels, x.height, x.width) != (y.channels, y.height, y.width):
            raise ExportError(f"layer {path} adds {_shape(x)} to {_shape(y)}", hint=DAMAGED)
        return Feature(self.node("Add", path, x.name, y.name), x.channels, x.height, x.width)

    def concat(self, path: str, features: Sequence[Feature]) -> Feature:
        first = features[0]
        for other in features[1:]:
            if (other.height, other.width) != (first.height, first.width):
                raise ExportError(f"layer {path} joins {_shape(first)} and {_shape(other)}", hint=DAMAGED)
        name = self.node("Concat", path, *(feature.name for feature in features), axis=1)
        return Feature(name, sum(feature.channels for feature in features), first.height, first.width)

    def max_pool(self, path: str, x: Feature, kernel: int, stride: int, pad: int) -> Feature:
        attributes = {"kernel_shape": both(kernel), "strides": both(stride), "pads": both(pad) * 2}
        height, width = _slid(path, x, *attributes.values())
        return Feature(self.node("MaxPool", path, x.name, **attributes), x.channels, height, width)

    def average_pool(self, path: str, x: Feature, size: int, *, stride: int) -> Feature:
        """Of squares; those that the right and lower edges cut are averaged over what is there."""
        height, width = (-(-(side - size) // stride) + 1 for side in (x.height, x.width))
        pads = [0, 0, (height - 1) * stride + size - x.height, (width - 1) * stride + size - x.width]
        name = self.node(
            "AveragePool", path, x.name, kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads, count_include_pad=0
        )
        return Feature(name, x.channels, height, width)

    def upsample(self, path: str, x: Feature, factor: int) -> Feature:
        # asymmetric + floor is exact for whole factors, and the one form ONNX Runtime keeps in its blocked layout
        scales = self.constant(f"{path}.scales", np.array([1, 1, factor, factor], np.float32))
        name = self.node(
            "Resize",
            path,
            x.name,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return Feature(name, x.channels, x.height * factor, x.width * factor)

    def into_channels(self, path: str, x: Feature, size: int) -> Feature:
        """Each square of `size` cells becomes one cell of as many times the channels, those of a place together."""
        height, width = x.height // size, x.width // size
        name = self.node("SpaceToDepth", path, x.name, blocksize=size)
        return Feature(name, x.channels * size**2, height, width)

    def into_cells(self, path: str, x: Feature, size: int) -> Feature:
        """The reverse of `into_channels`."""
        name = self.node("DepthToSpace", path, x.name, blocksize=size, mode="DCR")
        return Feature(name, x.channels // size**2, x.height * size, x.width * size)

    def model(self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], producer: str) -> Any:
        """The finished model; the same calls give the same bytes."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [declare(tensor) for tensor in inputs],
            [declare(tensor) for tensor in outputs],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name, model.producer_version = "edgeinfer", producer
        self._hold(model)
        return model

    def into(self, model: Any, *, first: bool = False) -> None:
        """Add the nodes and constants to a model, behind its own nodes or `first`."""
        own = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*self._nodes, *own] if first else [*own, *self._nodes])
        self._hold(model)

    def _hold(self, model: Any) -> None:
        """Put the constants into the model, each straight into its place: they may fill half of the memory."""
        for name, value in self._constants.items():
            tensor = model.graph.initializer.add()
            tensor.dims.extend(value.shape)
            tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
            tensor.name, tensor.raw_data = name, value.tobytes()


def _shape(x: Feature) -> str:
    return f"({x.channels}, {x.height}, {x.width})"


def both(pair: Pair) -> list[int]:
    """Along rows and columns."""
    return [pair, pair] if isinstance(pair, int) else [*pair]


def _slid(path: str, x: Feature, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> tuple[int, int]:
    """Height and width after a window was slid over `x`."""
    height = (x.height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    width = (x.width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    if min(height, width) < 1:
        raise _nothing_left(path, x)
    return height, width


def _nothing_left(path: str, x: Feature) -> ExportError:
    return ExportError(f"layer {path} leaves nothing of {_shape(x)}", hint="export at a larger size")


def declare(tensor: TensorSpec) -> Any:
    """An input or output of a model."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, [_dim(dim) for dim in tensor.shape])


def _dim(dim: Dim) -> int | str:
    return "batch" if isinstance(dim, Batch) else dim
