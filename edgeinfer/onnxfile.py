"""What an ONNX file says about other files, read without the onnx package and without loading its weights."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from edgeinfer.errors import BundleError
from edgeinfer.protobuf import BYTES, VARINT, fields, varint

if TYPE_CHECKING:
    from pathlib import Path

# field numbers of onnx.proto: which fields of a message lead to a tensor
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION = range(7)
_INSIDE = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def external_files(path: Path) -> list[str]:
    """The names of the files that tensors of this ONNX file are stored in; BundleError if it is not ONNX."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return sorted(_locations(data))
    except (ValueError, IndexError) as error:
        raise BundleError(f"{path} is not an ONNX file: {error}", hint="export the bundle again") from error


def _locations(data: mmap.mmap) -> set[str]:
    names: set[str] = set()
    parts = [(_MODEL, 0, len(data))]
    while parts:
        kind, start, end = parts.pop()
        for number, wire, _, first, last in fields(data, start, end):
            if kind == _TENSOR:
                if number == _EXTERNAL_DATA and wire == BYTES:
                    names |= _location(data, first, last)
                elif number == _DATA_LOCATION and wire == VARINT and varint(data, first, last)[0] == 1:
                    names.add("")
            elif wire == BYTES and number in _INSIDE[kind]:
                parts.append((_INSIDE[kind][number], first, last))
    return names - {""} if len(names) > 1 else names


def _location(data: mmap.mmap, start: int, end: int) -> set[str]:
    """The value of a StringStringEntryProto whose key is `location`."""
    pair = {one.number: data[one.start : one.end] for one in fields(data, start, end)}
    return {pair.get(2, b"").decode("utf-8", "replace")} if pair.get(1) == b"location" else set()
