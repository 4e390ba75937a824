"""ResNet classifiers from tensors named as torchvision and timm do; depth, width, groups are read from their shapes.

So are a stem of three convolutions and shortcuts that average before they convolve: ResNet-C, D, S and T. Strides,
and what has no tensors, follow the published rule; of a model that was saved whole they are compared with it.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, ModelSpec, Preprocess, Provenance, Size, TensorSpec, TopK
from edgeinfer_export.graphs import classifier
from edgeinfer_export.graphs.ops import RELU, Feature, Graph
from edgeinfer_export.graphs.plan import OTHER_WAY
from edgeinfer_export.told import NORMALIZE, RESIZE_SHARE

if TYPE_CHECKING:
    from edgeinfer_export.graphs import labels
    from edgeinfer_export.graphs.declared import Declared
    from edgeinfer_export.graphs.weights import Weights

INPUT, OUTPUT = "input", "logits"
EPSILON = 1e-5
USUAL = Size(224, 224)
SCALE, MEAN, STD = NORMALIZE["imagenet"]
DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (1, 1, 1, 1)): 10,
    (True, (1, 1, 1, 1)): 14,
    (False, (2, 2, 2, 2)): 18,
    (True, (2, 2, 2, 2)): 26,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
    (True, (3, 24, 36, 3)): 200,
}
# by the widths of the stem's first two convolutions, and whether shortcuts average
KINDS = {((32, 32), False): "c", ((32, 32), True): "d", ((64, 64), False): "s", ((24, 32), True): "t"}
ACTIVATION = re.compile(r"(?:layer[1-4]\.\d+\.)?(?:relu|act)\d*")
A_BLOCK = re.compile(r"(layer[1-4]\.\d+)\.conv1\.weight$")
OF_A_BLOCK = re.compile(r"layer[1-4]\.\d+\.(?:(?:conv|bn)[123]|downsample)\.")
# what a ResNet that was saved whole may hold without tensors: it computes nothing, or is what the builder puts there
PLAIN = frozenset(
    (
        *("Conv2d", "BatchNorm2d", "SyncBatchNorm", "BatchNormAct2d", "ReLU", "Linear", "MaxPool2d", "AvgPool2d"),
        *("AdaptiveAvgPool2d", "FastAdaptiveAvgPool", "Flatten", "Identity", "Dropout", "DropPath", "DropBlock2d"),
    )
)


# what these kin of ResNet do before they stride has no tensors
HIDDEN = re.compile(r"res(?:net|next)(aa|blur)")


def check_names(*names: str) -> None:
    """ExportError where a name of the model, or its file's, tells of what its tensors would not show."""
    for name in names:
        if match := HIDDEN.search(name):
            what = "averages" if match[1] == "aa" else "blurs"
            raise ExportError(f"the model is {name}, which {what} where ResNet strides", hint=OTHER_WAY)


def recognised(weights: Weights) -> bool:
    stem = "conv1.weight" in weights or "conv1.0.weight" in weights
    return stem and all(f"{name}.weight" in weights for name in ("layer1.0.conv1", "layer4.0.conv2"))


def build(
    weights: Weights, size: Size | None, batch: Batch, names: labels.Names, said: Declared
) -> tuple[Graph, ModelSpec, tuple[str, ...]]:
    """The graph, its spec, and notes on what was taken for granted."""
    _check_blocks(weights, said)
    size = size or USUAL
    net = _Net(weights, said)
    logits = net.grow(size)
    weights.finish()
    spec = ModelSpec(
        name=net.architecture(),
        task="classify",
        inputs=(TensorSpec(INPUT, (batch.dim, 3, size.height, size.width)),),
        outputs=(TensorSpec(OUTPUT, (batch.dim, logits.channels)),),
        preprocess=Preprocess(
            size,
            fit="resize-crop",
            scale=SCALE,
            mean=MEAN,
            std=STD,
            interpolation="linear-antialias",
            resize=round(max(size.height, size.width) * RESIZE_SHARE),
        ),
        # a single output is a yes or no: the softmax of one number is always 1
        decode=TopK(min(5, logits.channels), "softmax" if logits.channels > 1 else "sigmoid"),
        labels=names.of(logits.channels),
        provenance=Provenance(
            architecture=net.architecture(),
            # as torchvision publishes them: batch norm counts, and one FLOP is one multiply-add
            parameters=weights.learned,
            gflops=round(net.graph.macs / 1e9, 2),
        ),
    )
    return net.graph, spec, net.notes


def _check_blocks(weights: Weights, said: Declared) -> None:
    """ExportError names what a ResNet's kin have in their blocks and a ResNet has not."""
    extra = sorted(name for name in weights if name.startswith("layer") and not OF_A_BLOCK.match(name))
    if extra:
        kind = " (squeeze-and-excitation)" if ".se." in extra[0] else ""
        raise ExportError(
            f"the blocks are no plain ResNet's: they have {extra[0]}{kind}, and {len(extra) - 1} tensors more",
            hint=OTHER_WAY,
        )
    blocks = sorted({match[1] for name in weights if (match := A_BLOCK.match(name))})
    deep = [path for path in blocks if f"{path}.conv3.weight" in weights]
    if deep and deep != blocks:
        plain = next(path for path in blocks if path not in deep)
        raise ExportError(
            f"{plain} has two convolutions, {deep[0]} three, as in timm's test_resnet; a ResNet has one kind",
            hint=OTHER_WAY,
        )
    if "bn1.weight" in weights and "bn1.running_mean" not in weights:
        raise ExportError("bn1 has no running mean: it is no batch norm", hint=OTHER_WAY)
    for path, module in said.modules.items():
        own = "MaxPool2d" if path == "maxpool" else "ReLU" if ACTIVATION.fullmatch(path) else module.kind
        if (module.kind != own or own not in PLAIN) and not path.startswith(f"{classifier.PATH}."):
            raise ExportError(f"layer {path} is {module.kind}, which no ResNet has there", hint=OTHER_WAY)


class _Net:
    def __init__(self, weights: Weights, said: Declared) -> None:
        self.graph = Graph()
        self.weights = weights
        self.said = said
        self.notes: tuple[str, ...] = ()
        self.bottleneck = "layer1.0.conv3.weight" in weights
        self.deep = "conv1.0.weight" in weights
        self.averages = "layer2.0.downsample.2.weight" in weights
        self.blocks = tuple(
            next(n for n in count() if f"layer{stage}.{n}.conv1.weight" not in weights) for stage in range(1, 5)
        )

    def architecture(self) -> str:
        """resnet50 and its kin; a description for depths nobody published."""
        depth = DEPTHS.get((self.bottleneck, self.blocks))
        groups, width = self._groups("layer1.0"), self.weights.sides("layer1.0.conv2.weight")[0]
        if depth is None:
            return f"resnet-{'-'.join(map(str, self.blocks))}"
        name = f"{depth}{self._kind()}"
        if groups > 1:
            return f"resnext{name}_{groups}x{width // groups}d"
        return f"resnet{name}" if width == 64 else f"wide_resnet{name}_{width // 64}"

    def _kind(self) -> str:
        if not self.deep:
            return ""
        widths = self.weights.sides("conv1.0.weight")[0], self.weights.sides("conv1.3.weight")[0]
        return KINDS.get((widths, self.averages), "-deep")

    def _groups(self, path: str) -> int:
        """From the shapes: conv2 of a bottleneck gives as many channels as it takes."""
        out, inner = self.weights.sides(f"{path}.conv2.weight")[:2]
        return max(1, out // max(1, inner)) if self.bottleneck else 1

    def grow(self, size: Size) -> Feature:
        """Stem, four stages, and the classifier as 1x1 convolutions: some engines refuse a float32 matrix product."""
        x = self._stem(Feature(INPUT, 3, size.height, size.width))
        self.said.check("maxpool", kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)
        x = self.graph.max_pool("maxpool", x, 3, 2, 1)
        for stage, blocks in enumerate(self.blocks, 1):
            for block in range(blocks):
                x = self._block(f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
        pooled = Feature(self.graph.node("GlobalAveragePool", "avgpool", x.name), x.channels, 1, 1)
        logits, self.notes = classifier.grow(self.graph, self.weights, self.said, pooled)
        self.graph.node("Flatten", OUTPUT, logits.name, axis=1)
        return logits

    def _stem(self, x: Feature) -> Feature:
        shape = self.weights.sides("conv1.0.weight" if self.deep else "conv1.weight")
        if shape[2:] != ((3, 3) if self.deep else (7, 7)):
            # CIFAR's ResNets have the same names, another stride and no pool
            raise ExportError(f"tensor conv1.weight is {shape}, expected a 7x7 kernel", hint=OTHER_WAY)
        if shape[1] != x.channels:
            raise ExportError(f"the model takes pictures of {shape[1]} channels, expected 3", hint=OTHER_WAY)
        if not self.deep:
            return self._relu("conv1", self._conv("conv1", "bn1", x, 2))
        x = self._relu("conv1.0", self._conv("conv1.0", "conv1.1", x, 2))
        x = self._relu("conv1.3", self._conv("conv1.3", "conv1.4", x))
        return self._relu("conv1.6", self._conv("conv1.6", "bn1", x))

    def _conv(self, path: str, norm: str, x: Feature, stride: int = 1, groups: int = 1) -> Feature:
        kernel = self.weights.kernel(path, norm, self.said.epsilon(norm, EPSILON))
        pad = kernel.weight.shape[2] // 2
        self.said.convolution(path, stride, pad, groups)
        return self.graph.conv(path, x, kernel, stride=stride, pad=pad, groups=groups)

    def _relu(self, path: str, x: Feature) -> Feature:
        return self.graph.activate(path, x, RELU)

    def _block(self, path: str, x: Feature, stride: int) -> Feature:
        """A basic block or a bottleneck, and the shortcut round it.

        The second convolution of a bottleneck strides; Caffe's ResNet v1, which only a whole model tells from it,
        has strides in the first.
        """
        first = self.said.stride(f"{path}.conv1") if self.bottleneck else stride
        if stride % first:
            first = 1
        y = self._relu(f"{path}.conv1", self._conv(f"{path}.conv1", f"{path}.bn1", x, first))
        y = self._conv(f"{path}.conv2", f"{path}.bn2", y, stride // first, self._groups(path))
        if self.bottleneck:
            y = self._conv(f"{path}.conv3", f"{path}.bn3", self._relu(f"{path}.conv2", y))
        if stride != 1 or x.channels != y.channels:
            x = self._shortcut(f"{path}.downsample", x, stride)
        return self._relu(path, self.graph.add(f"{path}.add", y, x))

    def _shortcut(self, path: str, x: Feature, stride: int) -> Feature:
        if not self.averages:
            return self._conv(f"{path}.0", f"{path}.1", x, stride)
        if stride != 1:
            self.said.check(f"{path}.0", kernel_size=2, stride=stride, padding=0)
            x = self.graph.average_pool(f"{path}.0", x, 2, stride=2)
        return self._conv(f"{path}.1", f"{path}.2", x)
