"""The first rows of a device tensor: the same memory, fewer images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rows:
    """`tensor` with its first dimension cut to `count`; has the attributes of a device's tensor."""

    tensor: Any
    count: int

    @property
    def pointer(self) -> int:
        return int(self.tensor.pointer)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.tensor.shape[1:])

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype)

    @property
    def nbytes(self) -> int:
        return int(self.tensor.nbytes) // int(self.tensor.shape[0]) * self.count

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.tensor.__cuda_array_interface__, "shape": self.shape}


def rows(tensor: Any, count: int) -> Any:
    """The first `count` rows of `tensor`; the tensor itself where that is all of it."""
    return tensor if tensor.shape[0] == count else Rows(tensor, count)
