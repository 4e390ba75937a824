"""The building blocks of YOLO models, each from its tensors: what a row of the YAML stands for.

Numbers of channels and sizes of kernels come from the tensors; so pruned models export like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import gcd

import numpy as np

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs import attention, elan, ghost, sides
from edgeinfer_export.graphs.net import Net
from edgeinfer_export.graphs.ops import LINEAR, RELU, SILU, Feature, Kernel
from edgeinfer_export.graphs.plan import MAX_NUMBER, OTHER_WAY, Layer
from edgeinfer_export.graphs.weights import scaled


def conv(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """Conv: channels, kernel, stride, padding, groups."""
    kernel = layer.integer(1, 1)
    shape = net.weights.sides(f"{path}.conv.weight")
    padding = layer.arguments[3] if len(layer.arguments) > 3 else None
    if shape[2:] != (kernel, kernel):
        raise layer.error(f"kernel is {kernel}, but tensor {path}.conv.weight is {shape}")
    if (layer.module == "DWConv" and padding not in (None, 1)) or len(layer.arguments) > 5:
        raise layer.error(f"arguments {layer.arguments}: dilation and activations are not supported")
    groups = gcd(x.channels, shape[0]) if layer.module == "DWConv" else layer.integer(4, 1)
    pad = layer.integer(3, 0) if padding is not None and layer.module == "Conv" else kernel // 2
    return net.conv(path, x, max(1, layer.integer(2, 1)), groups, pad=pad)


def focus(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """Focus: every second pixel into channels, then a convolution; the same as one of twice the size and stride 2."""
    if any(layer.integer(place, 1) != 1 for place in (2, 4)):
        raise layer.error("a stride or groups are not supported")
    kernel = net.kernel(f"{path}.conv")
    out, slices, size, _ = kernel.weight.shape
    if slices != 4 * x.channels:
        raise layer.error(f"tensor {path}.conv.conv.weight takes {slices} channels, expected {4 * x.channels}")
    # the four slices are (row, column) = (0, 0), (1, 0), (0, 1), (1, 1)
    apart = kernel.weight.reshape(out, 2, 2, x.channels, size, size).transpose(0, 3, 4, 2, 5, 1)
    whole = Kernel(apart.reshape(out, x.channels, 2 * size, 2 * size), kernel.bias)
    y = net.graph.conv(f"{path}.conv.conv", x, whole, stride=2, pad=2 * (size // 2))
    return net.act(f"{path}.conv", y)


def bottleneck(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    return net.bottleneck(path, x, layer.flag(1, True), layer.integer(2, 1))


def c3(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    return net.c3(path, x, repeats=layer.repeats, shortcut=layer.flag(1, True), groups=layer.integer(2, 1))


def c3_spp(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C3SPP: C3 with SPP in the place of its bottlenecks."""
    return net.csp(path, x, lambda y: spp(net, layer, f"{path}.m", y))


def cross_conv(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """CrossConv: a convolution along the rows, then one along the columns; each strides along its own."""
    return net.bottleneck(path, x, layer.flag(5, False), layer.integer(3, 1), max(1, layer.integer(2, 1)))


def bottleneck_csp(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """BottleneckCSP: two halves without activations of their own, joined, normalised and activated together.

    Which activation follows differs between the releases and is in no YAML.
    """
    y = _bottlenecks(net, layer, path, net.conv(f"{path}.cv1", x), layer.flag(1, True))
    act = net.declared.activation(f"{path}.act", None)
    joined = _normalised(net, path, {"cv3": (y, 1), "cv2": (x, 1)})
    return net.conv(f"{path}.cv4", net.graph.activate(path, joined, act))


def mix_conv(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """MixConv2d: convolutions of several sizes side by side, in as many groups as divide what they read and give."""
    sizes = layer.integers(1, (1, 3))
    if not sizes or len(layer.arguments) > 4:
        raise layer.error(f"arguments {layer.arguments}: expected channels, sizes, a stride, how channels are shared")
    parts = {f"m.{place}": (x, size) for place, size in enumerate(sizes)}
    joined = _normalised(net, path, parts, max(1, layer.integer(2, 1)), grouped=True)
    return net.graph.activate(path, joined, net.declared.activation(f"{path}.act", SILU))


def _normalised(
    net: Net, path: str, parts: Mapping[str, tuple[Feature, int]], stride: int = 1, *, grouped: bool = False
) -> Feature:
    """Convolutions, each of what it reads and of a size, joined; the batch norm of the whole is folded into them."""
    weights = {name: net.weights.take(f"{path}.{name}.weight", -1, -1, size, size) for name, (_, size) in parts.items()}
    ends = np.cumsum([len(weight) for weight in weights.values()])
    norm = net.weights.norm(f"{path}.bn", int(ends[-1]), net.declared.epsilon(f"{path}.bn", net.epsilon))
    made = []
    for name, gain, offset in zip(parts, *(np.split(values, ends[:-1]) for values in norm), strict=True):
        (x, size), weight = parts[name], weights[name]
        groups = gcd(x.channels, len(weight)) if grouped else 1
        net.declared.convolution(f"{path}.{name}", stride, size // 2, groups)
        kernel = scaled(weight, 0.0, gain, offset)
        made.append(net.graph.conv(f"{path}.{name}", x, kernel, stride=stride, pad=size // 2, groups=groups))
    return net.graph.concat(f"{path}.concat", made)


def _bottlenecks(net: Net, layer: Layer, path: str, x: Feature, shortcut: bool) -> Feature:
    groups = layer.integer(2, 1)
    return net.chain(path, x, layer.repeats, lambda part, y: net.bottleneck(part, y, shortcut, groups))


def c2(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C2: bottlenecks on one half of the channels of one convolution, joined with the other half."""
    first, second = net.halves(path, net.conv(f"{path}.cv1", x))
    first = _bottlenecks(net, layer, path, first, layer.flag(1, True))
    return net.conv(f"{path}.cv2", net.graph.concat(f"{path}.concat", [first, second]))


def c2f(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C2f: every bottleneck's result joined."""
    shortcut, groups = layer.flag(1, False), layer.integer(2, 1)
    return _all_joined(net, layer, path, x, lambda part, y: net.bottleneck(part, y, shortcut, groups))


def _all_joined(net: Net, layer: Layer, path: str, x: Feature, part: Callable[[str, Feature], Feature]) -> Feature:
    """Two halves, and as many parts as the layer repeats, joined."""
    halves = net.halves(path, net.conv(f"{path}.cv1", x))
    return net.joined(path, halves, [f"m.{place}" for place in range(layer.repeats)], part)


def c3k2(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C3k2: C2f whose parts are bottlenecks, C3k, or a bottleneck and attention: the tensors tell which."""
    shortcut, groups = layer.flag(5, True), layer.integer(4, 1)
    return _all_joined(net, layer, path, x, lambda part, y: _c3k2_part(net, part, y, shortcut, groups))


def _c3k2_part(net: Net, path: str, x: Feature, shortcut: bool, groups: int) -> Feature:
    if f"{path}.cv3.conv.weight" in net.weights:
        return net.c3k(path, x, shortcut=shortcut, groups=groups)
    if f"{path}.1.attn.qkv.conv.weight" in net.weights:
        return attention.psa_block(net, f"{path}.1", net.bottleneck(f"{path}.0", x, shortcut, groups))
    return net.bottleneck(path, x, shortcut, groups)


def c2f_cib(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C2fCIB: C2f whose parts are chains of depthwise and 1x1 convolutions."""
    return _all_joined(net, layer, path, x, lambda part, y: _cib(net, part, y, layer.flag(1, False)))


def _cib(net: Net, path: str, x: Feature, shortcut: bool) -> Feature:
    y = net.conv(f"{path}.cv1.1", net.conv(f"{path}.cv1.0", x, groups=x.channels))
    y = net.conv(f"{path}.cv1.3", net.conv(f"{path}.cv1.2", y, groups=y.channels))
    y = net.conv(f"{path}.cv1.4", y, groups=y.channels)
    return net.graph.add(f"{path}.add", x, y) if shortcut and x.channels == y.channels else y


def scdown(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """SCDown: channels first, then a depthwise convolution that strides."""
    y = net.conv(f"{path}.cv1", x)
    return net.conv(f"{path}.cv2", y, max(1, layer.integer(2, 1)), y.channels, activation=LINEAR)


def spp(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """SPP: max pools of growing size, side by side."""
    y = net.conv(f"{path}.cv1", x)
    count = net.weights.sides(f"{path}.cv2.conv.weight")[1] // y.channels - 1
    sizes = layer.integers(1, (5, 9, 13))
    if len(sizes) != count or any(size % 2 == 0 for size in sizes) or list(sizes) != sorted(set(sizes)):
        raise layer.error(f"pool sizes {sizes}: expected {count} odd ones, growing")
    return net.conv(f"{path}.cv2", net.graph.concat(f"{path}.concat", net.pools(path, y, sizes)))


def sppf(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """SPPF: max pools of one size, one after the other; YOLO26 says how many, and activates nothing before them."""
    size, count = layer.integer(1, 5), layer.integer(2, 3)
    y = net.conv(f"{path}.cv1", x, activation=LINEAR if len(layer.arguments) > 2 else None)
    if size % 2 == 0 or net.weights.sides(f"{path}.cv2.conv.weight")[1] != (count + 1) * y.channels:
        raise layer.error(f"arguments {layer.arguments}: expected channels, an odd size, how many, and a shortcut")
    pooled = net.pools(path, y, [place * (size - 1) + 1 for place in range(1, count + 1)])
    z = net.conv(f"{path}.cv2", net.graph.concat(f"{path}.concat", pooled))
    return net.graph.add(f"{path}.add", z, x) if layer.flag(3, False) and x.channels == z.channels else z


def resnet_layer(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """ResNetLayer: ResNet's stem, or a stage of bottleneck blocks whose activations are the model's own."""
    if layer.flag(3, False):
        return net.graph.max_pool(f"{path}.layer.1", net.conv(f"{path}.layer.0", x, 2), 3, 2, 1)
    for place in range(max(1, layer.integer(4, 1))):
        x = _resnet_block(net, f"{path}.layer.{place}", x, max(1, layer.integer(2, 1)) if place == 0 else 1)
    return x


def _resnet_block(net: Net, path: str, x: Feature, stride: int) -> Feature:
    y = net.conv(f"{path}.cv2", net.conv(f"{path}.cv1", x), stride)
    y = net.conv(f"{path}.cv3", y, activation=LINEAR)
    if stride != 1 or x.channels != y.channels:
        x = net.conv(f"{path}.shortcut.0", x, stride, activation=LINEAR)
    return net.graph.activate(path, net.graph.add(f"{path}.add", y, x), RELU)


def concat(net: Net, layer: Layer, inputs: Sequence[Feature]) -> Feature:
    if layer.integer(0, 1) != 1:
        raise layer.error("expected joining along the channels")
    return net.graph.concat(layer.path, inputs)


def nothing(_net: Net, _layer: Layer, _path: str, x: Feature) -> Feature:
    """Identity, and Silence as it was called: what several layers may read the image by."""
    return x


Block = Callable[[Net, Layer, str, Feature], Feature]

# modules that read one layer; the first set takes its repeats itself, the others stand one after the other
REPEATING: dict[str, Block] = {
    "A2C2f": attention.a2c2f,
    "BottleneckCSP": bottleneck_csp,
    "C2": c2,
    "C2PSA": attention.c2psa,
    "C2f": c2f,
    "C2fCIB": c2f_cib,
    "C3": c3,
    "C3Ghost": ghost.c3_ghost,
    "C3TR": attention.c3_tr,
    # C3 whose kernels are no squares
    "C3x": c3,
    "C3k2": c3k2,
}
SINGLE: dict[str, Block] = {
    "AConv": elan.aconv,
    "ADown": elan.adown,
    "Bottleneck": bottleneck,
    "C3SPP": c3_spp,
    "CBLinear": elan.cb_linear,
    "Contract": sides.contract,
    "Conv": conv,
    "ConvTranspose2d": sides.conv_transpose,
    "CrossConv": cross_conv,
    "DWConv": conv,
    "DWConvTranspose2d": sides.conv_transpose,
    "ELAN1": elan.elan,
    "Expand": sides.expand,
    "Focus": focus,
    "GhostBottleneck": ghost.ghost_bottleneck,
    "GhostConv": ghost.ghost_conv,
    "Identity": nothing,
    "MaxPool2d": sides.max_pool,
    "MixConv2d": mix_conv,
    "PSA": attention.psa,
    "RepNCSPELAN4": elan.elan,
    "ResNetLayer": resnet_layer,
    "SCDown": scdown,
    "Silence": nothing,
    "SPP": spp,
    "SPPELAN": elan.spp_elan,
    "SPPF": sppf,
    "Upsample": sides.upsample,
    "ZeroPad2d": sides.zero_pad,
}
# modules that read several
JOINING: dict[str, Callable[[Net, Layer, Sequence[Feature]], Feature]] = {"Concat": concat, "CBFuse": elan.cb_fuse}


def block(net: Net, layer: Layer, inputs: Sequence[Feature]) -> Feature:
    """The layer's output from the outputs it reads."""
    if layer.module in JOINING:
        return _bounded(layer, JOINING[layer.module](net, layer, inputs))
    if layer.module not in {**REPEATING, **SINGLE}:
        raise ExportError(
            f"layer {layer.index}: module {layer.module} is not one of those that are built before a head",
            hint=OTHER_WAY,
        )
    if len(inputs) != 1:
        raise layer.error(f"reads {len(inputs)} layers, expected one")
    x = inputs[0]
    if layer.module in REPEATING:
        return REPEATING[layer.module](net, layer, layer.path, x)
    for place in range(layer.repeats):
        path = f"{layer.path}.{place}" if layer.repeats > 1 else layer.path
        x = _bounded(layer, SINGLE[layer.module](net, layer, path, x))
    return x


def _bounded(layer: Layer, x: Feature) -> Feature:
    """What a YAML enlarges again and again is in no tensor."""
    if max(x.channels, x.height, x.width) > MAX_NUMBER:
        raise layer.error(f"gives more than {MAX_NUMBER} channels, rows or columns")
    return x
