"""Requests and answers as the REST form of the Open Inference Protocol writes them, with its binary extension."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from edgeinfer.serve import ranking, reading, tensors
from edgeinfer.serve.faces import IMAGE, unpacked
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.serve.regions import PARAMETERS
from edgeinfer.serve.service import Request
from edgeinfer.serve.tensors import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeinfer.serve.faces import Slot
    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.regions import Regions
    from edgeinfer.serve.service import Answer
    from edgeinfer.serve.tensors import Tensor

JSON_LENGTH = "inference-header-content-length"
STEP = 1 << 20  # bytes that are looked through at a time
NO_JSON = "0"  # of that header: the body is nothing but the model's input
BINARY_SIZE, BINARY_DATA = "binary_data_size", "binary_data"
DEPENDENTS = "unload_dependents"  # a parameter of unload that Triton's clients send: there are none here
# parameters of requests that Triton's clients send and that mean nothing here
PASSED_OVER = ("priority", "sequence_id", "sequence_start", "sequence_end", "triton_enable_empty_final_response")


class Wanted:
    """Which outputs a client wants as binary data: those named, or `everything`."""

    def __init__(self, named: Mapping[str, bool], *, everything: bool) -> None:
        self._named, self._everything = named, everything

    def binary(self, name: str) -> bool:
        return self._named.get(name, self._everything)


def is_long(header: str, body: bytes) -> bool:
    """Whether a body's JSON takes so long to be read that it is better done beside the event loop."""
    return _json_length(header, body) > reading.PIECE


def parse(model: str, header: str, body: bytes, regions: Regions, limits: Limits) -> tuple[Request, Wanted]:
    """The request in a body whose JSON part is as long as the header says. Refusal names the field that is wrong."""
    length = _json_length(header, body)
    steps = range(0, length, STEP)
    tensors.check_few(sum(body.count(b",", start, min(start + STEP, length)) for start in steps), limits)
    record = _object(_json(body[:length], reading.loads if length > reading.PIECE else json.loads), "the request")
    binary = _Binary(memoryview(body)[length:])
    inputs = [
        _input(_object(given, f"inputs[{place}]"), place, binary, model, regions)
        for place, given in enumerate(_list(record, "inputs", "the request"))
    ]
    if binary.left:
        raise Refusal(INVALID, f"{binary.left} bytes of binary data belong to no input")
    parameters = dict(_object(record.get("parameters", {}), "parameters"))
    everything = _flag(parameters.pop("binary_data_output", False), "parameter binary_data_output")
    limit_s = timeout(parameters.pop("timeout", 0))
    for name in PASSED_OVER:
        parameters.pop(name, None)
    outputs = _outputs(record, regions)
    identity = record.get("id", "")
    if not isinstance(identity, str):
        raise Refusal(INVALID, "id is not a string")
    names = tuple(outputs)
    classes = {name: output.classes for name, output in outputs.items() if output.classes}
    places = {name: output.place for name, output in outputs.items() if output.place}
    request = Request(tuple(inputs), identity, names, limit_s, parameters, classes, places)
    named = {name: output.binary for name, output in outputs.items() if output.binary is not None}
    return request, Wanted(named, everything=everything)


def bare(body: bytes, slots: Sequence[Slot]) -> Request:
    """The request whose whole body is the input: one element of BYTES, or the numbers of a batch of one.

    Of inputs that may be left out it is the first. Refusal if the model needs several.
    """
    needed = [slot for slot in slots if not slot.optional]
    if len(needed) > 1:
        raise Refusal(INVALID, f"the model has {len(needed)} inputs, so that a request needs its JSON part")
    slot = (needed or slots)[0]
    if slot.datatype == tensors.BYTES:
        return Request((tensors.Tensor(slot.name, slot.datatype, (1,), [body]),))
    return Request((tensors.from_raw(slot.name, slot.datatype, [max(side, 1) for side in slot.shape], body),))


def asked(body: bytes, *known: str) -> dict[str, Any]:
    """What a request to the repository says, if anything; its parameters are none but those known."""
    record = _object(_json(body), "the request") if body.strip() else {}
    _parameters(record, "the request", *known)
    return record


def _json_length(header: str, body: bytes) -> int:
    if not header:
        return len(body)
    if not header.isdecimal() or len(header) > 12 or int(header) > len(body):
        raise Refusal(INVALID, f"Inference-Header-Content-Length {header[:20]!r} is not within the body")
    return int(header)


def _json(text: bytes, loads: Callable[[bytes], Any] = json.loads) -> Any:
    try:
        return loads(text)
    except RecursionError as error:
        raise Refusal(INVALID, "the request is nested too deeply") from error
    except ValueError as error:
        raise Refusal(INVALID, f"the request is not JSON: {str(error)[:100]}") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(INVALID, f"{what} is not an object")
    return value


def _list(record: dict[str, Any], key: str, what: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise Refusal(INVALID, f"{what} has no list {key!r}")
    return value


class _Binary:
    """The binary data behind the JSON part, input after input."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def left(self) -> int:
        return len(self._view)

    def take(self, name: str, size: Any) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= self.left:
            raise Refusal(INVALID, f"input {name[:100]!r}: {BINARY_SIZE} {str(size)[:20]} is not within the body")
        taken, self._view = self._view[:size], self._view[size:]
        return taken


def _input(given: dict[str, Any], place: int, binary: _Binary, model: str, regions: Regions) -> Tensor:
    name = given.get("name")
    if not isinstance(name, str):
        raise Refusal(INVALID, f"inputs[{place}] has no name")
    shape = _list(given, "shape", f"input {name[:100]!r}")
    datatype = given.get("datatype")
    if not isinstance(datatype, str):
        raise Refusal(INVALID, f"input {name[:100]!r} has no datatype")
    parameters = _parameters(given, f"input {name[:100]!r}", BINARY_SIZE, *PARAMETERS)
    size, span = parameters.get(BINARY_SIZE), regions.span(parameters, f"input {name[:100]!r}")
    if span is not None:
        if size is not None or "data" in given:
            raise Refusal(INVALID, f"input {name[:100]!r} has data, and more in shared memory")
        return tensors.in_span(name, datatype, shape, span)
    if size is None:
        values = given.get("data")
        if datatype == tensors.BYTES and model.endswith(IMAGE) and isinstance(values, list):
            values = [unpacked(name, value) for value in values]
        return tensors.from_list(name, datatype, shape, values)
    if "data" in given:
        raise Refusal(INVALID, f"input {name[:100]!r} has both data and binary data")
    return tensors.from_raw(name, datatype, shape, binary.take(name, size))


def _parameters(record: dict[str, Any], what: str, *known: str) -> dict[str, Any]:
    parameters = _object(record.get("parameters", {}), f"parameters of {what}")
    need_known(parameters, what, *known)
    return parameters


def need_known(parameters: Iterable[str], what: str, *known: str) -> None:
    """Refusal if an input or output has a parameter that would be passed over in silence."""
    for name in parameters:
        if name not in known:
            raise Refusal(INVALID, f"parameter {name[:50]!r} of {what} is not supported")


def timeout(value: Any) -> float:
    """Seconds, from the protocol's microseconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
        raise Refusal(INVALID, "parameter timeout is not a number of microseconds")
    return value / 1e6


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise Refusal(INVALID, f"{what} is not true or false")
    return value


class _Output(NamedTuple):
    """How an output is asked for: as binary data or not, if it was said; so many classes of it; where it is to lie."""

    binary: bool | None
    classes: int
    place: Span | None


def _outputs(record: dict[str, Any], regions: Regions) -> dict[str, _Output]:
    """What is asked for, by the names in their order."""
    outputs: dict[str, _Output] = {}
    for place, asked in enumerate(_list(record, "outputs", "the request") if "outputs" in record else ()):
        given = _object(asked, f"outputs[{place}]")
        name = given.get("name")
        if not isinstance(name, str):
            raise Refusal(INVALID, f"outputs[{place}] has no name")
        if name in outputs:
            raise Refusal(INVALID, "two outputs have the same name")
        what = f"output {name[:100]!r}"
        parameters = _parameters(given, what, BINARY_DATA, ranking.COUNT, *PARAMETERS)
        flag = parameters.get(BINARY_DATA)
        binary = None if flag is None else _flag(flag, f"{what}: parameter {BINARY_DATA}")
        outputs[name] = _Output(binary, ranking.count(parameters, what), regions.span(parameters, what))
    return outputs


def expected(request: Request, wanted: Wanted, slots: Sequence[Slot], most: int) -> int:
    """How many values of its answer, of `most` rows, are to be JSON, so far as shapes of outputs tell beforehand."""
    rows = next((min(tensor.shape[0], most) for tensor in request.inputs if tensor.shape), 1)
    apart = {*request.classes, *request.places}
    asked = [slot for slot in slots if not request.outputs or slot.name in request.outputs]
    held = [slot for slot in asked if not (slot.name in apart or wanted.binary(slot.name))]
    shapes = [(rows, *slot.shape[1:]) if slot.batched else slot.shape for slot in held]
    return sum(math.prod(shape) for shape in shapes if -1 not in shape)


def plain(answer: Answer, wanted: Wanted) -> int:
    """How many values of an answer are to be written as JSON."""
    held = [one for one in answer.outputs if not (isinstance(one.data, Span) or wanted.binary(one.name))]
    return sum(math.prod(one.shape) for one in held)


def written(answer: Answer, wanted: Wanted) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and the headers that go with it."""
    rows, blobs = [], []
    for tensor in answer.outputs:
        row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if isinstance(tensor.data, Span):
            rows.append(_dumped(row))
        elif wanted.binary(tensor.name):
            blobs.append(tensors.to_raw(tensor))
            rows.append(_dumped({**row, "parameters": {BINARY_SIZE: len(blobs[-1])}}))
        else:
            rows.append(f'{_dumped(row)[:-1]},"data":{tensors.to_json(tensor)}}}')
    record = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        record["id"] = answer.id
    head = f'{_dumped(record)[:-1]},"outputs":[{",".join(rows)}]}}'.encode()
    if not blobs:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}
    return b"".join((head, *blobs)), headers


def _dumped(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))
