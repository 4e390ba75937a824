"""What an ONNX file says about other files, read without the onnx package and without loading its weights."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from edgeinfer.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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
        for number, wire, value, stop in _fields(data, start, end):
            if kind == _TENSOR:
                if number == _EXTERNAL_DATA and wire == _BYTES:
                    names |= _location(data, value, stop)
                elif number == _DATA_LOCATION and value == 1:
                    names |= set() if names else {""}
            elif wire == _BYTES and number in _INSIDE[kind]:
                parts.append((_INSIDE[kind][number], value, stop))
    return names - {""} if len(names) > 1 else names


def _location(data: mmap.mmap, start: int, end: int) -> set[str]:
    """The value of a StringStringEntryProto whose key is `location`."""
    pair = {number: data[value:stop] for number, wire, value, stop in _fields(data, start, end) if wire == _BYTES}
    return {pair.get(2, b"").decode("utf-8", "replace")} if pair.get(1) == b"location" else set()


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, value or start, end) of each field of the message in data[start:end]."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, wire, value = key >> 3, key & 7, at
        if wire == _VARINT:
            value, at = _varint(data, at, end)
        elif wire == _BYTES:
            length, value = _varint(data, at, end)
            at = value + length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at > end or number == 0:
            raise ValueError(f"a field runs past its message at byte {value}")
        yield number, wire, value, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"cut off at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number is too long at byte {at}")
