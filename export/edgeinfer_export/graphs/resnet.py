"""ResNet classifiers from tensors named as torchvision and timm do; depth, width, groups are read from their shapes."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, ModelSpec, Preprocess, Provenance, Size, TensorSpec, TopK
from edgeinfer_export.graphs.ops import RELU, Feature, Graph

if TYPE_CHECKING:
    from edgeinfer_export.graphs import labels
    from edgeinfer_export.graphs.weights import Weights

INPUT, OUTPUT = "input", "logits"
EPSILON = 1e-5
USUAL = Size(224, 224)
# published ImageNet training resizes the shorter side to 256 and crops 224
RESIZE_SHARE = 256 / 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNKNOWN = "only ImageNet's ResNets are built from tensors; export the model to .onnx with PyTorch, and that file here"
DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def recognised(weights: Weights) -> bool:
    return all(f"{name}.weight" in weights for name in ("conv1", "layer1.0.conv1", "layer4.0.conv2", "fc"))


def build(
    weights: Weights,
    size: Size | None,
    batch: Batch,
    names: labels.Names,
    *,
    resize: int = 0,
    stride_in_1x1: bool = False,
) -> tuple[Graph, ModelSpec]:
    """The graph and its spec. `stride_in_1x1`: Caffe's ResNet v1, whose bottlenecks stride in the first convolution."""
    size = size or USUAL
    net = _Net(weights, stride_in_1x1)
    logits = net.grow(size)
    weights.finish()
    first = batch if batch.min != batch.max else batch.min
    spec = ModelSpec(
        name=net.architecture(),
        task="classify",
        inputs=(TensorSpec(INPUT, (first, 3, size.height, size.width)),),
        outputs=(TensorSpec(OUTPUT, (first, logits.channels)),),
        preprocess=Preprocess(
            size,
            fit="resize-crop",
            mean=MEAN,
            std=STD,
            interpolation="linear-antialias",
            resize=resize or round(max(size.height, size.width) * RESIZE_SHARE),
        ),
        decode=TopK(min(5, logits.channels)),
        labels=names.of(logits.channels),
        provenance=Provenance(
            architecture=net.architecture(),
            # as torchvision publishes them: batch norm counts, and one FLOP is one multiply-add
            parameters=weights.learned,
            gflops=round(net.graph.macs / 1e9, 2),
        ),
    )
    return net.graph, spec


class _Net:
    def __init__(self, weights: Weights, stride_in_1x1: bool) -> None:
        self.graph = Graph()
        self.weights = weights
        self.bottleneck = "layer1.0.conv3.weight" in weights
        self.stride_in_1x1 = stride_in_1x1
        self.blocks = tuple(
            next(n for n in count() if f"layer{stage}.{n}.conv1.weight" not in weights) for stage in range(1, 5)
        )

    def architecture(self) -> str:
        """resnet50 and its kin; a description for depths nobody published."""
        depth = DEPTHS.get((self.bottleneck, self.blocks))
        groups, width = self._groups("layer1.0"), self.weights.shape("layer1.0.conv2.weight")[0]
        if depth is None:
            return f"resnet-{'-'.join(map(str, self.blocks))}"
        if groups > 1:
            return f"resnext{depth}_{groups}x{width // groups}d"
        return f"resnet{depth}" if width == 64 else f"wide_resnet{depth}_{width // 64}"

    def _groups(self, path: str) -> int:
        """From the shapes: conv2 of a bottleneck gives as many channels as it takes."""
        out, inner = self.weights.shape(f"{path}.conv2.weight")[:2]
        return max(1, out // max(1, inner)) if self.bottleneck else 1

    def grow(self, size: Size) -> Feature:
        """Stem, four stages, and the classifier as a 1x1 convolution: some engines refuse a float32 matrix product."""
        stem = self.weights.shape("conv1.weight")
        if stem[2:] != (7, 7):
            # CIFAR's ResNets have the same names, another stride and no pool
            raise ExportError(f"tensor conv1.weight is {stem}, expected a 7x7 kernel", hint=UNKNOWN)
        x = self._conv("conv1", "bn1", Feature(INPUT, 3, size.height, size.width), 2)
        x = self.graph.max_pool("maxpool", self._relu("conv1", x), 3, 2, 1)
        for stage, blocks in enumerate(self.blocks, 1):
            for block in range(blocks):
                x = self._block(f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
        pooled = Feature(self.graph.node("GlobalAveragePool", "avgpool", x.name), x.channels, 1, 1)
        logits = self.graph.conv("fc", pooled, self.weights.linear("fc", x.channels))
        self.graph.node("Flatten", OUTPUT, logits.name, axis=1)
        return logits

    def _conv(self, path: str, norm: str, x: Feature, stride: int = 1, groups: int = 1) -> Feature:
        kernel = self.weights.kernel(path, norm, EPSILON)
        return self.graph.conv(path, x, kernel, stride=stride, pad=kernel.weight.shape[2] // 2, groups=groups)

    def _relu(self, path: str, x: Feature) -> Feature:
        return self.graph.activate(path, x, RELU)

    def _block(self, path: str, x: Feature, stride: int) -> Feature:
        """A basic block or a bottleneck, and the shortcut round it."""
        first = stride if self.stride_in_1x1 or not self.bottleneck else 1
        y = self._relu(f"{path}.conv1", self._conv(f"{path}.conv1", f"{path}.bn1", x, first))
        y = self._conv(f"{path}.conv2", f"{path}.bn2", y, stride // first, self._groups(path))
        if self.bottleneck:
            y = self._conv(f"{path}.conv3", f"{path}.bn3", self._relu(f"{path}.conv2", y))
        if stride != 1 or x.channels != y.channels:
            x = self._conv(f"{path}.downsample.0", f"{path}.downsample.1", x, stride)
        return self._relu(path, self.graph.add(f"{path}.add", y, x))
