"""The forms a model is exported in: one ONNX file each, made from the float32 graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer_export import quantize
from edgeinfer_export.precision import LARGEST, WEIGHTED, title, to_half

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgeinfer_export.ranges import Range


@dataclass(frozen=True)
class Form:
    """A precision, and for int8 what it is for: `cpu` or `trt`."""

    precision: str
    flavor: str = ""

    @property
    def name(self) -> str:
        return f"{self.precision}-{self.flavor}" if self.flavor else self.precision

    @property
    def file(self) -> str:
        return f"model.{self.name}.onnx"

    @property
    def rest(self) -> str:
        """What layers go back to that suffer from it: for TensorRT from int8 to float16, which is all but as exact."""
        return "float16" if self.flavor == "trt" else "float32"


@dataclass(frozen=True)
class Made:
    """A model in some form, and how it came to it, for model.json."""

    model: Any
    how: Mapping[str, str]


def forms(precisions: Sequence[str], but: str = "") -> tuple[Form, ...]:
    """The forms that these precisions have, in order; `but` without those of the precision that is there already."""
    flavors = {"int8": quantize.FLAVORS}
    return tuple(Form(one, flavor) for one in precisions if one != but for flavor in flavors.get(one, ("",)))


@dataclass(frozen=True)
class Ranges:
    """What calibration has seen: the range of each tensor, by which method, on how many pictures."""

    of: Mapping[str, Range]
    method: str
    images: int


def make(model: Any, form: Form, ranges: Ranges | None, keep: Collection[str] = (), *, islands: bool = True) -> Made:
    """The float32 `model` in this form, nodes of the titles in `keep` left in its `rest`; `ranges` are for int8.

    Without `islands` they are left in float32 whatever the form.
    """
    if form.precision == "fp16":
        half = to_half(model, keep)
        return Made(half.model, {"clamped": str(half.clamped)} if half.clamped else {})
    assert form.precision == "int8"
    assert ranges is not None
    how = {"calibration": ranges.method, "images": str(ranges.images)}
    made = quantize.quantize(model, ranges.of, form.flavor, keep)
    if keep and islands and form.rest == "float16":
        made = _islands(made, ranges, keep)
    return Made(made, how)


def _islands(model: Any, ranges: Ranges, titles: Collection[str]) -> Any:
    """The quantised `model` with the nodes of these titles in float16, but for those whose values it cannot hold.

    Scales of Q/DQ are float32 up to opset 18: there are casts between them and an island.
    """
    beyond = {name for name, one in ranges.of.items() if max(-one.low, one.high) > LARGEST}
    small = {
        title(node)
        for node in model.graph.node
        if beyond.isdisjoint(name.removesuffix(".dequantized") for name in (*node.input, *node.output))
    }
    return to_half(model, {title(node) for node in model.graph.node} - small.intersection(titles)).model


def groups(model: Any) -> dict[str, set[str]]:
    """Titles of the nodes of each layer that has weights, by the layer's name: `model.3`, `layer1.0`."""
    found: dict[str, set[str]] = {}
    weighted = set()
    for node in model.graph.node:
        layer = _layer(title(node))
        found.setdefault(layer, set()).add(title(node))
        if node.op_type in WEIGHTED:
            weighted.add(layer)
    return {layer: titles for layer, titles in found.items() if layer in weighted}


def _layer(name: str) -> str:
    """The path up to its first number; of names without any, the first word."""
    words = [word for word in re.split(r"[/.]", name) if word]
    for place, word in enumerate(words):
        if word.isdecimal():
            return ".".join(words[: place + 1])
    return words[0] if words else name
