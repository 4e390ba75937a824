"""Where a YOLO model's graph grows: its convolutions, and what several of its blocks are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer_export.graphs.ops import SILU, Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgeinfer_export.graphs.declared import Declared
    from edgeinfer_export.graphs.ops import Activation, Graph, Kernel, Pair
    from edgeinfer_export.graphs.weights import Weights

# what a batch norm adds to the variance is in no state dict: YOLOv5 and Ultralytics set it after building a detector,
# and leave PyTorch's own in what is made to classify
EPSILON, UNSET = 1e-3, 1e-5
# bottlenecks of a C3k
C3K_REPEATS = 2
# what the two convolutions are called that are trained side by side in the place of one, by RepVGGDW and RepConv
TWOS = (("conv", "conv1"), ("conv1", "conv2"))


@dataclass(frozen=True)
class Net:
    """Where the graph grows, what from, and the activation of its convolutions where no layer says another."""

    graph: Graph
    weights: Weights
    activation: Activation
    declared: Declared
    epsilon: float = EPSILON

    def conv(
        self,
        path: str,
        x: Feature,
        stride: Pair = 1,
        groups: int = 1,
        *,
        activation: Activation | None = None,
        pad: int | None = None,
    ) -> Feature:
        """Convolution, batch norm and activation; by default the sides stay as they are, but for the stride.

        Two that are trained side by side, and added, are one; SiLU is theirs whatever the model's is.
        """
        kernels = []
        for branch in self._branches(path):
            kernels.append(self.kernel(branch))
            self.declared.convolution(f"{branch}.conv", stride, _around(kernels[-1], pad), groups)
        kernel = self.weights.added(path, kernels)
        usual = SILU if len(kernels) > 1 else None
        y = self.graph.conv(f"{path}.conv", x, kernel, stride=stride, pad=_around(kernel, pad), groups=groups)
        return self.act(path, y, activation or usual)

    def _branches(self, path: str) -> list[str]:
        """The convolutions that the one of `path` is the sum of: as a rule it alone."""
        for two in TWOS:
            names = [f"{path}.{name}" for name in two]
            if all(f"{name}.conv.weight" in self.weights for name in names):
                for name in names:
                    self.declared.linear(f"{name}.act")
                return names
        return [path]

    def kernel(self, path: str) -> Kernel:
        """Convolution and batch norm of a Conv."""
        return self.weights.kernel(f"{path}.conv", f"{path}.bn", self.declared.epsilon(f"{path}.bn", self.epsilon))

    def act(self, path: str, x: Feature, activation: Activation | None = None) -> Feature:
        """The activation of a Conv: what the module says, or else what is given, or else the model's."""
        return self.graph.activate(path, x, self.declared.activation(f"{path}.act", activation or self.activation))

    def bottleneck(self, path: str, x: Feature, shortcut: bool, groups: int = 1, stride: int = 1) -> Feature:
        """Two convolutions; the first strides along the rows, the second along the columns."""
        y = self.conv(f"{path}.cv2", self.conv(f"{path}.cv1", x, (1, stride)), (stride, 1), groups)
        return self.graph.add(f"{path}.add", x, y) if shortcut and x.channels == y.channels else y

    def halves(self, path: str, x: Feature) -> list[Feature]:
        """Two halves of the channels; of an odd number, the first is larger."""
        widths = [x.channels - x.channels // 2, x.channels // 2]
        names = self.graph.split(f"{path}.split", x.name, widths)
        return [Feature(name, width, x.height, x.width) for name, width in zip(names, widths, strict=True)]

    def pools(self, path: str, x: Feature, sizes: Sequence[int]) -> list[Feature]:
        """Max pools of `sizes` side by side; one of size a after one of size b is one of size a + b - 1."""
        pooled, done = [x], 1
        for size in sizes:
            pooled.append(self.graph.max_pool(f"{path}.pool{size}", pooled[-1], size - done + 1, 1, (size - done) // 2))
            done = size
        return pooled

    def joined(
        self,
        path: str,
        parts: Sequence[Feature],
        places: Iterable[str],
        part: Callable[[str, Feature], Feature],
        last: str = "cv2",
    ) -> Feature:
        """`parts` and one more for each of `places`, each of which reads the one before it; joined by a convolution."""
        parts = [*parts]
        for place in places:
            parts.append(part(f"{path}.{place}", parts[-1]))
        return self.conv(f"{path}.{last}", self.graph.concat(f"{path}.concat", parts))

    def chain(self, path: str, x: Feature, repeats: int, part: Callable[[str, Feature], Feature]) -> Feature:
        """As many parts, each of which reads the one before it."""
        for place in range(repeats):
            x = part(f"{path}.m.{place}", x)
        return x

    def c3k(self, path: str, x: Feature, *, shortcut: bool, groups: int) -> Feature:
        return self.c3(path, x, repeats=C3K_REPEATS, shortcut=shortcut, groups=groups)

    def c3(self, path: str, x: Feature, *, repeats: int, shortcut: bool, groups: int = 1) -> Feature:
        """C3, C3k and RepCSP: bottlenecks on one half of the channels, joined with the other half."""

        def inner(y: Feature) -> Feature:
            return self.chain(path, y, repeats, lambda part, z: self.bottleneck(part, z, shortcut, groups))

        return self.csp(path, x, inner)

    def csp(self, path: str, x: Feature, inner: Callable[[Feature], Feature]) -> Feature:
        """Cross stage partial: `inner` on one half of the channels, joined with the other half."""
        y = inner(self.conv(f"{path}.cv1", x))
        return self.conv(f"{path}.cv3", self.graph.concat(f"{path}.concat", [y, self.conv(f"{path}.cv2", x)]))


def _around(kernel: Kernel, pad: int | None) -> tuple[int, int]:
    """Rows and columns of padding: by default half of the kernel's."""
    rows, columns = kernel.weight.shape[2:]
    return (rows // 2, columns // 2) if pad is None else (pad, pad)
