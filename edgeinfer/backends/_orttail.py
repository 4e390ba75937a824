"""An ONNX model without the nodes at its end that only move numbers.

Detectors end in a concatenation and a transposition of what they say of every box, of which little is read. Without
them ONNX Runtime writes the parts of an output to their places itself, and readers get a view of it.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from edgeinfer.protobuf import before, fields, varint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeinfer.protobuf import Field

    Array = NDArray[Any]
    Buffer = Union[bytes, memoryview]

LARGEST = 1 << 26  # bytes of a file; beyond, the copy of it is more than all that is moved at its end
# field numbers of onnx.proto: of a model, a graph, a node, an attribute; a value's name is its first field too
_GRAPH = 7
_NODE, _OUTPUT = 1, 12
_READS, _GIVES, _OP, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_NAME, _NUMBER, _NUMBERS = 1, 3, 8


class Value(NamedTuple):
    """What ONNX Runtime tells of an output."""

    name: str
    shape: list[Any]
    type: str


class Tail(NamedTuple):
    """How `output` is made of values that the model gives: `parts` lie along axis 1, and are read in order `axes`."""

    output: str
    parts: tuple[str, ...]
    axes: tuple[int, ...] = ()  # empty: as they lie
    sizes: tuple[int, ...] = ()  # of the parts along their axis, but for the last

    def among(self, values: Sequence[Any]) -> tuple[list[Any], Tail] | None:
        """What ONNX Runtime tells of the shortened model's outputs -> that of the model's, and this with its sizes.

        None if it cannot be told that the parts fit.
        """
        parts = [value for value in values if value.name in self.parts]
        shape = parts[0].shape if len(parts) == 1 else _together(parts)
        if not shape or len(self.axes) not in (0, len(shape)):
            return None
        whole = Value(self.output, [shape[axis] for axis in self.axes] or shape, parts[0].type)
        others = [value for value in values if value not in parts]
        return [*others, whole], self._replace(sizes=tuple(part.shape[1] for part in parts[:-1]))

    def lying(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the parts have together, when the output has this one."""
        return tuple(shape[self.axes.index(axis)] for axis in range(len(self.axes))) or shape

    def apart(self, whole: Array) -> dict[str, Array]:
        """The array of each part."""
        return dict(zip(self.parts, np.split(whole, np.cumsum(self.sizes), axis=1)))

    def view(self, whole: Array) -> Array:
        """The output."""
        return whole.transpose(self.axes) if self.axes else whole


def _together(parts: Sequence[Any]) -> list[Any]:
    """The shape of parts that lie along axis 1; empty if it is not told, or they do not lie so."""
    sizes = [size for part in parts for size in part.shape[1:2]]
    around = [(part.type, part.shape[:1], part.shape[2:]) for part in parts]
    if not all(isinstance(size, int) for size in sizes) or any(one != around[0] for one in around):
        return []
    _, first, rest = around[0]
    return [*first, sum(sizes), *rest]


class _Node(NamedTuple):
    op: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    numbers: dict[str, tuple[int, ...]]  # its attributes that are integers


def read(path: Path, kinds: Collection[str]) -> tuple[bytes, Tail] | None:
    """The model in a file `without` its tail; None if it has none, is large, or is no model."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                return None
            return without(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), kinds)
    except (OSError, ValueError, IndexError):
        return None  # ONNX Runtime says what is wrong with it


def without(data: memoryview, kinds: Collection[str]) -> tuple[bytes, Tail] | None:
    """The model without a Transpose that ends it and without a Concat before that, if these `kinds` may go.

    None if it does not end so. Raises ValueError or IndexError if the bytes are no ONNX model.
    """
    (graph,) = (field for field in fields(data, 0, len(data)) if field.number == _GRAPH)
    content = [*fields(data, graph.start, graph.end)]
    outputs = {_texts(data, field, _NAME)[0]: field for field in content if field.number == _OUTPUT}
    tail, gone = _tail(data, [field for field in content if field.number == _NODE], kinds)
    names = [*outputs, *tail.parts]
    if not gone or tail.output not in outputs or len({*names}) < len(names):
        return None
    rest: list[Buffer] = [*_others(data, graph, [*gone, outputs[tail.output]])]
    rest += [_message(_OUTPUT, _message(_NAME, part.encode())) for part in tail.parts]
    head = data[: graph.begin], before(_GRAPH, sum(map(len, rest)))
    return b"".join((*head, *rest, data[graph.end :])), tail


def _tail(data: memoryview, nodes: Sequence[Field], kinds: Collection[str]) -> tuple[Tail, list[Field]]:
    """What the last nodes do, and which they are."""
    output = ",".join(_node(data, nodes[-1]).gives)
    tail, gone = Tail(output, (output,)), []
    for field in reversed(nodes):
        longer = _longer(tail, _node(data, field), kinds)
        if not longer:
            break
        tail = longer
        gone.append(field)
    return tail, gone


def _longer(tail: Tail, node: _Node, kinds: Collection[str]) -> Tail | None:
    """The tail with this node before it; None if it belongs to none."""
    axes = node.numbers.get("perm", ())
    if node.op not in kinds or node.gives != tail.parts:
        return None
    if node.op == "Transpose" and tail.parts == (tail.output,) and _turns(axes):
        return Tail(tail.output, node.reads, axes)
    if node.op == "Concat" and node.numbers.get("axis") == (1,):
        return Tail(tail.output, node.reads, tail.axes)
    return None


def _turns(axes: Sequence[int]) -> bool:
    """Whether these are all axes in another order, the pictures' first."""
    return len(axes) > 1 and axes[0] == 0 and sorted(axes) == [*range(len(axes))]


def _node(data: memoryview, field: Field) -> _Node:
    attributes = [one for one in fields(data, field.start, field.end) if one.number == _ATTRIBUTE]
    numbers = {_texts(data, one, _NAME)[0]: _numbers(data, one) for one in attributes}
    op = ".".join((*_texts(data, field, _DOMAIN), *_texts(data, field, _OP))).lstrip(".")
    return _Node(op, _texts(data, field, _READS), _texts(data, field, _GIVES), numbers)


def _texts(data: memoryview, field: Field, number: int) -> tuple[str, ...]:
    """The strings of this number in a message."""
    return tuple(
        str(data[one.start : one.end], "utf-8") for one in fields(data, field.start, field.end) if one.number == number
    )


def _numbers(data: memoryview, field: Field) -> tuple[int, ...]:
    """The integers of an attribute, which writers put down one by one or packed."""
    found = []
    for one in fields(data, field.start, field.end):
        at = one.start
        while one.number in (_NUMBER, _NUMBERS) and at < one.end:
            number, at = varint(data, at, one.end)
            found.append(number)
    return tuple(found)


def _others(data: memoryview, message: Field, gone: Sequence[Field]) -> Iterator[memoryview]:
    """The bytes of a message without some of its fields."""
    at = message.start
    for field in sorted(gone, key=lambda one: one.begin):
        yield data[at : field.begin]
        at = field.end
    yield data[at : message.end]


def _message(number: int, content: bytes) -> bytes:
    return before(number, len(content)) + content
