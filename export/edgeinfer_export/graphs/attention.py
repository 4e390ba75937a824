"""Attention over the cells of a feature map: what YOLO11 and later have behind their backbone.

In the graph it is three parts of one convolution, two matrix products and a softmax between them, for any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import DAMAGED, LINEAR, Feature, Graph, Kernel
from edgeinfer_export.graphs.plan import OTHER_WAY, Layer
from edgeinfer_export.graphs.weights import scaled

if TYPE_CHECKING:
    from edgeinfer_export.graphs.blocks import Net

# channels of a head, where there are as many
HEAD = 64


def c2psa(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C2PSA: attention on the second half of the channels, joined with the first."""
    first, second = net.halves(path, net.conv(f"{path}.cv1", x))
    for place in range(layer.repeats):
        second = psa_block(net, f"{path}.m.{place}", second)
    return net.conv(f"{path}.cv2", net.graph.concat(f"{path}.concat", [first, second]))


def psa_block(net: Net, path: str, x: Feature) -> Feature:
    """PSABlock: attention, then two convolutions, each added to what it reads."""
    x = net.graph.add(f"{path}.add", x, _attention(net, f"{path}.attn", x))
    y = net.conv(f"{path}.ffn.1", net.conv(f"{path}.ffn.0", x), activation=LINEAR)
    return net.graph.add(f"{path}.ffn.add", x, y)


def _attention(net: Net, path: str, x: Feature) -> Feature:
    """Attention: each cell a mean of all cells' values, weighed by its query and their keys, and a depthwise one."""
    heads = max(x.channels // HEAD, 1)
    value = x.channels // heads
    key = value // 2
    net.declared.check(path, num_heads=heads)
    y = net.graph.conv(f"{path}.qkv.conv", x, _by_kind(net, f"{path}.qkv", heads, key, value))
    names = net.graph.split(f"{path}.split", y.name, 1, [heads * key, heads * key, heads * value])
    query, keys, values = (
        _by_head(net.graph, f"{path}.{kind}", name, heads, side, x.height * x.width)
        for kind, name, side in zip(("query", "key", "value"), names, (key, key, value), strict=True)
    )
    weighed = net.graph.node("MatMul", f"{path}.product", _turned(net.graph, query), keys)
    weights = net.graph.node("Softmax", f"{path}.softmax", weighed, axis=3)
    mean = _turned(net.graph, net.graph.node("MatMul", f"{path}.mean", weights, _turned(net.graph, values)))
    shape = net.graph.integers(f"{path}.joined.shape", 0, x.channels, x.height, x.width)
    seen = Feature(net.graph.node("Reshape", f"{path}.joined", mean, shape), x.channels, x.height, x.width)
    near = net.conv(
        f"{path}.pe", Feature(names[2], x.channels, x.height, x.width), groups=x.channels, activation=LINEAR
    )
    return net.conv(f"{path}.proj", net.graph.add(f"{path}.add", seen, near), activation=LINEAR)


def _by_kind(net: Net, path: str, heads: int, key: int, value: int) -> Kernel:
    """The convolution (heads, query key value) with all queries first, then all keys; queries scaled by key^-0.5."""
    kernel = net.kernel(path)
    net.declared.check(f"{path}.conv", stride=1, padding=0, groups=1)
    if net.declared.activation(f"{path}.act", LINEAR) != LINEAR:
        raise ExportError(f"{path} has an activation, where attention has none", hint=OTHER_WAY)
    width = 2 * key + value
    if kernel.weight.shape != (heads * width, heads * value, 1, 1) or not key:
        raise ExportError(
            f"tensor {path}.conv.weight is {kernel.weight.shape}, which does not fit {heads} heads of {value} channels",
            hint=DAMAGED,
        )
    rows = np.split(np.arange(heads * width).reshape(heads, width), [key, 2 * key], axis=1)
    order = np.concatenate([part.ravel() for part in rows])
    gain = np.where(np.arange(heads * width) < heads * key, key**-0.5, 1.0)
    return scaled(kernel.weight[order], kernel.bias[order], gain)


def _by_head(graph: Graph, path: str, name: str, *shape: int) -> str:
    """(n, heads, side, cells)."""
    return graph.node("Reshape", path, name, graph.integers(f"{path}.shape", 0, *shape))


def _turned(graph: Graph, name: str) -> str:
    return graph.node("Transpose", f"{name}.turned", name, perm=[0, 1, 3, 2])
