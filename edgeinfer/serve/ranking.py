"""The best classes of an output, as words: Triton's classification extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.serve import tensors
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.serve.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COUNT = "classification"  # a parameter of an output that is asked for: how many classes of it


def count(parameters: Mapping[str, Any], what: str) -> int:
    """How many classes are asked for; 0: the numbers themselves."""
    value = parameters.get(COUNT, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise Refusal(INVALID, f"{what}: parameter {COUNT} is not a number of classes")
    return value


def ranked(tensor: Tensor, most: int, labels: Sequence[str], *, batched: bool) -> Tensor:
    """A tensor of numbers -> BYTES [n, k], or [k] if the first side is no batch: "value:index", best first.

    `:label` follows where there is one for each number of a row. Equals are in their order.
    """
    if not isinstance(tensor.data, np.ndarray):
        raise Refusal(INVALID, f"output {tensor.name!r} is {tensor.datatype}, which has no best classes")
    rows = tensor.data.reshape(len(tensor.data) if batched else 1, -1)
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :most]
    form = "f" if rows.dtype.kind == "f" else "d"
    words = [
        [f"{rows[row, place]:{form}}:{place}{_label(place, labels, rows.shape[1])}" for place in places]
        for row, places in enumerate(order.tolist())
    ]
    flat = [word.encode() for row in words for word in row]
    return Tensor(tensor.name, tensors.BYTES, order.shape if batched else order.shape[1:], flat)


def _label(place: int, labels: Sequence[str], classes: int) -> str:
    return f":{labels[place]}" if len(labels) == classes else ""
