"""Inference messages as gRPC brings them: contents are read where they lie in a message, and written without a copy.

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
from edgeinfer.serve import messages, ranking, tensors
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.serve.regions import PARAMETERS
from edgeinfer.serve.service import Request
from edgeinfer.serve.tensors import Span
from edgeinfer.serve.wire import PASSED_OVER, need_known, timeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.regions import Regions
    from edgeinfer.serve.service import Answer
    from edgeinfer.serve.tensors import Buffer, Tensor

INPUTS, OUTPUTS, RAW_INPUTS = 5, 6, 7  # numbers of fields of ModelInferRequest
SHAPE, CONTENTS = 3, 5  # of its inputs
FLOATS, BYTES_CONTENTS = {6: 4, 7: 8}, 8  # of InferTensorContents: bytes of a number where it is no varint; texts
# where contents of each datatype stand that are not raw
TYPED = {
    "FP32": "fp32_contents",
    "UINT8": "uint_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    tensors.BYTES: "bytes_contents",
}
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


def request(head: Any, raw: Sequence[Buffer], regions: Regions) -> Request:
    """What the message that was split asks for. Refusal names the field that is wrong."""
    spans = [_span(given, f"input {given.name[:100]!r}", regions) for given in head.inputs]
    sent = [given for given, span in zip(head.inputs, spans) if span is None]
    if raw and len(raw) != len(sent):
        raise Refusal(INVALID, f"raw_input_contents has {len(raw)} elements for {len(sent)} inputs")
    rest = iter(raw)
    inputs = tuple(
        _input(given, next(rest, None)) if span is None else _shared(given, span)
        for given, span in zip(head.inputs, spans)
    )
    parameters = {name: _value(value) for name, value in head.parameters.items()}
    limit = parameters.pop("timeout", None)
    limit_s = timeout(0 if limit is None else limit)
    for name in (*PASSED_OVER, "binary_data_output"):
        parameters.pop(name, None)
    classes, places = {}, {}
    for output in head.outputs:
        what = f"output {output.name[:100]!r}"
        asked = _parameters(output, what, ranking.COUNT, *PARAMETERS)
        classes[output.name] = ranking.count(asked, what)
        if span := regions.span(asked, what):
            places[output.name] = span
    names = tuple(output.name for output in head.outputs)
    return Request(inputs, head.id, names, limit_s, parameters, classes, places)


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("choice")
    return getattr(parameter, chosen) if chosen else None


def _span(given: Any, what: str, regions: Regions) -> Span | None:
    """Where in shared memory an input is said to lie."""
    return regions.span(_parameters(given, what, *PARAMETERS), what)


def _parameters(given: Any, what: str, *known: str) -> dict[str, Any]:
    """An input's or output's, once they are found to be among those known."""
    need_known(given.parameters, what, *known)
    return {name: _value(value) for name, value in given.parameters.items()}


def _shared(given: Any, span: Span) -> Tensor:
    if given.HasField("contents"):
        raise Refusal(INVALID, f"input {given.name[:100]!r} has contents, and more in shared memory")
    return tensors.in_span(given.name, given.datatype, given.shape, span)


def _input(given: Any, raw: Buffer | None) -> Tensor:
    if raw is None:
        return _typed(given)
    if given.HasField("contents"):
        raise Refusal(INVALID, f"input {given.name[:100]!r} has both contents and raw_input_contents")
    return tensors.from_raw(given.name, given.datatype, given.shape, raw)


def _typed(given: Any) -> Tensor:
    shape = tensors.checked_shape(given.name, given.datatype, given.shape)
    field = TYPED.get(given.datatype)
    if field is None:
        raise Refusal(INVALID, f"input {given.name[:100]!r}: {given.datatype} goes into raw_input_contents")
    for filled, _ in given.contents.ListFields():
        if filled.name != field:
            told = f"input {given.name[:100]!r} has {filled.name}, and {given.datatype} goes into {field}"
            raise Refusal(INVALID, told)
    values = getattr(given.contents, field)
    if given.datatype == tensors.BYTES or len(values) <= tensors.PIECE:
        return tensors.from_list(given.name, given.datatype, shape, list(values))
    starts = range(0, len(values), tensors.PIECE)
    pieces = [np.asarray(values[start : start + tensors.PIECE]) for start in starts]
    return tensors.from_list(given.name, given.datatype, shape, np.concatenate(pieces))


def answered(answer: Answer) -> tuple[Any, list[Buffer]]:
    """The message without raw contents, and those, one for each output: clients count them off. Of shared ones none."""
    head = messages.message("ModelInferResponse")(model_name=answer.model, model_version=answer.version, id=answer.id)
    raw: list[Buffer] = []
    for tensor in answer.outputs:
        head.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        raw.append(b"" if isinstance(tensor.data, Span) else tensors.to_raw(tensor))
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
