"""Layers that int8 harms go back to float16 in the flavour for TensorRT: islands between pairs that stay float32."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgeinfer.spec import Size
from edgeinfer_export import calibration, forms, graphs, quantize
from edgeinfer_export.compile import Options, compile_onnx
from edgeinfer_export.forms import Form, Ranges
from edgeinfer_export.precision import element_types, title
from helpers import fullsize, graphmodels, seeded

TRT, CPU = Form("int8", "trt"), Form("int8", "cpu")


def ranged(one):
    size = one.spec.preprocess.size
    picture = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
    seen = calibration.observe(one.model, one.spec, quantize.points(one.model), [picture])
    return Ranges({name: histogram.range("minmax") for name, histogram in seen.items()}, "minmax", 1), picture


@pytest.fixture(scope="module", params=["yolov5", "resnet-bottleneck"])
def model(request):
    """A network, its ranges, a picture, and the nodes of two layers that stand one behind the other."""
    golden = seeded.Golden(request.param)
    one = graphs.build(golden.checkpoint(), size=golden.size)
    names = ("model.6", "model.7") if request.param == "yolov5" else ("layer2.0", "layer2.1")
    return one, *ranged(one), {node for name in names for node in forms.groups(one.model)[name]}


def computing(made, kept):
    """The types that the convolutions of these nodes compute in, and all others."""
    types = element_types(made)
    convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
    return tuple(
        {types[node.output[0]] for node in convolutions if (title(node) in kept) == inside} for inside in (True, False)
    )


def test_for_tensorrt_a_layer_goes_back_to_float16_and_for_cpus_to_float32(model):
    one, ranges, _, kept = model
    made = {form: forms.make(one.model, form, ranges, kept).model for form in (TRT, CPU)}

    assert computing(made[TRT], kept) == ({TensorProto.FLOAT16}, {TensorProto.FLOAT})
    assert computing(made[CPU], kept) == ({TensorProto.FLOAT}, {TensorProto.FLOAT})
    assert (TRT.rest, CPU.rest) == ("float16", "float32")


def test_an_island_is_entered_and_left_by_one_cast_each_way(model):
    one, ranges, _, kept = model
    nodes = forms.make(one.model, TRT, ranges, kept).model.graph.node
    to = [node.attribute[0].i for node in nodes if node.op_type == "Cast"]

    assert to.count(TensorProto.FLOAT16) <= 2
    assert to.count(TensorProto.FLOAT) <= 2
    scales = {name for node in nodes if node.op_type.endswith("QuantizeLinear") for name in node.input}
    assert not [name for name in scales if name.endswith(".half")]


def test_an_island_computes_what_float32_does(model):
    one, ranges, picture, kept = model
    made = forms.make(one.model, TRT, ranges, kept).model
    onnx.checker.check_model(made, full_check=True)
    islands, plain = (
        graphmodels.seen(each, one.spec, [picture])
        for each in (made, quantize.quantize(one.model, ranges.of, "trt", kept))
    )

    assert np.linalg.norm(islands - plain) < 0.05 * np.linalg.norm(plain)


def test_values_beyond_half_stay_float32(model):
    one, ranges, _, kept = model
    name = next(node.input[0] for node in one.model.graph.node if title(node) in kept and node.op_type == "Conv")
    wide = {**ranges.of, name: ranges.of[name]._replace(high=7e4)}
    inside, _ = computing(forms.make(one.model, TRT, dataclasses.replace(ranges, of=wide), kept).model, kept)

    assert inside == {TensorProto.FLOAT16, TensorProto.FLOAT}


@pytest.mark.parametrize(("make", "layer"), [(fullsize.yolov5n, "model.8"), (fullsize.resnet50, "layer3.1")])
def test_nvidias_compiler_takes_islands_and_their_weights_take_fewer_bytes(tmp_path, make, layer):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: NVIDIA has no wheel for this machine")
    one = graphs.build(make(), size=Size(160, 160))
    ranges, _ = ranged(one)
    kept = forms.groups(one.model)[layer]
    models = {
        "float16": forms.make(one.model, TRT, ranges, kept).model,
        "float32": quantize.quantize(one.model, ranges.of, "trt", kept),
    }
    sizes = {}
    for name, model in models.items():
        onnx.save(model, tmp_path / "int8.onnx")
        options = Options(library="rtx", precision="int8", capabilities=(86,))
        engine = compile_onnx(tmp_path / "int8.onnx", tmp_path / "e.plan", options)
        assert engine.warnings == ()
        sizes[name] = engine.size_bytes

    assert sizes["float32"] - sizes["float16"] > weights(one.model, kept)


def weights(model, kept):
    """How many numbers the convolutions of these nodes hold."""
    convolutions = {node.input[1] for node in model.graph.node if node.op_type == "Conv" and title(node) in kept}
    return sum(np.prod(one.dims) for one in model.graph.initializer if one.name in convolutions)
