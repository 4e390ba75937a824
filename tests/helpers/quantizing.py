"""Models, pictures and ranges that the tests of int8 graphs share, and what such a graph holds."""

import numpy as np
from onnx import numpy_helper

from edgeinfer_export import calibration, graphs, quantize
from helpers import seeded


def pictures(count, size, seed=0):
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return [np.kron(one, np.ones((size.height // 6 + 1, size.width // 6 + 1, 1), np.uint8)) for one in coarse]


def ranged(one, count=4, method="minmax"):
    seen = calibration.observe(
        one.model, one.spec, quantize.points(one.model), pictures(count, one.spec.preprocess.size)
    )
    return {name: histogram.range(method) for name, histogram in seen.items()}


def built(name):
    golden = seeded.Golden(name)
    return graphs.build(golden.checkpoint(), size=golden.size)


def makers(model):
    return {name: node for node in model.graph.node for name in node.output}


def constants(model):
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
