"""Rounded weights, biases and scales: what they answer, and that they are finite whatever the weights are."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeinfer_export import graphs, quantize
from edgeinfer_export.ranges import Range
from helpers import graphmodels, seeded
from helpers.quantizing import built, constants, makers, pictures, ranged


def test_channels_and_tensors_that_are_always_zero_divide_nothing_by_zero():
    golden = seeded.Golden("resnet-basic")
    golden.tensors["layer1.0.conv1.weight"][:] = 0
    golden.tensors["layer1.0.bn1.bias"][:] = 0
    golden.tensors["layer1.0.bn1.running_mean"][:] = 0
    one = graphs.build(golden.checkpoint(), size=golden.size)
    for flavor in quantize.FLAVORS:
        model = quantize.quantize(one.model, ranged(one), flavor)
        assert np.isfinite(graphmodels.seen(model, one.spec, pictures(1, one.spec.preprocess.size))).all()


@pytest.mark.parametrize("flavor", quantize.FLAVORS)
def test_convolutions_that_share_weights_and_biases_are_rounded_each_by_its_own_scales(flavor):
    one = built("resnet-basic")
    nodes = {node.name: node for node in one.model.graph.node}
    nodes["layer1.0.conv2"].input[1:] = nodes["layer1.0.conv1"].input[1:]
    shown = pictures(1, one.spec.preprocess.size, seed=1)
    model = quantize.quantize(one.model, ranged(one), flavor)
    exact, rounded = (graphmodels.seen(each, one.spec, shown) for each in (one.model, model))
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.1 * exact.std())


def test_a_bias_beside_weights_that_are_next_to_nothing_is_kept():
    golden = seeded.Golden("resnet-basic")
    golden.tensors["layer1.0.conv1.weight"][0] = 1e-12
    golden.tensors["layer1.0.bn1.bias"][0] = 1.0
    golden.tensors["layer1.0.bn1.running_mean"][0] = 0
    one = graphs.build(golden.checkpoint(), size=golden.size)
    model = quantize.quantize(one.model, ranged(one), "cpu")
    (node,) = (node for node in model.graph.node if node.name == "layer1.0.conv1")
    whole, step = (constants(model)[name] for name in makers(model)[node.input[2]].input[:2])

    assert float(whole[0]) * float(step[0]) == pytest.approx(1.0, rel=1e-3)


def test_rounded_weights_answer_the_mean_of_what_was_seen_as_the_others_did():
    one = built("resnet-basic")
    found = ranged(one)
    model = quantize.quantize(one.model, found, "trt")
    numbers, before = constants(model), constants(one.model)
    (node,) = (node for node in one.model.graph.node if node.name == "layer1.0.conv1")
    means = np.array(found[node.input[0]].means).reshape(1, -1, 1, 1)
    rounded, steps = (numbers[f"{node.input[1]}.{part}"] for part in ("quantized", "scale"))
    answers = [
        (weight * means).sum(axis=(1, 2, 3)) + bias
        for weight, bias in (
            (before[node.input[1]].astype(np.float64), before[node.input[2]]),
            (rounded * steps.astype(np.float64).reshape(-1, 1, 1, 1), numbers[f"{node.input[2]}.corrected"]),
        )
    ]

    assert answers[1] == pytest.approx(answers[0], abs=1e-5)


def grouped(groups):
    """x (1, 4, 8, 8) through a convolution of so many groups, and the last one, which stays float32."""
    chance = np.random.default_rng(groups)
    tensors = {"w": chance.normal(size=(8, 4 // groups, 3, 3)), "b": chance.normal(size=8), "v": np.ones((2, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "one", group=groups),
        helper.make_node("Conv", ["a", "v"], ["y"], "last"),
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 4, 8, 8]), ("y", [1, 2, 6, 6]))
    ]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "grouped", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_of_a_convolution_makes_good_for_the_rounding_of_its_own_weights(groups):
    model, means = grouped(groups), (3.0, -20.0, 100.0, 7.0)
    found = constants(quantize.quantize(model, {"x": Range(-20.0, 100.0, means)}, "trt"))
    before = constants(model)
    rounded = found["w.quantized"] * found["w.scale"].astype(np.float64).reshape(-1, 1, 1, 1)
    mean = np.repeat(np.reshape(means, (groups, -1)), 8 // groups, axis=0)  # of what each output reads
    exact, answers = (
        (weight.sum((2, 3)) * mean).sum(1) + bias
        for weight, bias in ((before["w"].astype(np.float64), before["b"]), (rounded, found["b.corrected"]))
    )

    assert np.abs(rounded - before["w"]).max() > 1e-4
    assert answers == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(("low", "high"), [(-6.0, 1.0), (-1.0, 6.0), (0.0, 6.0), (-6.0, 0.0)])
def test_the_levels_of_a_range_reach_both_its_ends_and_hold_zero(low, high):
    ranges = dict.fromkeys("xa", Range(low, high))
    trt, cpu_ = (constants(quantize.quantize(grouped(1), ranges, flavor)) for flavor in ("trt", "cpu"))

    assert (trt["x.scale"] * 127, trt["x.zero"]) == (pytest.approx(6), 0)
    step, zero = float(cpu_["x.scale"]), int(cpu_["x.zero"])
    assert ((0 - zero) * step, (255 - zero) * step) == pytest.approx((low, high), abs=step)


@pytest.mark.parametrize("flavor", quantize.FLAVORS)
@pytest.mark.parametrize(("gain", "bias"), [(1e-40, 0.0), (1e-40, 1e-30), (1e-30, 3e38), (0.0, 1.0)])
def test_weights_and_biases_at_the_ends_of_float32_get_scales_that_divide(flavor, gain, bias):
    golden = seeded.Golden("resnet-bottleneck")
    golden.tensors["layer1.0.bn2.weight"][:] = gain
    golden.tensors["layer1.0.bn2.bias"][:] = bias
    golden.tensors["layer1.0.bn2.running_mean"][:] = 0
    one = graphs.build(golden.checkpoint(), size=golden.size)
    ranges = {name: Range(0.0, 1e-30) for name in quantize.points(one.model)}
    found = constants(quantize.quantize(one.model, ranges, flavor))
    scales = [value for name, value in found.items() if name.endswith(".scale")]
    assert all(np.isfinite(value).all() and (value > 0).all() for value in scales)


@pytest.mark.parametrize("flavor", quantize.FLAVORS)
def test_the_largest_weights_leave_a_bias_that_float32_holds(flavor):
    one = built("resnet-bottleneck")
    (weight,) = (tensor for tensor in one.model.graph.initializer if tensor.name == "layer1.0.conv2.weight")
    largest = np.full(weight.dims, np.finfo(np.float32).max)
    largest[:, 1:] *= np.float32(0.7)  # which no step divides: the bias makes good for it
    weight.CopyFrom(numpy_helper.from_array(largest.astype(np.float32), weight.name))
    ranges = {name: Range(0.0, 3e38, (1e38,) * weight.dims[1]) for name in quantize.points(one.model)}
    found = constants(quantize.quantize(one.model, ranges, flavor))

    assert all(np.isfinite(value).all() for name, value in found.items() if not name.endswith(".weight"))
