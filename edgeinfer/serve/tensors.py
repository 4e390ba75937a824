"""Tensors of the Open Inference Protocol: datatypes, the binary extension, JSON; and NumPy on the other side."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from edgeinfer.serve.refusals import INVALID, TOO_LARGE, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.regions import Region

BYTES = "BYTES"
DTYPES = {"FP32": "float32", "FP16": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
PIECE = 16384  # values that are written as JSON, or taken from a message, at a time
MOST_SIDES = 8  # of a shape
MOST_ELEMENTS = 16384  # of BYTES in binary data: each is found behind the one before it
_LENGTH = struct.Struct("<I")

Buffer = Union[bytes, memoryview]


class Span(NamedTuple):
    """Where a tensor lies in a region of shared memory."""

    region: Region
    offset: int
    size: int


class Tensor(NamedTuple):
    """`data` is an array of the shape and datatype, or for BYTES the elements in a flat list; or where they lie."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes] | Span


def check_few(count: int, limits: Limits) -> None:
    """Refusal if so many values are not to be read or written one by one."""
    if count > limits.values:
        raise Refusal(TOO_LARGE, f"there are more than the {limits.values} values allowed that are not binary data")


def of(name: str, data: NDArray[Any]) -> Tensor:
    """An array as a tensor."""
    return Tensor(name, DATATYPES[str(data.dtype)], data.shape, data)


def of_text(name: str, elements: Sequence[str]) -> Tensor:
    """Words as a BYTES tensor of one dimension."""
    return Tensor(name, BYTES, (len(elements),), [element.encode() for element in elements])


def checked_shape(name: str, datatype: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """The shape, once it and the datatype are found to make sense; Refusal names the field."""
    if datatype != BYTES and datatype not in DTYPES:
        raise Refusal(INVALID, f"input {name!r}: datatype {datatype!r} is not one of {', '.join(DTYPES)}, {BYTES}")
    sides = shape[: MOST_SIDES + 1]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 1 << 31 for side in sides)
    if not whole or len(sides) > MOST_SIDES:
        raise Refusal(INVALID, f"input {name!r}: shape {str(list(sides))[:100]} is not a list of sizes")
    return tuple(sides)


def from_raw(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Tensor:
    """Little-endian bytes, or for BYTES each element behind its length in four bytes -> a tensor over that memory."""
    sides = checked_shape(name, datatype, shape)
    count = math.prod(sides)
    if datatype == BYTES:
        elements = _elements(name, data)
        _need_count(name, sides, count, len(elements))
        return Tensor(name, datatype, sides, elements)
    dtype = np.dtype(DTYPES[datatype])
    if len(data) != count * dtype.itemsize:
        wanted = f"shape {list(sides)} of {datatype} is {count * dtype.itemsize}"
        raise Refusal(INVALID, f"input {name!r}: its data is {len(data)} bytes, {wanted}")
    return Tensor(name, datatype, sides, np.frombuffer(data, dtype).reshape(sides))


def in_span(name: str, datatype: str, shape: Sequence[int], span: Span) -> Tensor:
    """The same in shared memory, once its size is found to be that of the shape."""
    sides = checked_shape(name, datatype, shape)
    size = math.prod(sides) * np.dtype(DTYPES[datatype]).itemsize if datatype != BYTES else span.size
    if span.size != size:
        wanted = f"shape {list(sides)} of {datatype} is {size}"
        raise Refusal(INVALID, f"input {name!r}: its shared memory is {span.size} bytes, {wanted}")
    return Tensor(name, datatype, sides, span)


def _elements(name: str, data: Buffer) -> list[bytes]:
    elements: list[bytes] = []
    at, view = 0, memoryview(data)
    while at < len(view):
        if len(elements) == MOST_ELEMENTS:
            raise Refusal(TOO_LARGE, f"input {name!r}: more than the {MOST_ELEMENTS} BYTES elements allowed")
        end = at + _LENGTH.size
        if end <= len(view):
            end += _LENGTH.unpack_from(view, at)[0]
        if end > len(view) or end < at + _LENGTH.size:
            raise Refusal(INVALID, f"input {name!r}: BYTES element {len(elements)} is longer than the data")
        elements.append(bytes(view[at + _LENGTH.size : end]))
        at = end
    return elements


def from_list(name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """Numbers (for BYTES: strings), flat or nested, as JSON gives them or in arrays already -> a tensor."""
    sides = checked_shape(name, datatype, shape)
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise Refusal(INVALID, f"input {name!r}: data is not a list")
    if datatype == BYTES:
        return _texts(name, sides, values)
    count = math.prod(sides)
    if len(values) and not isinstance(values[0], (list, np.ndarray)):
        _need_count(name, sides, count, len(values))
    if not only_numbers(values):
        raise Refusal(INVALID, f"input {name!r}: data holds other things than numbers of {datatype}")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise Refusal(INVALID, f"input {name!r}: data is not a regular list of numbers") from error
    _need_count(name, sides, count, array.size)
    return Tensor(name, datatype, sides, _cast(name, datatype, array).reshape(sides))


def only_numbers(values: Any, depth: int = 8) -> bool:
    """Whether there is nothing else in lists: NumPy would give every element the room of the longest string."""
    kinds = set() if isinstance(values, np.ndarray) else set(map(type, values))
    if kinds <= {int, float, bool}:
        return True
    return depth > 0 and kinds <= {list, np.ndarray} and all(only_numbers(value, depth - 1) for value in values)


def _cast(name: str, datatype: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = np.dtype(DTYPES[datatype])
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        raise Refusal(INVALID, f"input {name!r}: data holds other things than numbers of {datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise Refusal(INVALID, f"input {name!r}: data holds numbers outside {datatype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _texts(name: str, sides: tuple[int, ...], values: Any) -> Tensor:
    flat = list(values)
    while flat and isinstance(flat[0], list):
        if not all(isinstance(value, list) for value in flat):
            break
        flat = [element for value in flat for element in value]
    if not all(isinstance(value, (str, bytes)) for value in flat):
        raise Refusal(INVALID, f"input {name!r}: data holds other things than strings")
    _need_count(name, sides, math.prod(sides), len(flat))
    try:
        elements = [value.encode() if isinstance(value, str) else value for value in flat]
    except UnicodeEncodeError as error:
        raise Refusal(INVALID, f"input {name!r}: data holds a string that is not Unicode") from error
    return Tensor(name, BYTES, sides, elements)


def _need_count(name: str, sides: tuple[int, ...], wanted: int, found: int) -> None:
    if found != wanted:
        raise Refusal(INVALID, f"input {name!r}: data has {found} elements, shape {list(sides)} has {wanted}")


def to_raw(tensor: Tensor) -> Buffer:
    """The bytes of the binary extension; an array's own memory where it lies in one piece."""
    if isinstance(tensor.data, list):
        return b"".join(part for element in tensor.data for part in (_LENGTH.pack(len(element)), element))
    assert not isinstance(tensor.data, Span)
    return np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8).data


def to_json(tensor: Tensor) -> str:
    """The flat list that JSON holds, a piece at a time: between two of them other threads have their turn."""
    if isinstance(tensor.data, list):
        return json.dumps([element.decode("utf-8", "replace") for element in tensor.data])
    assert not isinstance(tensor.data, Span)
    values = tensor.data.reshape(-1)
    pieces = (values[start : start + PIECE].tolist() for start in range(0, values.size, PIECE))
    return f"[{','.join(json.dumps(piece, separators=(',', ':'))[1:-1] for piece in pieces)}]"
