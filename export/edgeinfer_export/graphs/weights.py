"""A checkpoint's tensors, each taken once: what is missing, misshapen or left over is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import DAMAGED, DIVERGED, Kernel
from edgeinfer_export.graphs.plan import OTHER_WAY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgeinfer_export.graphs.ops import Array

# tensors that are no part of inference: counters of training, and values kept beside what they are made from
IGNORED = (".num_batches_tracked", ".anchor_grid", ".stride")
NOT_LEARNED = (".running_mean", ".running_var", ".anchors")
NO_PLACE = f"the architecture is not one edgeinfer builds itself: {OTHER_WAY}"
QUANTISED = "export the checkpoint from before quantisation"


def scaled(weight: Array, bias: Array | float, gain: Array | float = 1.0, offset: Array | float = 0.0) -> Kernel:
    """The kernel of a convolution whose outputs are multiplied by `gain` and moved by `offset`, all in float64."""
    gain, zero = np.broadcast_to(gain, len(weight)), np.zeros(len(weight))
    whole = weight * gain[:, None, None, None]
    with np.errstate(over="ignore"):  # a graph takes no weights beyond float32
        return Kernel(whole.astype(np.float32), (zero + bias * gain + offset).astype(np.float32))


class Weights:
    """Named tensors; `learned` counts the learnable numbers taken, `folded` those among them that go into others."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors
        self._left = {name for name in tensors if not name.endswith(IGNORED)}
        self.learned = 0
        self.folded = 0

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        """Names in the order they were saved."""
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._found(name).shape)

    def sides(self, name: str) -> tuple[int, ...]:
        """The four of a convolution's weight: outputs, inputs of a group, height, width."""
        shape = self.shape(name)
        if len(shape) != 4:
            raise ExportError(f"tensor {name} is {shape}, expected the four sides of a kernel", hint=DAMAGED)
        return shape

    def _found(self, name: str) -> Array:
        if name not in self._tensors:
            raise ExportError(f"the checkpoint has no tensor {name}", hint=DAMAGED)
        return self._tensors[name]

    def take(self, name: str, *shape: int) -> Array:
        """The tensor in float64, for exact folding; -1 in `shape` stands for any length."""
        found = self._found(name)
        wanted = [side if want == -1 else want for want, side in zip(shape, found.shape, strict=False)]
        if len(found.shape) != len(shape) or wanted != list(found.shape):
            expected = str(shape).replace("-1", "any")
            raise ExportError(f"tensor {name} is {tuple(found.shape)}, expected {expected}", hint=DAMAGED)
        if found.dtype.kind != "f":
            raise ExportError(f"tensor {name} is {found.dtype}, expected floating point", hint=QUANTISED)
        if not found.size:
            raise ExportError(f"tensor {name} is {tuple(found.shape)}: it holds no number", hint=DAMAGED)
        with np.errstate(invalid="ignore"):  # of a signalling NaN NumPy warns besides
            value = np.asarray(found, np.float64)
        if not np.isfinite(value).all():
            raise ExportError(f"tensor {name} holds values that are not finite", hint=DIVERGED)
        self._left.discard(name)
        if not name.endswith(NOT_LEARNED):
            self.learned += value.size
        return value

    def kernel(self, conv: str, norm: str = "", eps: float = 0.0) -> Kernel:
        """The convolution `conv` with the batch norm `norm` folded in; one folded before has a bias and no norm."""
        weight = self.take(f"{conv}.weight", -1, -1, -1, -1)
        out, has_bias = weight.shape[0], f"{conv}.bias" in self
        bias = self.take(f"{conv}.bias", out) if has_bias or not norm else np.zeros(out)
        if norm and (not has_bias or f"{norm}.weight" in self):
            return scaled(weight, bias, *self.norm(norm, out, eps))
        return scaled(weight, bias)

    def linear(self, path: str, inputs: int, norm: str = "", eps: float = 0.0) -> Kernel:
        """A fully connected layer as a 1x1 convolution, with the batch norm behind it folded in."""
        weight = self.take(f"{path}.weight", -1, inputs)[:, :, None, None]
        out = weight.shape[0]
        bias = self.take(f"{path}.bias", out) if f"{path}.bias" in self else np.zeros(out)
        return scaled(weight, bias, *(self.norm(norm, out, eps) if norm else ()))

    def norm(self, path: str, channels: int, eps: float) -> tuple[Array, Array]:
        """Gain and offset (channels) of a batch norm in inference."""
        gamma, beta = self.take(f"{path}.weight", channels), self.take(f"{path}.bias", channels)
        mean, variance = self.take(f"{path}.running_mean", channels), self.take(f"{path}.running_var", channels)
        if not (variance + eps > 0).all():
            raise ExportError(
                f"tensor {path}.running_var holds {variance.min():g}, which is no variance",
                hint=DIVERGED,
            )
        self.folded += channels
        gain = gamma / np.sqrt(variance + eps)
        return gain, beta - mean * gain

    def added(self, path: str, kernels: Sequence[Kernel]) -> Kernel:
        """One kernel that gives the sum of what several give that read the same: smaller ones lie in its middle."""
        large, *rest = sorted(kernels, key=lambda kernel: kernel.weight.shape[2], reverse=True)
        weight, bias = large.weight, large.bias
        for small in rest:
            around, odd = divmod(weight.shape[2] - small.weight.shape[2], 2)
            grown = np.pad(small.weight, [(0, 0), (0, 0), (around, around), (around, around)])
            if odd or grown.shape != weight.shape:
                raise ExportError(
                    f"layer {path} adds convolutions of {weight.shape} and {small.weight.shape}", hint=DAMAGED
                )
            weight, bias = weight + grown, bias + small.bias
            self.folded += small.weight.size + small.bias.size
        return Kernel(weight, bias)

    def leave(self, prefix: str) -> None:
        """Tensors of another model that was trained beside this one: they may stay untaken."""
        self._left = {name for name in self._left if not name.startswith(prefix)}

    def finish(self) -> None:
        """Refuse a checkpoint that holds more than the graph uses: the graph would not be the model."""
        if self._left:
            first, *others = sorted(self._left)
            more = f" and {len(others)} more" if others else ""
            raise ExportError(
                f"tensor {first}{more} has no place in the model described",
                hint=NO_PLACE,
            )
