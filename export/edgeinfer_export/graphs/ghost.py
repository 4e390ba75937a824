"""The blocks of GhostNet: half of the channels are convolved, and the other half made of them cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer_export.graphs.ops import LINEAR

if TYPE_CHECKING:
    from edgeinfer_export.graphs.net import Net
    from edgeinfer_export.graphs.ops import Activation, Feature
    from edgeinfer_export.graphs.plan import Layer


def ghost_conv(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """GhostConv: channels, kernel, stride, groups."""
    if len(layer.arguments) > 4:
        raise layer.error(f"arguments {layer.arguments}: activations are not supported")
    return _conv(net, path, x, max(1, layer.integer(2, 1)), layer.integer(3, 1))


def ghost_bottleneck(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """GhostBottleneck: channels, kernel, stride."""
    stride = layer.integer(2, 1)
    if stride not in (1, 2):
        raise layer.error(f"stride {stride} is not 1 or 2")
    return _bottleneck(net, path, x, stride)


def c3_ghost(net: Net, layer: Layer, path: str, x: Feature) -> Feature:
    """C3Ghost: C3 of ghost bottlenecks."""

    def inner(y: Feature) -> Feature:
        return net.chain(path, y, layer.repeats, lambda part, z: _bottleneck(net, part, z))

    return net.csp(path, x, inner)


def _bottleneck(net: Net, path: str, x: Feature, stride: int = 1) -> Feature:
    """Two ghost convolutions added to what they read; with a stride, depthwise ones stand between and beside them."""
    y = _conv(net, f"{path}.conv.0", x)
    if stride > 1:
        y = net.conv(f"{path}.conv.1", y, stride, y.channels, activation=LINEAR)
        x = net.conv(f"{path}.shortcut.0", x, stride, x.channels, activation=LINEAR)
        x = net.conv(f"{path}.shortcut.1", x, activation=LINEAR)
    return net.graph.add(f"{path}.add", _conv(net, f"{path}.conv.2", y, activation=LINEAR), x)


def _conv(
    net: Net, path: str, x: Feature, stride: int = 1, groups: int = 1, *, activation: Activation | None = None
) -> Feature:
    y = net.conv(f"{path}.cv1", x, stride, groups, activation=activation)
    near = net.conv(f"{path}.cv2", y, groups=y.channels, activation=activation)
    return net.graph.concat(path, [y, near])
