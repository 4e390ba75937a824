"""An ONNX model into a file, weight by weight: protobuf's own way holds a large model three times over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer.protobuf import before

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GRAPH, INITIALIZER = 7, 5  # numbers of the fields in onnx.proto


def write(model: Any, path: Path) -> None:
    """Write `model` as its deterministic serialisation is, byte for byte."""
    graph = model.graph
    weights = [(tensor, before(INITIALIZER, tensor.ByteSize())) for tensor in graph.initializer]
    first, last = (
        _part(graph, side) for side in (lambda field: field < INITIALIZER, lambda field: field > INITIALIZER)
    )
    size = len(first) + sum(len(start) + tensor.ByteSize() for tensor, start in weights) + len(last)
    with path.open("wb") as file:
        file.write(_part(model, lambda field: field < GRAPH))
        file.write(before(GRAPH, size) + first)
        for tensor, start in weights:
            file.write(start)
            file.write(tensor.SerializeToString(deterministic=True))
        file.write(last)
        file.write(_part(model, lambda field: field > GRAPH))


def _part(message: Any, wanted: Callable[[int], bool]) -> bytes:
    """The serialisation of some of a message's fields."""
    part = type(message)()
    for field, value in message.ListFields():
        if wanted(field.number):
            if hasattr(value, "extend"):
                getattr(part, field.name).extend(value)
            elif hasattr(value, "CopyFrom"):
                getattr(part, field.name).CopyFrom(value)
            else:
                setattr(part, field.name, value)
    return bytes(part.SerializeToString(deterministic=True))
