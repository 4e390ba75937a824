"""Tensors as PyTorch pickles them: a storage of numbers, and where in it each tensor lies.

Nothing is read or allocated here until `StoredTensor.view`; every number is checked before that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.errors import CheckpointError, UnsafeCheckpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DIMENSIONS = 16
MAX_SIDE = 1 << 40

# how the bytes of each torch dtype are read; bfloat16 becomes float32 in `numbers`
ENCODINGS = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "?",
    "complex64": "c8",
    "complex128": "c16",
}

STORAGE_CLASSES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
}


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """`numel` numbers of one torch dtype, found in the file under `key`."""

    key: str
    dtype: str
    numel: int

    @property
    def itemsize(self) -> int:
        """Bytes per number; an error for dtypes NumPy has no counterpart for."""
        if self.dtype not in ENCODINGS:
            raise CheckpointError(
                f"a tensor is {self.dtype}, expected one of {', '.join(ENCODINGS)}",
                hint="convert the model to float32 or float16 before saving it",
            )
        return np.dtype(ENCODINGS[self.dtype]).itemsize

    @property
    def size_bytes(self) -> int:
        return self.numel * self.itemsize


def numbers(data: Any, start: int, storage: Storage, order: str = "<") -> NDArray[Any]:
    """The storage's numbers (numel,), a read-only view of `data` where dtype and byte order allow."""
    kind = np.dtype(ENCODINGS[storage.dtype]).newbyteorder(order)  # type: ignore[arg-type]
    stored = np.frombuffer(data, kind, storage.numel, start)
    if storage.dtype == "bfloat16":
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return stored if kind.isnative else stored.astype(kind.newbyteorder("="))


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class StoredTensor:
    """A tensor not read yet: `shape` and `strides` (in numbers, not bytes) from `offset` of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, base: NDArray[Any]) -> NDArray[Any]:
        """The tensor as a view of its storage's numbers (numel,)."""
        count = self._checked(base.size)
        if count == 0:
            return np.empty(self.shape, base.dtype)
        if self.strides == _packed(self.shape):
            return base[self.offset : self.offset + count].reshape(self.shape)
        steps = tuple(stride * base.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(base[self.offset :], self.shape, steps, writeable=False)

    def _checked(self, limit: int) -> int:
        # only for tensors that are wanted: YOLOv5 leaves expanded grids in attributes, which nobody reads
        if any(side > MAX_SIDE for side in (*self.shape, *self.strides, self.offset)):
            raise UnsafeCheckpoint(f"a tensor has a size, stride or offset above {MAX_SIDE}")
        count = math.prod(self.shape)
        if count > limit:
            raise UnsafeCheckpoint(
                f"a tensor of shape {self.shape} asks for {count} numbers, its storage holds {limit}",
                hint="an expanded tensor: save it with .contiguous(), or do not trust this file",
            )
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if count and last >= limit:
            raise CheckpointError(f"a tensor of shape {self.shape} reaches number {last} of a storage of {limit}")
        if not count and math.prod(side for side in self.shape if side) > MAX_SIDE:
            raise CheckpointError(f"an empty tensor has the shape {self.shape}")
        return count


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def whole(value: object, what: str) -> int:
    """`value` if it is an int of 0 or more."""
    if type(value) is not int or value < 0:
        raise CheckpointError(f"{what} is {_shown(value)}, expected a number of 0 or more")
    return value


def _shown(value: object) -> str:
    return str(value) if type(value) in (int, float, bool, type(None)) else type(value).__name__


def storage_from(reference: object, known: dict[str, Storage]) -> Storage:
    """The storage that a persistent id ("storage", class, key, location, numel[, view]) names.

    `reference` already has its class replaced by the class's dotted name.
    """
    if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
        raise UnsafeCheckpoint("a persistent id is not a tensor storage")
    _, kind, key, _, numel = reference[:5]
    if not isinstance(kind, str) or not isinstance(key, (str, int)) or len(str(key)) > 64:
        raise CheckpointError("a tensor storage has no class or no key")
    if len(reference) == 6 and reference[5] is not None:
        raise CheckpointError(
            "a storage is a view of another one", hint="load and save the file with PyTorch 1.6 or later"
        )
    dtype = STORAGE_CLASSES.get(kind, kind.rpartition(".")[2].removesuffix("Storage").lower())
    found = Storage(str(key), dtype, whole(numel, "a storage's length"))
    first = known.setdefault(found.key, found)
    if (first.dtype, first.numel) != (found.dtype, found.numel):
        raise CheckpointError(
            f"storage {found.key!r} is once {first.dtype} and once {found.dtype}, or changes its length"
        )
    return first


def tensor_from(args: tuple[object, ...]) -> StoredTensor:
    """What `_rebuild_tensor`, `_v2` and `_v3` are called with: storage, offset, size, stride, ..."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise CheckpointError("a tensor is not rebuilt from a storage, offset, size and stride")
    storage = args[0]
    offset, size, stride = args[1:4]
    if not isinstance(size, (tuple, list)) or not isinstance(stride, (tuple, list)):
        raise CheckpointError("a tensor's size or stride is not a list of numbers")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"a tensor has {len(size)} sizes and {len(stride)} strides, expected at most {MAX_DIMENSIONS}"
        )
    shape = tuple(whole(side, "a tensor's size") for side in size)
    strides = tuple(whole(step, "a tensor's stride") for step in stride)
    return StoredTensor(storage, whole(offset, "a tensor's offset"), shape, strides)


def typed_tensor_from(args: tuple[object, ...], dtype: str) -> StoredTensor:
    """`_rebuild_tensor_v3`: the storage is plain bytes, and the tensor says what they are."""
    if not args or not isinstance(args[0], Storage) or args[0].dtype != "uint8":
        raise CheckpointError("a typed tensor is not rebuilt from a storage of bytes")
    plain = args[0]
    itemsize = Storage(plain.key, dtype, 0).itemsize
    return tensor_from((Storage(plain.key, dtype, plain.numel // itemsize), *args[1:]))
