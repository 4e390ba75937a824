"""Requests and answers as the REST form of the Open Inference Protocol writes them, with its binary extension."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeinfer.serve import tensors
from edgeinfer.serve.faces import IMAGE, unpacked
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.serve.service import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeinfer.serve.service import Answer
    from edgeinfer.serve.tensors import Tensor

JSON_LENGTH = "inference-header-content-length"
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


def parse(model: str, version: str, header: str, body: bytes) -> tuple[Request, Wanted]:
    """The request in a body whose JSON part is as long as the header says. Refusal names the field that is wrong."""
    length = _json_length(header, body)
    record = _object(_json(body[:length]), "the request")
    rest, at = memoryview(body)[length:], 0
    inputs: list[Tensor] = []
    for place, given in enumerate(_list(record, "inputs", "the request")):
        tensor, at = _input(_object(given, f"inputs[{place}]"), place, rest, at, model)
        inputs.append(tensor)
    if at != len(rest):
        raise Refusal(INVALID, f"{len(rest) - at} bytes of binary data belong to no input")
    parameters = dict(_object(record.get("parameters", {}), "parameters"))
    everything = parameters.pop("binary_data_output", False) is True
    timeout = _timeout(parameters.pop("timeout", 0))
    for name in PASSED_OVER:
        parameters.pop(name, None)
    names, named = _outputs(record)
    identity = record.get("id", "")
    if not isinstance(identity, str):
        raise Refusal(INVALID, "id is not a string")
    request = Request(model, tuple(inputs), version, identity, names, timeout, parameters)
    return request, Wanted(named, everything=everything)


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


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
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


def _input(given: dict[str, Any], place: int, rest: memoryview, at: int, model: str) -> tuple[Tensor, int]:
    name = given.get("name")
    if not isinstance(name, str):
        raise Refusal(INVALID, f"inputs[{place}] has no name")
    shape = _list(given, "shape", f"input {name[:100]!r}")
    datatype = given.get("datatype")
    if not isinstance(datatype, str):
        raise Refusal(INVALID, f"input {name[:100]!r} has no datatype")
    size = _parameters(given, f"input {name[:100]!r}", BINARY_SIZE).get(BINARY_SIZE)
    if size is None:
        values = given.get("data")
        if datatype == tensors.BYTES and model.endswith(IMAGE) and isinstance(values, list):
            values = [unpacked(name, value) for value in values]
        return tensors.from_list(name, datatype, shape, values), at
    if "data" in given:
        raise Refusal(INVALID, f"input {name[:100]!r} has both data and binary data")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - at:
        raise Refusal(INVALID, f"input {name[:100]!r}: {BINARY_SIZE} {str(size)[:20]} is not within the body")
    return tensors.from_raw(name, datatype, shape, rest[at : at + size]), at + size


def _parameters(record: dict[str, Any], what: str, *known: str) -> dict[str, Any]:
    parameters = _object(record.get("parameters", {}), f"parameters of {what}")
    need_known(parameters, what, *known)
    return parameters


def need_known(parameters: Iterable[str], what: str, *known: str) -> None:
    """Refusal if an input or output has a parameter that would be passed over in silence."""
    for name in parameters:
        if name not in known:
            raise Refusal(INVALID, f"parameter {name[:50]!r} of {what} is not supported")


def _timeout(value: Any) -> float:
    """Seconds, from the protocol's microseconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
        raise Refusal(INVALID, "parameter timeout is not a number of microseconds")
    return value / 1e6


def _outputs(record: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, bool]]:
    """The names asked for, and which of them as binary data or not."""
    if "outputs" not in record:
        return (), {}
    names, named = [], {}
    for place, asked in enumerate(_list(record, "outputs", "the request")):
        output = _object(asked, f"outputs[{place}]")
        name = output.get("name")
        if not isinstance(name, str):
            raise Refusal(INVALID, f"outputs[{place}] has no name")
        parameters = _parameters(output, f"output {name[:100]!r}", BINARY_DATA)
        names.append(name)
        if BINARY_DATA in parameters:
            named[name] = parameters[BINARY_DATA] is True
    return tuple(names), named


def written(answer: Answer, wanted: Wanted) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and the headers that go with it."""
    rows, blobs = [], []
    for tensor in answer.outputs:
        row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary(tensor.name):
            blobs.append(tensors.to_raw(tensor))
            row["parameters"] = {BINARY_SIZE: len(blobs[-1])}
        else:
            row["data"] = tensors.to_list(tensor)
        rows.append(row)
    record: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version, "outputs": rows}
    if answer.id:
        record["id"] = answer.id
    head = json.dumps(record, allow_nan=True, separators=(",", ":")).encode()
    if not blobs:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}
    return b"".join((head, *blobs)), headers
