"""Inference messages around their tensors: contents are read where they lie in a message, and written without a copy.

Protobuf would copy megabytes into an object of its own, and again out of it. A message is a row of fields in any
order, so that its small ones are protobuf's business still, and the large ones stand beside them. What it would make
of them is counted first: of one byte in a message it may need many.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from edgeinfer import protobuf
from edgeinfer.serve import messages, tensors
from edgeinfer.serve.refusals import INVALID, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.tensors import Buffer

INPUTS, OUTPUTS, RAW_INPUTS = 5, 6, 7  # numbers of fields of ModelInferRequest
SHAPE, CONTENTS = 3, 5  # of its inputs
FLOATS, BYTES_CONTENTS = {6: 4, 7: 8}, 8  # of InferTensorContents: bytes of a number where it is no varint; texts
RAW_OUTPUTS = 6  # of ModelInferResponse
INFER_RESPONSE = 2  # of ModelStreamInferResponse
MOST_FIELDS = 1000  # of a message, or of one in it
LITTLE = 1000  # bytes of an input or output that are not worth a look


def split(data: bytes, limits: Limits) -> tuple[Any, list[memoryview], int]:
    """A serialized ModelInferRequest -> the message without its raw contents, those, and how many numbers are beside.

    Refusal if it is none, or has too many.
    """
    view, small, raw, count = memoryview(data), [], [], 0
    try:
        for one in _fields(view, 0, len(view)):
            if (one.number, one.kind) == (RAW_INPUTS, protobuf.BYTES):
                raw.append(view[one.start : one.end])
                continue
            small.append(view[one.begin : one.end])
            if one.number in (INPUTS, OUTPUTS) and one.kind == protobuf.BYTES and one.end - one.start > LITTLE:
                count += _numbers(view, one)
        tensors.check_few(count, limits)
        head = messages.message("ModelInferRequest").FromString(b"".join(small))
    except (ValueError, DecodeError) as error:
        raise Refusal(INVALID, f"the message is no ModelInferRequest: {str(error)[:100]}") from error
    return head, raw, count


def _fields(view: memoryview, start: int, end: int) -> list[protobuf.Field]:
    found = list(islice(protobuf.fields(view, start, end), MOST_FIELDS))
    if len(found) == MOST_FIELDS:
        raise Refusal(INVALID, f"the message is no ModelInferRequest: it has {MOST_FIELDS} fields or more")
    return found


def _numbers(view: memoryview, tensor: protobuf.Field) -> int:
    """How many numbers are in an input's shape and contents; outputs have neither, but fields that are counted."""
    count = 0
    for one in _fields(view, tensor.start, tensor.end):
        if (one.number, one.kind) == (SHAPE, protobuf.BYTES):
            count += _packed(view, one)
        elif (one.number, one.kind) == (CONTENTS, protobuf.BYTES):
            arrays = _fields(view, one.start, one.end)
            count += sum(_packed(view, array) for array in arrays if array.number != BYTES_CONTENTS)
    return count


def _packed(view: memoryview, array: protobuf.Field) -> int:
    """How many numbers are in a field of many: the last byte of a varint is the one without the upper bit."""
    if array.number in FLOATS:
        return (array.end - array.start) // FLOATS[array.number]
    return int(np.count_nonzero(np.frombuffer(view[array.start : array.end], np.uint8) < 0x80))


def response(head: Any, raw: Sequence[Buffer]) -> bytes:
    """A ModelInferResponse and its raw contents, serialized."""
    return b"".join(_response(head, raw))


def streamed(head: Any, raw: Sequence[Buffer]) -> bytes:
    """The same within a ModelStreamInferResponse."""
    parts = _response(head, raw)
    return b"".join((protobuf.before(INFER_RESPONSE, sum(map(len, parts))), *parts))


def _response(head: Any, raw: Sequence[Buffer]) -> list[Buffer]:
    parts: list[Buffer] = [head.SerializeToString()]
    for content in raw:
        parts += (protobuf.before(RAW_OUTPUTS, len(content)), content)
    return parts
