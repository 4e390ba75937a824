"""Enlargement by copies of pixels: the same numbers as Resize gives, where it does no more than that."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeinfer_export import graphs, nearest, quantize
from helpers import seeded

REPEATING = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resizing(shape, scales, kind=TensorProto.FLOAT, opset=17, **how):
    """A graph of one Resize; a side in `shape` may be a name."""
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], "enlarge", **how)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [f"side{place}" for place in range(len(shape))])],
        [numpy_helper.from_array(np.array(scales, np.float32), "scales")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ran(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 5)] * 4),
    factors=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=st.sampled_from(["float32", "uint8", "int8"]),
    named=st.booleans(),
)
def test_copies_are_what_resize_gives(sides, factors, dtype, named):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = resizing(("batch", *sides[1:]) if named else sides, [1, 1, *factors], kind, **REPEATING)
    x = np.random.default_rng(0).integers(0, 100, sides).astype(dtype)
    expected = ran(model, x)
    nearest.copied(model, {"y"})
    onnx.checker.check_model(model, full_check=True)
    assert "Resize" not in {node.op_type for node in model.graph.node}
    assert "scales" not in {one.name for one in model.graph.initializer}
    np.testing.assert_array_equal(ran(model, x), expected)


@pytest.mark.parametrize(
    ("shape", "scales", "how"),
    [
        ((1, 3, 4, 4), [1, 1, 2, 2], {**REPEATING, "mode": "linear"}),
        ((1, 3, 4, 4), [1, 1, 2, 2], {**REPEATING, "nearest_mode": "ceil"}),
        ((1, 3, 4, 4), [1, 1, 2, 2], {"mode": "nearest"}),
        ((1, 3, 4, 4), [1, 1, 1.5, 2], REPEATING),
        ((1, 3, 4, 4), [1, 1, 0.5, 1], REPEATING),
        ((1, 3, 4, 4), [1, 2, 2, 2], REPEATING),
        ((1, 3, "height", 4), [1, 1, 2, 2], REPEATING),
        ((3, 4, 4), [1, 2, 2], REPEATING),
        ((1, 3, 4, 4), [1, 1, 2, 2], {**REPEATING, "axes": [2, 3, 0, 1], "opset": 18}),
    ],
)
def test_what_is_more_than_copying_stays(shape, scales, how):
    model = resizing(shape, scales, **how)
    before = model.SerializeToString(deterministic=True)
    nearest.copied(model, {"y"})
    assert model.SerializeToString(deterministic=True) == before


def test_what_is_not_asked_for_stays():
    model = resizing((1, 3, 4, 4), [1, 1, 2, 2], **REPEATING)
    nearest.copied(model, {"x"})
    assert [node.op_type for node in model.graph.node] == ["Resize"]


def test_a_detector_for_cpus_is_enlarged_by_copies_and_one_for_tensorrt_is_not():
    golden = seeded.Golden("yolov5")
    one = graphs.build(golden.checkpoint(), size=golden.size)
    points = quantize.points(one.model)
    wide = {name: type("Range", (), {"low": -1.0, "high": 1.0, "means": ()})() for name in points}
    kinds = {
        flavor: Counter(node.op_type for node in quantize.quantize(one.model, wide, flavor).graph.node)
        for flavor in quantize.FLAVORS
    }
    assert (kinds["trt"]["Resize"], kinds["trt"]["Expand"]) == (2, 0)
    assert (kinds["cpu"]["Resize"], kinds["cpu"]["Expand"]) == (0, 2)
