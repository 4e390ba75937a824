"""An ONNX model into a file, weight by weight: protobuf's own way holds a large model three times over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GRAPH, INITIALIZER = 7, 5  # numbers of the fields in onnx.proto
BYTES = 2  # protobuf's wire type of what has a length


def write(model: Any, path: Path) -> None:
    """Write `model` as its deterministic serialisation is, byte for byte."""
    graph = model.graph
    weights = [(tensor, _tag(INITIALIZER) + _varint(tensor.ByteSize())) for tensor in graph.initializer]
    before, after = (
        _part(graph, side) for side in (lambda field: field < INITIALIZER, lambda field: field > INITIALIZER)
    )
    size = len(before) + sum(len(start) + tensor.ByteSize() for tensor, start in weights) + len(after)
    with path.open("wb") as file:
        file.write(_part(model, lambda field: field < GRAPH))
        file.write(_tag(GRAPH) + _varint(size) + before)
        for tensor, start in weights:
            file.write(start)
            file.write(tensor.SerializeToString(deterministic=True))
        file.write(after)
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


def _tag(field: int) -> bytes:
    return _varint(field << 3 | BYTES)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that there are more."""
    rest, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
