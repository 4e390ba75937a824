"""The safetensors format: a JSON header with every tensor's place, then the numbers.

Read here rather than by the safetensors package: its NumPy side has no bfloat16, and
these few checks keep one kind of error and one reading for all formats.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import CheckpointError
from edgeinfer_export.storages import ENCODINGS, MAX_DIMENSIONS, Storage, numbers, whole
from edgeinfer_export.tensornames import short_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER = 4 << 20
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
assert set(DTYPES.values()) <= set(ENCODINGS)


def read_safetensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors by name, and the header's metadata."""
    header, begin = _header(data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError("__metadata__ is not a map of texts")
    places = {name: _place(short_name(name), entry, len(data) - begin) for name, entry in header.items()}
    tensors, end = dict.fromkeys(header), 0
    for name, (first, last, shape, storage) in sorted(places.items(), key=lambda item: item[1][:2]):
        if first != end:
            raise CheckpointError(f"tensor {name!r} starts at {first}, where the one before ends at {end}")
        tensors[name] = numbers(data, begin + first, storage).reshape(shape)
        end = last
    if begin + end != len(data):
        raise CheckpointError(f"{len(data) - begin - end} bytes lie behind the last tensor")
    return tensors, metadata  # type: ignore[return-value]


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(data[:8], "little")
    if size > min(MAX_HEADER, len(data) - 8):
        raise CheckpointError(
            f"the header claims {size} bytes, the file holds {len(data) - 8} and {MAX_HEADER} is the limit"
        )
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is not JSON: {type(error).__name__}") from error
    assert isinstance(header, dict)  # it starts with a brace, by which the format is known
    return header, 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _place(name: str, entry: Any, available: int) -> tuple[int, int, tuple[int, ...], Storage]:
    """First and last byte behind the header, shape, and the numbers."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise CheckpointError(f"tensor {name!r} has no data_offsets")
    first, last = (whole(offset, "a data offset") for offset in offsets)
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not isinstance(dtype, str):
        raise CheckpointError(f"tensor {name!r} has no shape or dtype")
    if dtype not in DTYPES:
        raise CheckpointError(f"tensor {name!r} is {dtype[:20]!r}, expected one of {', '.join(DTYPES)}")
    sides = tuple(whole(side, "a size") for side in shape)
    if sides and max(sides) > available + 1:
        raise CheckpointError(f"tensor {name!r} has a size of {max(sides)}, the file holds {available} bytes")
    storage = Storage(name, DTYPES[dtype], math.prod(sides))
    if last > available or last - first != storage.size_bytes:
        raise CheckpointError(
            f"tensor {name!r} lies at {first}-{last} of {available} bytes and needs {storage.size_bytes}"
        )
    return first, last, sides, storage
