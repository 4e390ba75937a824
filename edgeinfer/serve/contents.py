"""Inference messages around their tensors: contents are read where they lie in a message, and written without a copy.

Protobuf would copy megabytes into an object of its own, and again out of it. A message is a row of fields in any
order, so that its small ones are protobuf's business still, and the large ones stand beside them.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from edgeinfer.serve import messages
from edgeinfer.serve.refusals import INVALID, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeinfer.serve.tensors import Buffer

RAW_INPUTS, RAW_OUTPUTS = 7, 6  # numbers of the fields with raw contents
INFER_RESPONSE = 2  # of ModelStreamInferResponse
MOST_FIELDS = 1000
VARINT, LENGTH = 0, 2  # kinds of field
FIXED = {1: 8, 5: 4}  # kinds of so many bytes


def split(data: bytes) -> tuple[Any, list[memoryview]]:
    """A serialized ModelInferRequest -> the message without its raw contents, and those. Refusal if it is none."""
    view, small, raw = memoryview(data), [], []
    try:
        for tag, begin, start, end in _fields(view):
            if tag == RAW_INPUTS << 3 | LENGTH:
                raw.append(view[start:end])
            else:
                small.append(view[begin:end])
        return messages.message("ModelInferRequest").FromString(b"".join(small)), raw
    except DecodeError as error:
        raise Refusal(INVALID, f"the message is no ModelInferRequest: {str(error)[:100]}") from error


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field's tag, where the tag begins, and where its payload starts and ends."""
    end = 0
    for _ in range(MOST_FIELDS):
        if end == len(view):
            return
        begin = end
        tag, start = _number(view, begin)
        kind = tag & 7
        if kind == LENGTH:
            size, start = _number(view, start)
            end = start + size
        elif kind == VARINT:
            _, end = _number(view, start)
        elif kind in FIXED:
            end = start + FIXED[kind]
        else:
            raise DecodeError(f"a field of kind {kind}")
        if end > len(view):
            raise DecodeError("it ends within a field")
        yield tag, begin, start, end
    raise DecodeError(f"it has {MOST_FIELDS} fields or more")


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where what follows it begins."""
    value = 0
    for place, byte in enumerate(view[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise DecodeError("it ends within a number, or a number is longer than 64 bits")


def response(head: Any, raw: Sequence[Buffer]) -> bytes:
    """A ModelInferResponse and its raw contents, serialized."""
    return b"".join(_response(head, raw))


def streamed(head: Any, raw: Sequence[Buffer]) -> bytes:
    """The same within a ModelStreamInferResponse."""
    parts = _response(head, raw)
    return b"".join((_length(INFER_RESPONSE, sum(map(len, parts))), *parts))


def _response(head: Any, raw: Sequence[Buffer]) -> list[Buffer]:
    parts: list[Buffer] = [head.SerializeToString()]
    for content in raw:
        parts += (_length(RAW_OUTPUTS, len(content)), content)
    return parts


def _length(field: int, size: int) -> bytes:
    """What stands before a field of so many bytes."""
    encoded = bytearray((field << 3 | LENGTH,))
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)
