"""`--preprocess graph`: a model that takes frames says what it said of floats that the runtime prepared."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgeinfer.devices.cpu import Device
from edgeinfer.errors import ExportError
from edgeinfer.spec import INTERPOLATIONS, Batch, Preprocess, Size
from edgeinfer_export import graphs
from edgeinfer_export.graphs import Variant, frames
from helpers import graphmodels, seeded

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZE = Size(9, 12)


def pictures(count=2, seed=0, sides=(20, 30)):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *sides, 3), np.uint8))


def operators(model):
    return [node.op_type for node in model.graph.node]


@st.composite
def arithmetic(draw):
    """A preprocess with any arithmetic, and a size and a fit."""
    size = Size(draw(st.integers(4, 9)), draw(st.integers(4, 9)))
    fit = draw(st.sampled_from(["letterbox", "stretch", "resize-crop"]))
    return Preprocess(
        size,
        fit=fit,
        resize=draw(st.integers(9, 12)) if fit == "resize-crop" else 0,
        pad=draw(st.integers(0, 255)),
        color=draw(st.sampled_from(["rgb", "bgr"])),
        mean=draw(st.tuples(*[st.floats(0, 1)] * 3) | st.just((0.0, 0.0, 0.0))),
        std=draw(st.tuples(*[st.floats(0.1, 1)] * 3)),
        scale=draw(st.sampled_from([1.0, 255.0]) | st.floats(0.5, 500)),
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
    )


@settings(max_examples=60, deadline=None)
@given(
    how=arithmetic(),
    color=st.sampled_from(["rgb", "bgr"]),
    first=st.sampled_from(["padded", "valid", "grouped", "none"]),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_the_graphs_half_after_the_runtimes_half_is_the_whole(how, color, first, sides, seed):
    models = {
        "padded": lambda: graphmodels.convolution(how, pad=1, seed=seed),
        "valid": lambda: graphmodels.convolution(how, pad=0, seed=seed),
        "grouped": lambda: graphmodels.convolution(how, pad=1, groups=3, seed=seed),
        "none": lambda: graphmodels.averages(how),
    }
    model, spec = models[first]()
    shots = pictures(seed=seed, sides=sides)
    whole = graphmodels.seen(model, spec, shots)
    halves = frames.take(model, spec, color)
    largest = (255 / how.scale + 1) / min(how.std)

    assert halves.inputs[0].dtype == "uint8"
    np.testing.assert_allclose(graphmodels.seen(model, halves, shots), whole, rtol=1e-4, atol=1e-4 * largest)


@settings(max_examples=40, deadline=None)
@given(how=arithmetic(), color=st.sampled_from(["rgb", "bgr"]), sides=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_the_split_is_what_runtime_and_graph_do(how, color, sides):
    model, spec = frames.alone(graphmodels.convolution(how)[1], color)
    plain = graphmodels.convolution(how)[1]
    shots = pictures(sides=sides)
    geometry, arithmetic = spec.preprocess.split()
    halfway = dataclasses.replace(plain, preprocess=dataclasses.replace(geometry, where="runtime"))
    (bytes_given,) = Device(spec).preprocess(shots)[0].values()
    (numbers,) = Device(halfway).preprocess(shots)[0].values()
    (whole,) = Device(plain).preprocess(shots)[0].values()
    (made,) = graphmodels.run(model, frames=bytes_given).values()

    np.testing.assert_array_equal(bytes_given.transpose(0, 3, 1, 2), numbers)
    gain, bias = (np.array(numbers)[:, None, None] for numbers in (arithmetic.gain, arithmetic.bias))
    swapped = (numbers * gain + bias)[:, :: 1 if color == how.color else -1]
    largest = np.abs(whole).max() + 1
    np.testing.assert_allclose(made, whole, rtol=1e-4, atol=1e-5 * largest)
    np.testing.assert_allclose(swapped, whole, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_without_a_mean_nothing_is_left_to_do_before_the_convolution(color):
    model, spec = graphmodels.convolution(Preprocess(SIZE))
    frames.take(model, spec, color)
    assert operators(model) == ["Cast", "Transpose", "Conv", "Flatten"]


def test_a_mean_before_a_convolution_that_pads_is_subtracted():
    model, spec = graphmodels.convolution(Preprocess(SIZE, **IMAGENET))
    frames.take(model, spec, "rgb")
    assert operators(model) == ["Cast", "Transpose", "Sub", "Conv", "Flatten"]


def test_a_mean_before_a_convolution_that_does_not_pad_goes_into_its_bias():
    model, spec = graphmodels.convolution(Preprocess(SIZE, **IMAGENET), pad=0)
    frames.take(model, spec, "rgb")
    assert operators(model) == ["Cast", "Transpose", "Conv", "Flatten"]


def test_a_convolution_without_a_bias_gets_one_for_the_mean():
    model, spec = graphmodels.convolution(Preprocess(SIZE, **IMAGENET), pad=0)
    (node,) = (node for node in model.graph.node if node.op_type == "Conv")
    del node.input[2], model.graph.initializer[1]
    whole = graphmodels.seen(model, spec, pictures())

    halves = frames.take(model, spec, "rgb")

    assert len(node.input) == 3
    np.testing.assert_allclose(graphmodels.seen(model, halves, pictures()), whole, atol=1e-4)


def test_weights_that_another_node_reads_too_stay_as_they_are():
    model, spec = graphmodels.convolution(Preprocess(SIZE))
    twin = model.graph.node.add()
    twin.CopyFrom(model.graph.node[0])
    twin.name, twin.output[0], twin.input[0] = "twin", "twin", "noise"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3, 9, 12), np.float32), "noise"))
    before = model.graph.initializer[0].SerializeToString()

    frames.take(model, spec, "bgr")

    assert model.graph.initializer[0].SerializeToString() == before
    assert operators(model)[:4] == ["Cast", "Transpose", "Div", "Gather"]


def test_a_model_of_half_floats_gets_its_frames_in_half_floats():
    how = Preprocess(SIZE, **IMAGENET)
    model, spec = graphmodels.averages(how)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    halves = frames.take(model, spec, "rgb")
    found = graphmodels.seen(model, halves, pictures())
    exact, plain = graphmodels.averages(how)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, graphmodels.seen(exact, plain, pictures()), atol=0.02)


def test_the_spec_tells_the_color_and_the_numbers_in_its_order():
    model, spec = graphmodels.convolution(Preprocess(SIZE, **IMAGENET))
    framed = frames.take(model, spec, "bgr").preprocess
    assert (framed.where, framed.color, framed.mean, framed.std) == (
        "graph",
        "bgr",
        IMAGENET["mean"][::-1],
        IMAGENET["std"][::-1],
    )


def test_what_takes_frames_already_is_refused():
    model, spec = graphmodels.convolution(Preprocess(SIZE))
    with pytest.raises(ExportError, match="takes uint8 frames already"):
        frames.take(model, frames.take(model, spec, "bgr"), "bgr")


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("name", ["resnet-bottleneck", "resnet-basic", "yolov5", "yolov5-resnet", "yolov5u"])
def test_real_architectures_say_the_same_of_frames(name, color):
    golden = seeded.Golden(name)
    built = [graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 4)) for _ in range(2)]
    varied = graphs.vary(built[1], Variant(frames=color))
    whole, halves = (graphmodels.seen(one.model, one.spec, pictures(3)) for one in (built[0], varied))

    assert '"where": "graph"' in {entry.key: entry.value for entry in varied.model.metadata_props}["preprocess"]
    np.testing.assert_allclose(halves, whole, rtol=1e-3, atol=1e-3 * whole.std())


def test_what_is_not_varied_is_left_alone():
    golden = seeded.Golden("resnet-basic")
    built = graphs.build(golden.checkpoint(), size=golden.size)
    before = built.model.SerializeToString(deterministic=True)
    assert graphs.vary(built, Variant()).model.SerializeToString(deterministic=True) == before


def test_thresholds_do_not_go_with_a_classifier():
    golden = seeded.Golden("resnet-basic")
    built = graphs.build(golden.checkpoint(), size=golden.size)
    with pytest.raises(ExportError, match="iou is for detectors"):
        graphs.vary(built, dataclasses.replace(Variant(), iou=0.5))
