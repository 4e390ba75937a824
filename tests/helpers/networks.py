"""Small ONNX networks with seeded weights, for the compilers: what residual and detection networks are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 32
KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


class Net:
    """Nodes and weights as they are added; every method gives the name of its output."""

    def __init__(self, dtype=np.float32, seed=0):
        self.dtype, self.nodes, self.weights = np.dtype(dtype), [], {}
        self.random = np.random.default_rng(seed)

    def add(self, operator, *inputs, out=None, **attributes):
        out = out or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], name=f"/{out}", **attributes))
        return out

    def weight(self, value):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(value)
        return name

    def values(self, *shape):
        return (self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(self.dtype)

    def conv(self, x, inputs, outputs, kernel=3, stride=1):
        weight, bias = self.weight(self.values(outputs, inputs, kernel, kernel)), self.weight(self.values(outputs))
        return self.add("Conv", x, weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def cast(self, x, out=None, to=None):
        kind = KINDS[np.dtype(to or self.dtype)]
        return self.add("Cast", x, out=out, to=kind) if self.dtype != np.float32 else x

    def quantize(self, x, scale=0.05):
        """Symmetric int8 Q/DQ of an activation."""
        scale, zero = self.weight(np.float32(scale)), self.weight(np.int8(0))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, scale, zero), scale, zero)

    def quantized_conv(self, x, inputs, outputs, stride=1):
        """A convolution between Q/DQ: int8 weights per channel, float32 bias."""
        weights = self.values(outputs, inputs, 3, 3)
        scales = (np.abs(weights).reshape(outputs, -1).max(1) / 127).astype(np.float32)
        rounded = np.round(weights / scales[:, None, None, None]).astype(np.int8)
        zeros = self.weight(np.zeros(outputs, np.int8))
        kernel = self.add("DequantizeLinear", self.weight(rounded), self.weight(scales), zeros, axis=0)
        bias = self.weight(self.values(outputs))
        return self.add("Conv", self.quantize(x), kernel, bias, strides=[stride] * 2, pads=[1] * 4)

    def save(self, path: Path, outputs, batch=1):
        """Write the network with one float32 input `images` (batch, 3, 32, 32)."""
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])
        given = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs]
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "net", [images], given, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return path


def residual(path, dtype=np.float32, batch=1):
    """A residual classifier of ten classes, its head a 1x1 convolution."""
    net = Net(dtype)
    stem = net.add("MaxPool", net.add("Relu", net.conv(net.cast("images"), 3, 16, 7, 2)), kernel_shape=[2, 2])
    branch = net.conv(net.add("Relu", net.conv(stem, 16, 16)), 16, 16)
    joined = net.add("Relu", net.add("Add", stem, branch))
    head = net.conv(net.add("GlobalAveragePool", joined), 16, 10, 1)
    flat = net.cast(net.add("Flatten", head), to=np.float32)
    net.add("Identity", flat, out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [batch, 10])], batch)


def detector(path, dtype=np.float32, batch=1):
    """Convolutions with SiLU, an upsampled and concatenated neck, boxes (batch, 256, 8) after a sigmoid."""
    net = Net(dtype)
    fine = _silu(net, net.conv(net.cast("images"), 3, 8, 3, 2))
    coarse = _silu(net, net.conv(fine, 8, 16, 3, 2))
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    neck = net.add("Concat", fine, net.add("Resize", coarse, "", scales, mode="nearest"), axis=1)
    head = net.cast(net.conv(neck, 24, 8, 1), to=np.float32)
    rows = net.add("Transpose", net.add("Reshape", head, net.weight(np.array([0, 8, -1]))), perm=[0, 2, 1])
    net.add("Sigmoid", rows, out="output0")
    return net.save(path, [("output0", TensorProto.FLOAT, [batch, 256, 8])], batch)


def quantized(path, batch=1):
    """Two int8 convolutions with a residual addition."""
    net = Net()
    stem = net.add("Relu", net.quantized_conv("images", 3, 32, 2))
    branch = net.add("Relu", net.quantized_conv(stem, 32, 32))
    joined = net.add("Add", net.quantize(stem), net.quantize(branch))
    net.add("Flatten", net.add("GlobalAveragePool", joined), out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [batch, 32])], batch)


def concatenated(path):
    """An int8 convolution of what two others gave, each rounded before they are joined, and all after it."""
    net = Net()
    parts = [net.quantize(net.add("Relu", net.quantized_conv("images", 3, 32))) for _ in range(2)]
    joined = net.quantized_conv(net.add("Concat", *parts, axis=1), 64, 32)
    net.add("Flatten", net.add("GlobalAveragePool", joined), out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [1, 32])])


def transposed(path):
    """A batch of any size: rows that are columns transposed at the end, once of columns that are given as well."""
    net = Net()
    for name in ("rows", "again"):
        net.add("Reshape", net.conv("images", 3, 8), net.weight(np.array([0, 8, -1])), out=f"{name}_columns")
        net.add("Transpose", f"{name}_columns", out=name, perm=[0, 2, 1])
    shapes = {"rows": ["n", None, 8], "again": ["n", None, 8], "again_columns": ["n", 8, None]}
    return net.save(path, [(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()], "n")


def float_headed(path):
    """A SiLU in 8 bits that a float32 convolution reads too, and what a clipping pair leaves of another."""
    net = Net()
    silu = net.quantize(_silu(net, net.quantized_conv("images", 3, 32)), 1 / 32)
    clipped = net.quantize(net.conv("images", 3, 32), 1 / 1024)
    heads = [net.conv(silu, 32, 32, 1), net.quantized_conv(silu, 32, 32), net.conv(clipped, 32, 32, 1)]
    joined = net.add("Add", net.add("Add", *heads[:2]), heads[2])
    net.add("Flatten", net.add("GlobalAveragePool", joined), out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [1, 32])])


def quantized_bias(path):
    """A convolution whose bias is int32 behind a DequantizeLinear, as onnxruntime's quantizer writes it."""
    net = Net()
    kernel = net.weight(net.values(8, 3, 3, 3))
    scale, zero = net.weight(np.float32(0.01)), net.weight(np.int32(0))
    bias = net.add("DequantizeLinear", net.weight(np.arange(8, dtype=np.int32)), scale, zero)
    conv = net.add("Conv", net.quantize("images"), kernel, bias, pads=[1] * 4)
    net.add("Flatten", net.add("GlobalAveragePool", conv), out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [1, 8])])


def asymmetric(path):
    """Activations in uint8 with a zero point, as a CPU likes them."""
    net = Net()
    scale, zero = net.weight(np.float32(0.02)), net.weight(np.uint8(12))
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", "images", scale, zero), scale, zero)
    net.add("Flatten", net.add("GlobalAveragePool", net.conv(x, 3, 8)), out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [1, 8])])


def gemm(path):
    """A float32 fully connected head."""
    net = Net()
    flat = net.add("Flatten", net.add("GlobalAveragePool", net.conv("images", 3, 64)))
    net.add("Gemm", flat, net.weight(net.values(64, 10)), net.weight(net.values(10)), out="logits")
    return net.save(path, [("logits", TensorProto.FLOAT, [1, 10])])


def suppressing(path):
    """A detector that ends in ONNX NonMaxSuppression."""
    net = Net()
    small = net.add("MaxPool", net.conv("images", 3, 5, 3, 2), kernel_shape=[4, 4], strides=[4, 4])
    rows = net.add("Reshape", small, net.weight(np.array([1, 5, 16])))
    boxes, scores = f"{rows}_b", f"{rows}_s"
    split = net.weight(np.array([4, 1]))
    net.nodes.append(helper.make_node("Split", [rows, split], [boxes, scores], axis=1, name="/split"))
    turned = net.add("Transpose", boxes, perm=[0, 2, 1])
    limits = [net.weight(np.array([value], kind)) for value, kind in ((10, np.int64), (0.5, "f4"), (0.1, "f4"))]
    net.add("NonMaxSuppression", turned, scores, *limits, out="kept")
    return net.save(path, [("kept", TensorProto.INT64, ["kept", 3])])


def unknown_operator(path):
    """Asks for an operator that ONNX has and TensorRT has not."""
    net = Net()
    pooled = net.add("Flatten", net.add("GlobalAveragePool", "images"))
    net.add(
        "Det", net.add("Reshape", net.add("Concat", pooled, pooled, pooled, axis=1), net.weight([1, 3, 3])), out="det"
    )
    return net.save(path, [("det", TensorProto.FLOAT, [1])])


def _silu(net, x):
    return net.add("Mul", x, net.add("Sigmoid", x))
