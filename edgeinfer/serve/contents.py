"""Inference messages around their tensors: contents are read where they lie in a message, and written without a copy.

Protobuf would copy megabytes into an object of its own, and again out of it. A message is a row of fields in any
order, so that its small ones are protobuf's business still, and the large ones stand beside them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from edgeinfer import protobuf
from edgeinfer.serve import messages
from edgeinfer.serve.refusals import INVALID, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.serve.tensors import Buffer

RAW_INPUTS, RAW_OUTPUTS = 7, 6  # numbers of the fields with raw contents
INFER_RESPONSE = 2  # of ModelStreamInferResponse
MOST_FIELDS = 1000


def split(data: bytes) -> tuple[Any, list[memoryview]]:
    """A serialized ModelInferRequest -> the message without its raw contents, and those. Refusal if it is none."""
    view, small, raw = memoryview(data), [], []
    try:
        found = list(islice(protobuf.fields(view, 0, len(view)), MOST_FIELDS))
        for one in found:
            if (one.number, one.kind) == (RAW_INPUTS, protobuf.BYTES):
                raw.append(view[one.start : one.end])
            else:
                small.append(view[one.begin : one.end])
        head = messages.message("ModelInferRequest").FromString(b"".join(small))
    except (ValueError, DecodeError) as error:
        raise Refusal(INVALID, f"the message is no ModelInferRequest: {str(error)[:100]}") from error
    if len(found) == MOST_FIELDS:
        raise Refusal(INVALID, f"the message is no ModelInferRequest: it has {MOST_FIELDS} fields or more")
    return head, raw


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
