"""Protobuf's encoding: where the fields of a message lie in its bytes, without an object for what is in them.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Union

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    Buffer = Union[memoryview, mmap.mmap]

# kinds of field
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message: where it begins, and where its payload starts and ends."""

    number: int
    kind: int
    begin: int
    start: int
    end: int


def fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    """Each field of the message that is data[start:end]; ValueError once it shows that it is none."""
    at = start
    while at < end:
        begin = at
        key, at = varint(data, at, end)
        number, kind, start = key >> 3, key & 7, at
        if kind == VARINT:
            _, at = varint(data, at, end)
        elif kind == BYTES:
            length, start = varint(data, at, end)
            at = start + length
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind} at byte {begin}")
        if at > end or number == 0:
            raise ValueError(f"a field runs past its message at byte {begin}")
        yield Field(number, kind, begin, start, at)


def varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where what follows it begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"it ends within a number, at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number is longer than 64 bits at byte {at}")


def before(field: int, size: int) -> bytes:
    """What stands before the payload of a field of so many bytes."""
    return _written(field << 3 | BYTES) + _written(size)


def _written(number: int) -> bytes:
    rest, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + _written(rest) if rest else bytes([low])
