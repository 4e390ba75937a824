"""Attention over the cells of a feature map: what YOLOv10 and later have in their backbone, or behind it.

In the graph it is three parts of one convolution, two matrix products and a softmax between them, for any batch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import DAMAGED, LINEAR, Feature, Graph, Kernel
from edgeinfer_export.graphs.weights import scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer_export.graphs.net import Net
    from edgeinfer_export.graphs.ops import Array
    from edgeinfer_export.graphs.plan import Layer

# channels of a head, where there are as many, and what they are many times of a key's
HEAD, NARROWER = 64, 2
# the same of area attention, and how many blocks of it follow each other
AREA_HEAD, AREA_BLOCKS = 32, 2
# heads of a transformer's attention
TRANSFORMER_HEADS = 4


def c2psa(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C2PSA: attention on the second half of the channels, joined with the first."""
    return _on_half(net, path, x, [f"{path}.m.{place}" for place in range(layer.repeats)])


def psa(net: Net, _layer: Layer, path: str, x: Feature) -> Feature:
    """PSA: C2PSA of one block, which is the layer itself."""
    return _on_half(net, path, x, [path])


def _on_half(net: Net, path: str, x: Feature, blocks: Sequence[str]) -> Feature:
    first, second = net.halves(path, net.conv(f"{path}.cv1", x))
    for block in blocks:
        second = psa_block(net, block, second)
    return net.conv(f"{path}.cv2", net.graph.concat(f"{path}.concat", [first, second]))


def psa_block(net: Net, path: str, x: Feature) -> Feature:
    """PSABlock: attention, then two convolutions, each added to what it reads."""
    x = net.graph.add(f"{path}.attn.shortcut", x, _attention(net, f"{path}.attn", x, HEAD, narrower=NARROWER))
    return _fed_forward(net, f"{path}.ffn", x)


def _fed_forward(net: Net, path: str, x: Feature) -> Feature:
    y = net.conv(f"{path}.1", net.conv(f"{path}.0", x), activation=LINEAR)
    return net.graph.add(f"{path}.shortcut", x, y)


def a2c2f(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """A2C2f: blocks of area attention, or C3k, joined; large models add that to `x`, with a weight for each channel."""
    y = net.conv(f"{path}.cv1", x)
    places = [f"m.{place}" for place in range(layer.repeats)]
    y = net.joined(path, [y], places, lambda part, z: _a2c2f_part(net, layer, part, z))
    if f"{path}.gamma" not in net.weights:
        return y
    gamma = net.weights.take(f"{path}.gamma", y.channels).astype(np.float32).reshape(1, -1, 1, 1)
    weighed = net.graph.node("Mul", f"{path}.weighed", y.name, net.graph.constant(f"{path}.gamma", gamma))
    return net.graph.add(f"{path}.shortcut", x, dataclasses.replace(y, name=weighed))


def _a2c2f_part(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    if f"{path}.cv3.conv.weight" in net.weights:
        return net.c3k(path, x, shortcut=layer.flag(7, True), groups=layer.integer(6, 1))
    areas = max(layer.integer(2, 1), 1)
    if x.height * x.width % areas:
        raise layer.error(f"{x.height}x{x.width} cells are not to be divided into {areas} areas")
    for block in (f"{path}.{place}" for place in range(AREA_BLOCKS)):
        seen = _attention(net, f"{block}.attn", x, AREA_HEAD, areas=areas)
        x = _fed_forward(net, f"{block}.mlp", net.graph.add(f"{block}.attn.shortcut", x, seen))
    return x


def c3_tr(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C3TR: C3 with a transformer in the place of its bottlenecks."""
    return net.csp(path, x, lambda y: _transformer(net, layer, f"{path}.m", y))


def _transformer(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """TransformerBlock: a linear layer for positions, attention, two linear layers, each added to what it reads.

    Nothing is activated or normalised.
    """
    if x.channels % TRANSFORMER_HEADS:
        raise layer.error(f"{x.channels} channels are not to be divided among {TRANSFORMER_HEADS} heads")
    positions = net.graph.conv(f"{path}.linear", x, net.weights.linear(f"{path}.linear", x.channels))
    x = net.graph.add(f"{path}.linear.shortcut", x, positions)
    for block in (f"{path}.tr.{place}" for place in range(layer.repeats)):
        x = net.graph.add(f"{block}.ma.shortcut", x, _multihead(net, block, x))
        first, second = (_square(net, f"{block}.{name}.weight", x) for name in ("fc1", "fc2"))
        fed = net.graph.conv(f"{block}.fc", x, _cellwise(second @ first, 0.0))
        x = net.graph.add(f"{block}.fc.shortcut", x, fed)
    return x


def _multihead(net: Net, path: str, x: Feature) -> Feature:
    """PyTorch's MultiheadAttention; its linear layers and those of queries, keys and values before it are one."""
    net.declared.check(f"{path}.ma", num_heads=TRANSFORMER_HEADS)
    own = net.weights.take(f"{path}.ma.in_proj_weight", 3 * x.channels, x.channels)
    rows = [part @ _square(net, f"{path}.{name}.weight", x) for name, part in zip("qkv", np.split(own, 3), strict=True)]
    bias = net.weights.take(f"{path}.ma.in_proj_bias", 3 * x.channels)
    y = net.graph.conv(f"{path}.ma.qkv", x, _cellwise(np.concatenate(rows), bias))
    names = net.graph.split(f"{path}.ma.split", y.name, [x.channels] * 3)
    side = x.channels // TRANSFORMER_HEADS
    seen = _weighed(net.graph, f"{path}.ma", x, names, (TRANSFORMER_HEADS, side, side))
    return net.graph.conv(f"{path}.ma.out_proj", seen, net.weights.linear(f"{path}.ma.out_proj", x.channels))


def _square(net: Net, name: str, x: Feature) -> Array:
    return net.weights.take(name, x.channels, x.channels)


def _cellwise(weight: Array, bias: Array | float) -> Kernel:
    """A linear layer (out, in) for each cell."""
    return scaled(weight[:, :, None, None], bias)


def _attention(net: Net, path: str, x: Feature, head: int, *, narrower: int = 1, areas: int = 1) -> Feature:
    """Each cell a mean of its area's values, weighed by its query and their keys, and a depthwise one of its near.

    `head`: channels of one; `narrower`: how many times a key's these are; `areas`: parts of equally many cells, row by
    row, that do not see each other.
    """
    heads = max(x.channels // head, 1)
    value = x.channels // heads
    key = value // narrower
    net.declared.check(path, num_heads=heads, area=areas)
    y = net.graph.conv(f"{path}.qkv.conv", x, _by_kind(net, f"{path}.qkv", heads, key, value))
    y = net.act(f"{path}.qkv", y, LINEAR)
    names = net.graph.split(f"{path}.split", y.name, [heads * key, heads * key, heads * value])
    seen = _weighed(net.graph, path, x, names, (heads, key, value), areas=areas)
    near = net.conv(f"{path}.pe", dataclasses.replace(x, name=names[2]), groups=x.channels, activation=LINEAR)
    return net.conv(f"{path}.proj", net.graph.add(f"{path}.add", seen, near), activation=LINEAR)


def _weighed(
    graph: Graph, path: str, x: Feature, names: Sequence[str], sides: tuple[int, int, int], *, areas: int = 1
) -> Feature:
    """As `x`: by head, means of values. `names`: of queries, keys and values; `sides`: heads, a key's, a value's."""
    heads, key, value = sides
    cells = x.height * x.width // areas
    query, keys, values = (
        _by_head(graph, f"{path}.{kind}", name, (heads, side, areas, cells))
        for kind, name, side in zip(("query", "key", "value"), names, (key, key, value), strict=True)
    )
    mean = _attended(graph, path, query, keys, values, gain=key**-0.5)
    if areas > 1:
        mean = _swapped(graph, f"{path}.mean", mean, (heads, areas, value, cells))
    shape = graph.integers(f"{path}.joined.shape", 0, x.channels, x.height, x.width)
    return dataclasses.replace(x, name=graph.node("Reshape", f"{path}.joined", mean, shape))


def _attended(graph: Graph, path: str, query: str, keys: str, values: str, *, gain: float) -> str:
    """(n, heads, value, cells): softmax(gain * query^T keys) over the keys, and by it the mean of the values.

    The gain is no part of the convolution before: in 8 bits, queries share a scale with keys and values.
    """
    constant = graph.constant(f"{path}.gain", np.array(gain, np.float32))
    scaled = graph.node("Mul", f"{path}.scaled", _turned(graph, query), constant)
    weights = graph.node("Softmax", f"{path}.softmax", graph.node("MatMul", f"{path}.product", scaled, keys), axis=3)
    return _turned(graph, graph.node("MatMul", f"{path}.mean", weights, _turned(graph, values)))


def _by_kind(net: Net, path: str, heads: int, key: int, value: int) -> Kernel:
    """The convolution to (heads, query key value) with all queries first, then all keys, then all values."""
    kernel = net.kernel(path)
    net.declared.convolution(f"{path}.conv", 1, 0, 1)
    width = 2 * key + value
    if kernel.weight.shape != (heads * width, heads * value, 1, 1) or not key:
        raise ExportError(
            f"tensor {path}.conv.weight is {kernel.weight.shape}, which does not fit {heads} heads of {value} channels",
            hint=DAMAGED,
        )
    rows = np.split(np.arange(heads * width).reshape(heads, width), [key, 2 * key], axis=1)
    order = np.concatenate([part.ravel() for part in rows])
    return Kernel(kernel.weight[order], kernel.bias[order])


def _by_head(graph: Graph, path: str, name: str, shape: tuple[int, int, int, int]) -> str:
    """(n, heads * areas, side, cells of an area) from the `shape` (heads, side, areas, cells): each area has heads."""
    heads, side, areas, cells = shape
    if areas > 1:
        name = _swapped(graph, path, name, shape)
    return graph.node("Reshape", path, name, graph.integers(f"{path}.shape", 0, heads * areas, side, cells))


def _swapped(graph: Graph, path: str, name: str, shape: tuple[int, int, int, int]) -> str:
    """(n, a, c, b, d) of what has the `shape` (a, b, c, d)."""
    apart = graph.node("Reshape", f"{path}.apart", name, graph.integers(f"{path}.apart.shape", 0, *shape))
    return graph.node("Transpose", f"{path}.swapped", apart, perm=[0, 1, 3, 2, 4])


def _turned(graph: Graph, name: str) -> str:
    return graph.node("Transpose", f"{name}.turned", name, perm=[0, 1, 3, 2])
