"""A ResNet-50 backbone made from a seed and a few pictures, by whose pooled features a linear head can tell objects.

Nothing is trained. The stem's filters are edges, lines and spots of colour; all others are random, and each batch norm
gets the statistics that its convolution has on the pictures. What keeps random filters from averaging a picture away:
they are close to linear (`OPEN`), most blocks add little to what passes them by (`FAINT`), and 3x3 filters look where
they should: down to a map of 4x4 they blur what they stride over; then each sees one pixel, so that places turn into
channels.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

SIDE = 64  # pixels of the input: the last stage's map is 2x2
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
OPEN = 2.0  # batch norm's offset, in deviations: ReLU cuts little off
FAINT = 0.1
NOISE = 0.03  # beside where a filter looks
EPSILON = 1e-5


def _at(*places):
    """Windows (len(places), 3, 3) that see one pixel each."""
    windows = np.zeros((len(places), 3, 3), np.float32)
    for window, place in zip(windows, places, strict=True):
        window[place] = 1
    return windows


BLUR = np.outer((1, 2, 1), (1, 2, 1)).astype(np.float32)[None] / 6
CENTRE = _at((1, 1))
# a 2x2 cell, from a window of stride 2 centred on its first pixel; the others of a 2x2 map, from each of its pixels
CELL, CORNERS = _at((1, 1), (1, 2), (2, 1), (2, 2)), _at((0, 0), (0, 2), (2, 0), (2, 2))


def tensors(pictures, seed=0):
    """pictures (n, 3, 64, 64) float32, as the model gets them -> tensors, named as torchvision's, without a head."""
    return _Growth(seed).grow(pictures)


class _Growth:
    def __init__(self, seed):
        self.random, self.tensors = np.random.default_rng(seed), {}

    def grow(self, x):
        x = _relu(self.conv("conv1", "bn1", x, stem(self.random), 2, offset=0))
        x = _run("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        for stage, (blocks, width) in enumerate(STAGES, 1):
            for block in range(blocks):
                x = self.block(stage, block, x, width)
        return self.tensors

    def block(self, stage, block, x, width):
        path, first, last = f"layer{stage}.{block}", block == 0, stage == len(STAGES)
        stride = 2 if first and stage > 1 else 1
        look = (CELL if first else CORNERS) if last else BLUR if stride == 2 else CENTRE
        y = _relu(self.conv(f"{path}.conv1", f"{path}.bn1", x, self.filters(width, x.shape[1])))
        y = _relu(self.conv(f"{path}.conv2", f"{path}.bn2", y, self.filters(width, width, look), stride))
        gain = 1.0 if first or last else FAINT
        offset = OPEN if first else 0
        y = self.conv(f"{path}.conv3", f"{path}.bn3", y, self.filters(4 * width, width), gain=gain, offset=offset)
        if first:
            kernel = self.filters(4 * width, x.shape[1])
            # a shortcut that strides drops three pixels of four
            gain = FAINT if stride == 2 else 1.0
            x = self.conv(f"{path}.downsample.0", f"{path}.downsample.1", x, kernel, stride, gain=gain, offset=0)
        return _relu(x + y)

    def filters(self, given, taken, look=None):
        """Random ones (given, taken, 1, 1), or (given, taken, 3, 3) that look through the windows `look` in turns."""
        kernel = self.random.standard_normal((given, taken, 1, 1), np.float32) / np.float32(np.sqrt(taken))
        if look is None:
            return kernel
        windows = look[np.arange(given) % len(look)][:, None]
        noise = self.random.standard_normal((given, taken, 3, 3), np.float32) / np.float32(np.sqrt(taken))
        return kernel * windows + np.float32(NOISE) * noise

    def conv(self, path, norm, x, kernel, stride=1, gain=1.0, offset=OPEN):
        """Convolve, and have batch norm bring every channel to mean `offset` and deviation `gain`."""
        y = _run("Conv", x, kernel, strides=[stride] * 2, pads=[kernel.shape[2] // 2] * 4)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3)) + np.float32(EPSILON)
        each = {"weight": np.full_like(mean, gain), "bias": np.full_like(mean, offset)}
        each |= {"running_mean": mean, "running_var": variance}
        self.tensors[f"{path}.weight"] = kernel
        self.tensors.update({f"{norm}.{name}": value for name, value in each.items()})
        scale = np.float32(gain) / np.sqrt(variance + np.float32(EPSILON))
        return (y - mean[:, None, None]) * scale[:, None, None] + np.float32(offset)


def stem(random):
    """64 filters (3, 7, 7): edges in grey and in colour, lines, and spots of random colours."""
    y, x = np.mgrid[-3:4, -3:4].astype(np.float32)
    window = np.exp(-(x * x + y * y) / 6.5)
    grey, red_green, blue_yellow = np.array([[0.58, 0.58, 0.58], [0.71, -0.71, 0], [0.41, 0.41, -0.82]])
    filters = []
    for colour, turns in ((grey, 8), (red_green, 4), (blue_yellow, 4)):
        for across in _across(x, y, turns):
            edge = np.sin(1.1 * across) * window
            filters += [sign * colour[:, None, None] * edge for sign in (1, -1)]
    for across in _across(x, y, 6):
        line = np.cos(1.6 * across) * window
        line -= window * line.sum() / window.sum()
        filters += [sign * grey[:, None, None] * line for sign in (1, -1)]
    spots = random.standard_normal((64 - len(filters), 3, 1, 1)) * window
    kernel = np.array([*filters, *spots], np.float32)
    return kernel / np.linalg.norm(kernel.reshape(64, -1), axis=1)[:, None, None, None]


def _across(x, y, turns):
    """Distances from a line through the middle, turned to so many angles."""
    return [x * np.cos(angle) + y * np.sin(angle) for angle in np.arange(turns) * np.pi / turns]


def _relu(x):
    return np.maximum(x, 0)


def _run(kind, x, *weights, **attributes):
    """One operator, by ONNX Runtime."""
    names = [f"w{place}" for place in range(len(weights))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    ends = [helper.make_tensor_value_info("x", 1, x.shape)], [helper.make_tensor_value_info("y", 1, None)]
    held = [numpy_helper.from_array(value, name) for name, value in zip(names, weights, strict=True)]
    graph = helper.make_graph([node], kind, *ends, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]
