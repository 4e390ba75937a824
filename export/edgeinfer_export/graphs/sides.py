"""Layers that change the sides of a feature map: pools, padding, what enlarges it, what makes channels of its cells."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer_export.graphs.ops import Kernel

if TYPE_CHECKING:
    from edgeinfer_export.graphs.net import Net
    from edgeinfer_export.graphs.ops import Feature
    from edgeinfer_export.graphs.plan import Layer

# times a map's sides that one layer may give or take
MAX_FACTOR = 8


def upsample(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """nn.Upsample: size (None), factor, mode (nearest)."""
    size, _, mode = (*layer.arguments, None, None, None)[:3]
    factor = layer.integer(1, 0)
    if size is not None or mode not in ("nearest", None) or not 1 <= factor <= MAX_FACTOR:
        raise layer.error(f"arguments {layer.arguments}: expected None, a whole factor up to {MAX_FACTOR}, nearest")
    return net.graph.upsample(path, x, factor)


def max_pool(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    size = layer.integer(0, 0)
    stride, pad = layer.integer(1, size), layer.integer(2, 0)
    if not 1 <= size <= min(x.height, x.width) or stride < 1 or 2 * pad > size or len(layer.arguments) > 3:
        raise layer.error(f"arguments {layer.arguments}: expected kernel, stride, padding")
    return net.graph.max_pool(path, x, size, stride, pad)


def zero_pad(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """nn.ZeroPad2d: left, right, above, below; or one number for all."""
    given = layer.arguments[0] if layer.arguments else None
    pads = layer.integers(0, ()) if isinstance(given, tuple) else (layer.integer(0, 0),) * 4
    if len(pads) != 4 or len(layer.arguments) != 1 or max(pads) > min(x.height, x.width):
        raise layer.error(f"arguments {layer.arguments}: expected cells on the left, right, above, below, up to a side")
    net.declared.check(path, padding=list(pads))
    left, right, above, below = pads
    return net.graph.pad(path, x, (above, left, below, right))


def conv_transpose(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """nn.ConvTranspose2d and DWConvTranspose2d: channels, kernel, stride, padding."""
    size, stride, pad = layer.integer(1, 1), layer.integer(2, 1), layer.integer(3, 0)
    if not 1 <= stride <= MAX_FACTOR or 2 * pad > size or len(layer.arguments) > 4:
        raise layer.error(
            f"arguments {layer.arguments}: expected channels, kernel, a stride up to {MAX_FACTOR}, padding"
        )
    weight = net.weights.take(f"{path}.weight", x.channels, -1, size, size)
    outputs = weight.shape[1]
    bias = net.weights.take(f"{path}.bias", -1) if f"{path}.bias" in net.weights else np.zeros(outputs)
    groups = gcd(x.channels, len(bias)) if layer.module == "DWConvTranspose2d" else 1
    if len(bias) != groups * outputs:
        raise layer.error(f"tensor {path}.weight gives {groups} x {outputs} channels, its bias has {len(bias)}")
    net.declared.check(path, stride=stride, padding=pad, output_padding=0, groups=groups, dilation=1)
    kernel = Kernel(weight.astype(np.float32), bias.astype(np.float32))
    return net.graph.conv_transpose(path, x, kernel, stride=stride, pad=pad, groups=groups)


def contract(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """Contract: squares of cells become channels."""
    gain = _gain(layer)
    if x.height % gain or x.width % gain:
        raise layer.error(f"{x.height}x{x.width} cells are not to be divided by {gain}")
    return net.graph.into_channels(path, x, gain)


def expand(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """Expand: the reverse."""
    gain = _gain(layer)
    if x.channels % gain**2:
        raise layer.error(f"{x.channels} channels are not to be divided by {gain}x{gain}")
    return net.graph.into_cells(path, x, gain)


def _gain(layer: Layer) -> int:
    gain = layer.integer(0, 2)
    if not 2 <= gain <= MAX_FACTOR or len(layer.arguments) > 1:
        raise layer.error(f"arguments {layer.arguments}: expected a whole factor from 2 to {MAX_FACTOR}")
    return gain
