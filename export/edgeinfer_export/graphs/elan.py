"""The blocks of YOLOv9: parts that read each other and are all joined, and a second backbone that reads the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer_export.graphs.ops import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer_export.graphs.net import Net
    from edgeinfer_export.graphs.plan import Layer


@dataclass(frozen=True)
class Parts(Feature):
    """What CBLinear gives: channels that are read apart."""

    parts: tuple[Feature, ...]


def elan(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """RepNCSPELAN4, and ELAN1 of plain convolutions: two halves and two parts."""
    halves = net.halves(path, net.conv(f"{path}.cv1", x))
    return net.joined(path, halves, ["cv2", "cv3"], lambda part, y: _part(net, layer, part, y), last="cv4")


def _part(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    if f"{path}.conv.weight" in net.weights:
        return net.conv(path, x)
    return net.conv(f"{path}.1", net.c3(f"{path}.0", x, repeats=layer.integer(3, 1), shortcut=True))


def aconv(net: Net, _layer: Layer, path: str, x: Feature) -> Feature:
    """AConv: the mean of each four cells that meet, then a convolution that strides."""
    return net.conv(f"{path}.cv1", net.graph.average_pool(f"{path}.mean", x, 2, stride=1), 2)


def adown(net: Net, _layer: Layer, path: str, x: Feature) -> Feature:
    """ADown: the same means, half of whose channels are strided over by a convolution, half by a max pool."""
    first, second = net.halves(path, net.graph.average_pool(f"{path}.mean", x, 2, stride=1))
    pooled = net.graph.max_pool(f"{path}.pool", second, 3, 2, 1)
    return net.graph.concat(path, [net.conv(f"{path}.cv1", first, 2), net.conv(f"{path}.cv2", pooled)])


def spp_elan(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """SPPELAN: three max pools of one size, one after the other, joined."""
    wider = layer.integer(2, 5) - 1
    pooled = net.pools(path, net.conv(f"{path}.cv1", x), [place * wider + 1 for place in (1, 2, 3)])
    return net.joined(path, pooled, [], net.conv, last="cv5")


def cb_linear(net: Net, layer: Layer, path: str, x: Feature) -> Parts:
    """CBLinear: a convolution whose channels are for several readers."""
    kernel, widths = net.weights.kernel(f"{path}.conv"), layer.integers(0, ())
    pad = kernel.weight.shape[2] // 2
    net.declared.convolution(f"{path}.conv", 1, pad, 1)
    y = net.graph.conv(f"{path}.conv", x, kernel, pad=pad)
    if sum(widths) != y.channels or 0 in widths or len(layer.arguments) > 1:
        raise layer.error(f"arguments {layer.arguments}: expected the widths of {y.channels} channels' parts")
    names = net.graph.split(f"{path}.split", y.name, widths)
    parts = (Feature(name, width, y.height, y.width) for name, width in zip(names, widths, strict=True))
    return Parts(y.name, y.channels, y.height, y.width, tuple(parts))


def cb_fuse(net: Net, layer: Layer, inputs: Sequence[Feature]) -> Feature:
    """CBFuse: the last of what it reads, and one part of each of the others, as large as that, added."""
    *others, x = inputs
    places = layer.integers(0, ())
    if len(places) != len(others):
        raise layer.error(f"chooses of {len(places)} layers, and reads {len(others)} before the last")
    for index, (place, other) in enumerate(zip(places, others, strict=True)):
        if not isinstance(other, Parts) or place >= len(other.parts):
            raise layer.error(f"layer {layer.sources[index]} has no part {place}")
        part, path = other.parts[place], f"{layer.path}.{index}"
        factor = max(x.height // part.height, 1)
        x = net.graph.add(path, x, net.graph.upsample(f"{path}.larger", part, factor) if factor > 1 else part)
    return x
