"""Where a graph is quantised: which tensors get a QuantizeLinear / DequantizeLinear pair, for what will run it.

`cpu`: a pair round every operator that ONNX Runtime is faster at in 8 bits: thin convolutions stay float32 beside wider
ones, and what reads nothing but float32. `trt`: pairs where TensorRT fuses them: at what convolutions read, at the
residual side of additions (the other side stays in the convolution before), and with one scale round pools, resizing
and concatenation. The last convolutions and all behind them stay float32.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from onnx import TensorProto

from edgeinfer_export import precision

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# operators whose output holds no value that their input has not
PASSING = ("MaxPool", "Resize", "Reshape", "Transpose", "Flatten", "Split", "Slice", "Squeeze", "Unsqueeze")
# what TensorRT moves 8 bits through, with one scale before and behind
JOINING = ("MaxPool", "Resize", "Concat")
# what ONNX Runtime has a kernel of 8 bits for
ON_CPU = ("Conv", "Sigmoid", "Mul", "Add", "Relu", "LeakyRelu", "Concat", "MaxPool", "Resize", "GlobalAveragePool")
# a convolution from or to so few channels is no faster in 8 bits, and the activation behind it twice as slow
THIN = 16
# its clipping at 0 is part of the pair behind it
CLIPPING = ("Conv", "Add")


class Net:
    """A float32 graph as quantisation sees it: who reads what, and which nodes stay float32."""

    def __init__(self, model: Any, keep: Collection[str] = ()) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {one.name: one for one in model.graph.initializer}
        types = precision.element_types(model)
        self.floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT} - set(self.constants)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers = Counter(name for node in self.nodes for name in node.input)
        self.readers.update(value.name for value in model.graph.output)
        last = precision.last(self.nodes, self._weighted)
        exact = {*precision.delicate(model), *map(precision.title, last)}
        self.fitting = [node for node in self.nodes if self._fits(node) and precision.title(node) not in exact]
        self.keep = {*keep, *exact}

    def _weighted(self, node: Any) -> bool:
        # a convolution to a single channel is a weighted mean, part of decoding
        weights = [self.constants[name] for name in node.input[1:2] if name in self.constants]
        single = bool(weights) and node.op_type == "Conv" and weights[0].dims[0] == 1
        return precision.is_weighted(node) and not single

    def free(self, node: Any) -> bool:
        return precision.title(node) not in self.keep

    def activations(self, node: Any) -> list[str]:
        """The tensors it computes with; what Resize reads beside its first says only how large that becomes."""
        names = node.input[:1] if node.op_type == "Resize" else node.input
        return [name for name in names if name in self.floats]

    def convolutions(self, flavor: str) -> list[Any]:
        """Those that are quantised; for a CPU the thin ones only where all are thin."""
        wide = [] if flavor == "trt" else [node for node in self.fitting if self._wide(node)]
        return [node for node in wide or self.fitting if self.free(node)]

    def _fits(self, node: Any) -> bool:
        constant = all(name in self.constants for name in node.input[1:] if name)
        return node.op_type == "Conv" and constant and node.input[0] in self.floats

    def _wide(self, node: Any) -> bool:
        outputs, inputs = self.constants[node.input[1]].dims[:2]
        # one channel for each group has kernels of its own
        return bool(outputs > THIN and (inputs > THIN or inputs == 1))

    def points(self, flavor: str) -> set[str]:
        """The tensors that are quantised."""
        return self._for_trt() if flavor == "trt" else self._for_cpu()

    def _for_cpu(self) -> set[str]:
        ours = {precision.title(node) for node in self.convolutions("cpu")}
        points: set[str] = set()
        eight: set[str] = set()
        for node in self.nodes:
            begins = precision.title(node) in ours or (node.op_type != "Conv" and not eight.isdisjoint(node.input))
            if begins and node.op_type in ON_CPU and self.free(node) and self._whole(node):
                points.update((*self.activations(node), *node.output))
                eight.update(node.output)
        return points - self._clipped()

    def _whole(self, node: Any) -> bool:
        """Whether a node computes with activations alone, or is one whose constants are its own affair."""
        return node.op_type in ("Conv", "Resize") or all(name in self.floats for name in node.input if name)

    def _clipped(self) -> set[str]:
        """What goes straight into a Relu: the pair behind that does for both."""
        relus = [node for node in self.nodes if node.op_type == "Relu" and self.free(node)]
        makers = {node.input[0]: self.maker.get(node.input[0]) for node in relus}
        return {
            name
            for name, maker in makers.items()
            if maker is not None and self.readers[name] == 1 and maker.op_type in CLIPPING and self.free(maker)
        }

    def _for_trt(self) -> set[str]:
        points: set[str] = set()
        waiting = [node.input[0] for node in self.convolutions("trt")]
        waiting += [self._residual(node) for node in self.nodes if node.op_type == "Add" and self.free(node)]
        while waiting:
            name = waiting.pop()
            if name in points or name not in self.floats:
                continue
            points.add(name)
            maker = self.maker.get(name)
            if maker is not None and maker.op_type in JOINING and self.free(maker):
                waiting += self.activations(maker)
        return points

    def _residual(self, node: Any) -> str:
        """The side of an addition whose other side comes straight from a convolution; empty of any other addition."""
        sides = self.activations(node)
        if len(sides) != 2:
            return ""
        return next((other for one, other in (sides, sides[::-1]) if self._straight(one)), "")

    def _straight(self, name: str) -> bool:
        """Whether a tensor is a convolution's, with at most an activation between, and read once."""
        while self.readers[name] == 1 and name in self.maker:
            node = self.maker[name]
            if node.op_type == "Conv":
                return True
            if node.op_type == "Mul" and self.activations(node)[-1:] and self._gated(node):
                node = self.maker[self.activations(node)[0]]
                return bool(node.op_type == "Conv")
            if node.op_type not in ("Relu", "LeakyRelu"):
                return False
            name = node.input[0]
        return False

    def _gated(self, node: Any) -> bool:
        """x * sigmoid(x)."""
        sides = self.activations(node)
        gate = self.maker.get(sides[-1])
        return len(sides) == 2 and gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == sides[0]

    def together(self, points: set[str]) -> Iterator[tuple[str, str]]:
        """Pairs of points that have one scale, so that 8 bits are moved as they are."""
        for node in self.nodes:
            if node.op_type in (*PASSING, "Concat"):
                for name in self.activations(node):
                    yield from ((name, out) for out in node.output if {name, out} <= points)
