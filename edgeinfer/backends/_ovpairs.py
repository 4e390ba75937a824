"""An int8 graph as OpenVINO wants it: nothing is rounded between a convolution and its activation, nothing is signed.

ONNX Runtime's kernels of 8 bits need a QuantizeLinear / DequantizeLinear pair round each part of x * sigmoid(x).
They keep OpenVINO from computing it in the convolution's own registers: YOLOv5n takes half as long again with them.
Without them the graph is also closer to float32.

Signed activations are what TensorRT takes. On a CPU without AMX OpenVINO 2026.4 stores them unsigned, and where they
were concatenated forgets that they lie 128 higher: the convolution after it is wrong. Unsigned from the beginning, with
the zero point of 128 that says so, they stand for the same numbers and come out right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# a pair as OpenVINO reads it, from its end; without a zero point there is no Subtract
_PAIR = ("Multiply", "Subtract", "Convert", "Convert", "FakeQuantize")
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_HIGHER = 128  # from int8 to uint8


def join_activations(model: Any) -> None:
    """Drop the pairs between convolutions and their SiLU from an openvino.Model in place.

    Nor is a SiLU rounded for a convolution in float32, such as a head's: it would be turned to another layout and back.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Multiply":
            _join(node)
    for node in model.get_ordered_ops():
        if node.get_type_name() in _CONVOLUTIONS and node.input_value(1).get_node().get_type_name() != "Multiply":
            x = _exact(node.input(0))
            if _activated(x.get_node()):
                node.input(0).replace_source_output(x)
    model.validate_nodes_and_infer_types()


def store_unsigned(model: Any) -> int:
    """Make every pair of int8 in an openvino.Model one of uint8 that gives the same numbers, in place; how many."""
    scalings = [node for node in model.get_ordered_ops() if node.get_type_name() == "Multiply"]
    stored = sum(_raised(node) for node in scalings)
    model.validate_nodes_and_infer_types()
    return stored


def _join(product: Any) -> None:
    """Let it read x exactly, if it is x * sigmoid(x) of a convolution's x."""
    for value, gate in ((0, 1), (1, 0)):
        x, sigmoid = _exact(product.input(value)), _exact(product.input(gate)).get_node()
        if _convolved(x) and sigmoid.get_type_name() == "Sigmoid" and _same(_exact(sigmoid.input(0)), x):
            sigmoid.input(0).replace_source_output(x)
            product.input(value).replace_source_output(x)
            product.input(gate).replace_source_output(sigmoid.output(0))
            return


def _raised(scaling: Any) -> bool:
    """Whether it ends a pair of int8, and reads uint8 now."""
    pair = _pair(scaling)
    if not pair or pair[-2].get_element_type().get_type_name() != "i8":
        return False
    zero = _number(pair[1].input_value(1)) if pair[1].get_type_name() == "Subtract" else np.array(0)
    low, high = (_number(pair[-1].input_value(place)) for place in (3, 4))
    if zero is None or low is None or high is None:
        return False
    make = _operators()
    ends = [make.constant((end + _HIGHER).astype(np.float32)) for end in (low, high)]
    read = [pair[-1].input_value(place) for place in range(3)]
    stored = make.convert(make.fake_quantize(*read, *ends, pair[-1].get_attributes()["levels"]), "u8")
    # as a constant of the stored type: OpenVINO computes in integers only with a zero point that it knows as such
    raised = make.convert(make.constant((zero + _HIGHER).astype(np.uint8)), "f32")
    scaling.input(0).replace_source_output(make.subtract(make.convert(stored, "f32"), raised).output(0))
    return True


def _operators() -> Any:
    """The library's makers of nodes, which lay elsewhere up to 2024."""
    try:
        from openvino import opset13
    except ImportError:
        from openvino.runtime import opset13
    return opset13


def _number(value: Any) -> Any:
    """The numbers of a constant, converted or not, wide enough for sums; None of what is computed."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data.astype(np.float64) if node.get_type_name() == "Constant" else None


def _exact(port: Any) -> Any:
    """What an input reads, before the pair that rounds it if there is one."""
    source = port.get_source_output()
    pair = _pair(source.get_node())
    return pair[-1].input_value(0) if pair else source


def _pair(end: Any) -> list[Any]:
    """The nodes of the pair that ends here, from its end; empty if none does."""
    nodes: list[Any] = []
    node = end
    for kind in _PAIR:
        if node.get_type_name() == kind:
            nodes.append(node)
            node = node.input_value(0).get_node() if node.get_input_size() else node
        elif kind != "Subtract":
            return []
    return nodes


def _convolved(value: Any) -> bool:
    """Whether it is a convolution's, with its bias or without."""
    node = value.get_node()
    if node.get_type_name() == "Add":
        node = node.input(0).get_source_output().get_node()
    return node.get_type_name() in _CONVOLUTIONS


def _activated(product: Any) -> bool:
    """Whether it is x * sigmoid(x)."""
    kinds = {value.get_node().get_type_name() for value in product.input_values()}
    return product.get_type_name() == "Multiply" and "Sigmoid" in kinds


def _same(one: Any, other: Any) -> bool:
    return bool(one.get_node().get_name() == other.get_node().get_name() and one.get_index() == other.get_index())
