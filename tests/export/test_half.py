"""float16 graphs: near float32, strongly typed, the same bytes every time, and nothing lost that half cannot hold."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch
from edgeinfer_export import graphs, onnxgraph
from edgeinfer_export.compile import Options, compile_onnx
from edgeinfer_export.precision import element_types, inferred, title, to_half
from helpers import fullsize, graphmodels, seeded

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
VARIANTS = {
    "runtime": graphs.Variant(),
    "frames": graphs.Variant(frames="bgr"),
    "nms": graphs.Variant(nms=True, score=0.2),
}


def built(name, variant="runtime"):
    golden = seeded.Golden(name)
    one = graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 4))
    return graphs.vary(one, VARIANTS[variant]), golden


def fed(one, golden):
    value = one.spec.inputs[0]
    if value.dtype == "float32":
        return {value.name: golden.images}
    return {value.name: (golden.images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)}


def small(nodes, constants, shape=(1, 4)):
    """A model from `x` to `y`, both float32 of `shape`."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "edgeinfer"
    return model


@pytest.mark.parametrize(
    "name",
    [
        *("yolov3-tiny", "yolov5", "yolov5-transformer", "yolov5-unused", "yolov5u", "yolov6", "yolov8-ghost"),
        *("yolov9e", "yolo11", "yolo12", "yolov5-resnet", "resnet-bottleneck"),
    ],
)
@pytest.mark.parametrize("variant", ["runtime", "frames"])
def test_float16_is_near_float32(name, variant):
    one, golden = built(name, variant)
    half = to_half(one.model)

    for before, after in zip(*(run.values() for run in both(one, half, golden)), strict=True):
        assert after.dtype == np.float32
        assert np.linalg.norm(after - before) <= 3e-3 * np.linalg.norm(before)
    assert half.clamped == 0
    assert onnxgraph.facts_of(half.model) == onnxgraph.facts_of(one.model) != {}


def both(one, half, golden):
    return [graphmodels.run(model, **fed(one, golden)) for model in (one.model, half.model)]


def test_suppression_in_the_graph_stays_float32():
    one, golden = built("yolov5", "nms")
    half = to_half(one.model)
    before, after = both(one, half, golden)

    # boxes near a threshold may fall to its other side
    assert np.abs(before["num_dets"] - after["num_dets"]).max() <= 2
    assert np.allclose(before["scores"][:, 0], after["scores"][:, 0], atol=5e-3)
    decoding = {title(node) for node in half.model.graph.node if "decode" in node.name.split(".")}
    typed = element_types(half.model)
    assert not [
        name
        for node in half.model.graph.node
        if title(node) in decoding
        for name in node.input
        if typed.get(name) == HALF
    ]


@pytest.mark.parametrize("name", ["yolov5", "yolov5u", "yolov9e", "yolo12", "yolo26-end2end", "resnet-bottleneck"])
def test_weights_and_arithmetic_are_half_and_decoding_is_not(name):
    half = to_half(built(name)[0].model)
    types = element_types(half.model)

    convolutions = [node for node in half.model.graph.node if node.op_type == "Conv"]
    assert all(types[name] == HALF for node in convolutions for name in (*node.input, *node.output))
    decoding = [node for node in half.model.graph.node if ".decode." in node.name]
    assert all(types[name] != HALF for node in decoding for name in node.output if node.op_type != "Cast")
    assert bool(decoding) == name.startswith("yolo")
    assert [value.type.tensor_type.elem_type for value in (*half.model.graph.input, *half.model.graph.output)] == [
        FLOAT
    ] * 2


def test_boxes_keep_more_digits_than_half_has():
    one, golden = built("yolov5")
    before, after = (run["output0"][..., :2] for run in both(one, to_half(one.model), golden))

    places = np.unique(after)
    assert len(places) > len(np.unique(after.astype(np.float16)))
    assert np.abs(after - before).max() < 0.2


def test_the_model_given_is_left_as_it_is_and_the_bytes_repeat():
    one, _ = built("yolov5")
    before = one.model.SerializeToString(deterministic=True)
    first, second = (to_half(one.model).model.SerializeToString(deterministic=True) for _ in range(2))

    assert one.model.SerializeToString(deterministic=True) == before
    assert first == second


def test_numbers_beyond_half_are_clamped_and_counted():
    model = small([helper.make_node("Min", ["x", "most"], ["y"], "min")], {"most": np.array([1e6, -2e5, 3, 4], "f4")})
    half = to_half(model)

    assert half.clamped == 2
    y = graphmodels.run(half.model, x=np.full((1, 4), 60000, np.float32))["y"]
    assert np.array_equal(y, np.array([[60000, -65504, 3, 4]], np.float32))


@pytest.mark.parametrize("tiny", [1e-9, 1.03e-6], ids=["gone", "of few digits"])
def test_constants_that_would_vanish_or_lose_their_digits_keep_their_node_float32(tiny):
    nodes = [
        helper.make_node("Add", ["x", "tiny"], ["sum"], "sum"),
        helper.make_node("Mul", ["sum", "two"], ["y"], "double"),
    ]
    half = to_half(small(nodes, {"tiny": np.float32(tiny), "two": np.float32(2)}))

    assert [one.name for one in half.model.graph.initializer] == ["tiny", "two.half"]


def test_what_only_moves_a_float32_result_leaves_it_float32():
    nodes = [
        helper.make_node("Mul", ["x", "much"], ["wide"], "layer"),
        helper.make_node("Flatten", ["wide"], ["y"], "moved"),
    ]
    half = to_half(small(nodes, {"much": np.float32(1000)}), {"layer"})

    x = np.array([[70.001, 0.001, 1e5, -3]], np.float32)  # in float16 the first would be rounded, the third infinite
    assert np.array_equal(graphmodels.run(half.model, x=x)["y"], x * 1000)


def test_nodes_asked_for_stay_float32():
    one, golden = built("resnet-basic")
    everything = {title(node) for node in one.model.graph.node}
    before, after = both(one, to_half(one.model, everything), golden)

    assert np.array_equal(before["logits"], after["logits"])


def test_a_constant_read_in_both_types_is_there_in_both():
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["a"], "first"),
        helper.make_node("Add", ["a", "c"], ["y"], "decode.second"),
    ]
    half = to_half(small(nodes, {"c": np.array([1, 2, 3, 0.1], "f4")}))

    assert sorted(one.name for one in half.model.graph.initializer) == ["c", "c.half"]
    y = graphmodels.run(half.model, x=np.ones((1, 4), np.float32))["y"]
    assert np.allclose(y, [[2, 4, 6, 0.2]], atol=1e-4)


def test_casts_are_halved_too():
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], "down", to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["up"], "up", to=FLOAT),
        helper.make_node("Mul", ["up", "c"], ["y"], "scale"),
    ]
    half = to_half(small(nodes, {"c": np.array([0.5], "f4")}))

    assert element_types(half.model)["up.half"] == HALF
    y = graphmodels.run(half.model, x=np.array([[1.5, 2.25, 3, 4.75]], "f4"))["y"]
    assert y.tolist() == [[0.5, 1, 1.5, 2]]


@pytest.mark.parametrize(("value", "kind"), [(2.5, HALF), (1e-9, FLOAT)])
def test_what_fills_a_shape_is_half_where_that_holds_it(value, kind):
    filling = helper.make_tensor("value", FLOAT, [1], [value])
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], "fill", value=filling),
        helper.make_node("Mul", ["x", "filled"], ["y"], "times"),
    ]
    half = to_half(small(nodes, {}), {"times"})
    (fill,) = (node for node in half.model.graph.node if node.name == "fill")

    assert fill.attribute[0].t.data_type == kind
    assert graphmodels.run(half.model, x=np.ones((1, 4), np.float32))["y"].tolist() == [[np.float32(value)] * 4]


def test_shapes_that_a_small_constant_tells_are_known():
    nodes = [helper.make_node("Reshape", ["x", "square"], ["s"]), helper.make_node("Reshape", ["s", "row"], ["y"])]
    shapes = inferred(small(nodes, {"square": np.array([2, 2]), "row": np.array([1, 4])}))

    assert [dim.dim_value for dim in shapes["s"].shape.dim] == [2, 2]


def test_a_graph_with_branches_is_refused_by_the_node_that_has_them():
    empty = helper.make_graph([], "empty", [], [])
    node = helper.make_node("If", ["x"], ["y"], "fork", then_branch=empty, else_branch=empty)

    with pytest.raises(ExportError, match=r"node fork \(If\)"):
        to_half(small([node], {}))


@pytest.mark.parametrize("make", [fullsize.yolov5n, fullsize.resnet50])
@pytest.mark.parametrize("variant", ["runtime", "frames"])
def test_real_models_are_valid_strongly_typed_networks(tmp_path, make, variant):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: NVIDIA has no wheel for this machine")
    one = graphs.vary(graphs.build(make()), VARIANTS[variant])
    whole, halved = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    onnx.save(one.model, whole)
    onnx.save(to_half(one.model).model, halved)
    sizes = []
    for file, precision in ((whole, "fp32"), (halved, "fp16")):
        options = Options(library="rtx", precision=precision, capabilities=(75, 86))
        engine = compile_onnx(file, tmp_path / "engine.plan", options)
        assert engine.warnings == ()
        sizes.append(engine.size_bytes)

    assert sizes[1] < 0.7 * sizes[0] or make is fullsize.yolov5n
