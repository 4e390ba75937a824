"""What shows in a graph that a target's library will not take: refused before an export begins, not behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import numpy_helper

from edgeinfer.errors import ExportError
from edgeinfer_export import complaints, targets
from edgeinfer_export.precision import title

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from edgeinfer_export.targets import Target

TURING = 75
# products of matrices, and the precisions in which they are float32: int8 is for convolutions
PRODUCTS, STAYING = ("Gemm", "MatMul"), {"fp32", "int8"}
PAIR = ("QuantizeLinear", "DequantizeLinear")


def check(model: Any, wanted: Sequence[Target], precisions: Collection[str]) -> None:
    """ExportError, with the node and the way out, for a model that a target cannot be in one of the precisions."""
    if not wanted:
        return
    nodes = {node.op_type: node for node in model.graph.node}
    targets.check_nms(wanted, "graph" if "NonMaxSuppression" in nodes else "runtime")
    if name := _asymmetric(model):
        raise ExportError(
            f"{wanted[0]}: node {name} rounds to numbers with a zero point, which TensorRT does not take",
            hint=complaints.SYMMETRIC,
        )
    turing = [target for target in wanted if TURING in target.capabilities]
    products = [nodes[kind] for kind in PRODUCTS if kind in nodes]
    if turing and products and not STAYING.isdisjoint(precisions):
        raise ExportError(
            f"{turing[0]}: node {title(products[0])} is a {products[0].op_type}, which TensorRT-RTX has not in float32 "
            "for sm75",
            hint=complaints.GEMM,
        )


def _asymmetric(model: Any) -> str:
    """The first node that quantises or dequantises with a zero point."""
    constants = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        zero = constants.get(node.input[2]) if node.op_type in PAIR and len(node.input) > 2 else None
        if zero is not None and numpy_helper.to_array(zero).any():
            return title(node)
    return ""
