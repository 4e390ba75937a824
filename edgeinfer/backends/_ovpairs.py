"""An int8 graph as OpenVINO wants it: nothing is rounded between a convolution and its activation.

ONNX Runtime's kernels of 8 bits need a QuantizeLinear / DequantizeLinear pair round each part of x * sigmoid(x).
They keep OpenVINO from computing it in the convolution's own registers: YOLOv5n takes half as long again with them.
Without them the graph is also closer to float32.
"""

from __future__ import annotations

from typing import Any

# a pair as OpenVINO reads it, from its end; without a zero point there is no Subtract
_PAIR = ("Multiply", "Subtract", "Convert", "Convert", "FakeQuantize")
_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def join_activations(model: Any) -> int:
    """Drop the pairs between convolutions and their SiLU from an openvino.Model in place; how many are whole now."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "Multiply"]
    whole = sum(_joined(node) for node in products if node.get_input_size() == 2)
    model.validate_nodes_and_infer_types()
    return whole


def _joined(product: Any) -> bool:
    """Whether it is x * sigmoid(x) of a convolution's x, and reads that x exactly now."""
    for value, gate in ((0, 1), (1, 0)):
        x, sigmoid = _exact(product.input(value)), _exact(product.input(gate)).get_node()
        if _convolved(x) and sigmoid.get_type_name() == "Sigmoid" and _same(_exact(sigmoid.input(0)), x):
            sigmoid.input(0).replace_source_output(x)
            product.input(value).replace_source_output(x)
            product.input(gate).replace_source_output(sigmoid.output(0))
            return True
    return False


def _exact(port: Any) -> Any:
    """What an input reads, before the pair that rounds it if there is one."""
    source = port.get_source_output()
    value = source
    for kind in _PAIR:
        node = value.get_node()
        if node.get_type_name() == kind:
            value = node.input(0).get_source_output()
        elif kind != "Subtract":
            return source
    return value


def _convolved(value: Any) -> bool:
    """Whether it is a convolution's, with its bias or without."""
    node = value.get_node()
    if node.get_type_name() == "Add":
        node = node.input(0).get_source_output().get_node()
    return node.get_type_name() in _CONVOLUTIONS


def _same(one: Any, other: Any) -> bool:
    return bool(one.get_node().get_name() == other.get_node().get_name() and one.get_index() == other.get_index())
