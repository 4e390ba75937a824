"""What ONNX Runtime finds in a file against what model.json declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.spec import ModelSpec, TensorSpec

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


def failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; any other exception out of it is that of a signal's handler, and stays what it is."""
    from onnxruntime.capi import onnxruntime_pybind11_state as library

    own = [one for one in vars(library).values() if isinstance(one, type) and issubclass(one, Exception)]
    return (RuntimeError, ValueError, MemoryError, *own)


def check(path: Path, spec: ModelSpec, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """What a session tells must be what the spec declares: names, dtypes, ranks and fixed sizes. Raises EngineError."""
    _check(path, "input", spec.inputs, inputs)
    _check(path, "output", spec.outputs, outputs)


def _check(path: Path, kind: str, declared: Sequence[TensorSpec], found: Sequence[Any]) -> None:
    ours = {tensor.name: tensor for tensor in declared}
    theirs = {value.name: value for value in found}
    if ours.keys() != theirs.keys():
        raise EngineError(f"{path}: {kind}s are {sorted(theirs)}, model.json says {sorted(ours)}")
    for name, tensor in ours.items():
        value = theirs[name]
        shape = tuple(value.shape)
        fits = len(shape) == len(tensor.shape) and all(
            not isinstance(dim, int) or dim == other for dim, other in zip(shape, tensor.at(tensor.batch.max))
        )
        if not fits or _TYPES.get(value.type) != tensor.dtype:
            wanted = f"{tensor.at(tensor.batch.max)} {tensor.dtype}"
            raise EngineError(f"{path}: {kind} {name} is {shape} {value.type}, model.json says {wanted}")
