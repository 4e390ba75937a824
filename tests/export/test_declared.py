"""What a model that was saved whole says of its layers: it is followed, or refused, and never passed over."""

import numpy as np
import pytest

from edgeinfer.errors import ExportError
from edgeinfer.spec import TopK
from edgeinfer_export import graphs
from edgeinfer_export.modeltree import Module
from helpers import seeded


@pytest.fixture(scope="module")
def resnet():
    return seeded.Golden("resnet-bottleneck")


def nodes(golden, **changes):
    built = graphs.build(golden.checkpoint(**changes), size=golden.size)
    return {node.name: node for node in built.model.graph.node}


def attribute(node, name):
    (found,) = (one for one in node.attribute if one.name == name)
    return found.f or list(found.ints)


def strided(path, stride, **settings):
    return {path: Module("Conv2d", {"stride": [stride, stride], "dilation": [1, 1], **settings})}


def test_the_activation_of_a_module_beats_the_yaml(yolov5):
    modules = {"model.1.act": Module("LeakyReLU", {"negative_slope": 0.25}), "model.2.cv1.act": Module("ReLU", {})}
    found = nodes(yolov5, modules=modules)
    assert attribute(found["model.1.leakyrelu"], "alpha") == 0.25
    assert {"model.0.silu", "model.2.cv1.relu", "model.2.cv2.silu"} <= set(found)


def test_an_activation_that_is_not_known_is_named(yolov5):
    with pytest.raises(ExportError, match=r"model\.1\.act is Mish, which is not one of SiLU") as caught:
        nodes(yolov5, modules={"model.1.act": Module("Mish", {})})
    assert caught.value.hint


@pytest.mark.parametrize("slope", [None, "0.1", -1.0, 1e9])
def test_a_slope_that_is_none_is_refused(yolov5, slope):
    with pytest.raises(ExportError, match=r"model\.1\.act is LeakyReLU"):
        nodes(yolov5, modules={"model.1.act": Module("LeakyReLU", {"negative_slope": slope})})


def test_bottleneck_csp_needs_its_activation_said():
    golden = seeded.Golden("yolov5-release-3")
    with pytest.raises(ExportError, match=r"nothing says which activation model\.2\.act is") as caught:
        nodes(golden, modules={})
    assert "save the whole model" in caught.value.hint


def test_the_epsilon_of_a_batch_norm_is_followed(resnet):
    told = graphs.build(resnet.checkpoint(modules={"bn1": Module("BatchNorm2d", {"eps": 0.5})}), size=resnet.size)
    (weight,) = (one for one in told.model.graph.initializer if one.name == "conv1.weight")
    gain = resnet.tensors["bn1.weight"] / np.sqrt(resnet.tensors["bn1.running_var"] + 0.5)
    expected = resnet.tensors["conv1.weight"] * gain[:, None, None, None]
    folded = np.frombuffer(weight.raw_data, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(folded, expected, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [None, 1, -0.1, [0.1]])
def test_an_epsilon_that_is_none_is_refused(resnet, epsilon):
    with pytest.raises(ExportError, match="the batch norm bn1 adds"):
        nodes(resnet, modules={"bn1": Module("BatchNorm2d", {"eps": epsilon})})


def test_bottlenecks_that_stride_in_their_first_convolution_are_followed(resnet):
    modules = {**strided("layer2.0.conv1", 2), **strided("layer2.0.conv2", 1)}
    found = nodes(resnet, modules=modules)
    strides = [attribute(found[f"layer2.0.conv{place}"], "strides")[0] for place in (1, 2)]
    assert strides == [2, 1]
    untold = nodes(resnet)
    assert [attribute(untold[f"layer2.0.conv{place}"], "strides")[0] for place in (1, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (strided("layer4.0.conv2", 1), r"layer layer4\.0\.conv2 has stride 1x1, .* has 2"),
        (strided("layer2.0.conv1", 4), r"layer layer2\.0\.conv1 has stride 4x4, .* has 1"),
        (strided("layer3.0.conv2", 2, padding="same"), r"layer layer3\.0\.conv2 has padding same, .* has 1"),
        (strided("conv1", 2, dilation=[2, 2]), r"layer conv1 has dilation 2x2, .* has 1"),
        ({"maxpool": Module("MaxPool2d", {"kernel_size": 2})}, r"layer maxpool has kernel_size 2, .* has 3"),
        ({"maxpool.1": Module("BlurPool2d", {})}, r"layer maxpool\.1 is BlurPool2d, which no ResNet has there"),
        ({"maxpool": Module("Identity", {})}, r"layer maxpool is Identity, which no ResNet has there"),
        ({"layer2.0.relu": Module("Identity", {})}, r"layer layer2\.0\.relu is Identity, which no ResNet has there"),
        (strided("conv1", 2, padding_mode="reflect"), r"layer conv1 has padding_mode reflect, .* has zeros"),
        ({"relu": Module("Hardswish", {})}, r"layer relu is Hardswish, which no ResNet has there"),
    ],
)
def test_a_resnet_that_computes_otherwise_is_refused(resnet, modules, message):
    with pytest.raises(ExportError, match=message) as caught:
        nodes(resnet, modules=modules)
    assert caught.value.hint


def test_squeeze_and_excitation_is_named(resnet):
    tensors = resnet.tensors | {"layer1.0.se.fc1.weight": np.ones((4, 256, 1, 1), np.float32)}
    with pytest.raises(ExportError, match=r"they have layer1\.0\.se\.fc1\.weight \(squeeze-and-excitation\)"):
        nodes(resnet, tensors=tensors)


def test_a_norm_without_running_mean_is_named(resnet):
    tensors = {name: value for name, value in resnet.tensors.items() if ".running_" not in f".{name}"}
    with pytest.raises(ExportError, match="it is no batch norm"):
        nodes(resnet, tensors=tensors)


def test_what_is_left_out_of_the_model_is_said(resnet):
    built = graphs.build(resnet.checkpoint(beside=("criterion.weight", "metric.sum")), size=resnet.size)
    assert "criterion.weight and 1 more lies beside the model" in built.notes[0]


def test_class_names_that_are_too_few_are_said_unless_others_are_given(resnet):
    short, size = resnet.checkpoint(labels=("cat", "dog")), resnet.size
    built = graphs.build(short, size=size)
    classes = len(built.spec.labels)
    assert f"its 2 class names do not fit {classes} classes and are left out" in built.notes[0]
    given = tuple(f"name {place}" for place in range(classes))
    assert not graphs.build(short, size=size, labels=given).notes


# -- what stands in the place of fc


def headed(golden, *layers, **modules):
    """The golden's tensors with other layers in the place of fc: (path, outputs, inputs), or (path, channels)."""
    random = np.random.default_rng(3)
    tensors = {name: value for name, value in golden.tensors.items() if not name.startswith("fc.")}
    for path, *shape in layers:
        tensors[f"{path}.weight"] = random.random(shape, np.float32)
        tensors[f"{path}.bias"] = random.random(shape[0], np.float32)
        if len(shape) == 1:
            tensors |= {f"{path}.running_{name}": np.ones(shape, np.float32) for name in ("mean", "var")}
    return golden.checkpoint(
        tensors=tensors, modules={name.replace("_", "."): Module(kind, {}) for name, kind in modules.items()}
    )


def head(checkpoint, golden):
    built = graphs.build(checkpoint, size=golden.size)
    names = [node.name for node in built.model.graph.node]
    return names[names.index("avgpool") + 1 :], built


@pytest.mark.parametrize("path", ["fc.0", "fc.1", "fc.fc"])
def test_one_layer_in_the_place_of_fc_is_fc(resnet, path):
    names, built = head(headed(resnet, (path, 4, 2048)), resnet)
    assert (names, built.notes, len(built.spec.labels)) == ([path, "logits"], (), 4)


def test_between_two_layers_of_a_state_dict_relu_is_taken_to_be_and_said(resnet):
    names, built = head(headed(resnet, ("fc.0", 8, 2048), ("fc.3", 4, 8)), resnet)
    assert names == ["fc.0", "fc.0.relu.relu", "fc.3", "logits"]
    assert "ReLU is taken to be between" in built.notes[0]
    names, built = head(headed(resnet, ("fc.0", 8, 2048), ("fc.1", 4, 8)), resnet)
    assert (names, built.notes) == (["fc.0", "fc.1", "logits"], ())


def test_a_whole_model_says_what_is_between(resnet):
    said = {"fc_0": "Linear", "fc_1": "Hardswish", "fc_2": "Dropout", "fc_3": "Linear", "fc_4": "LogSoftmax"}
    names, built = head(headed(resnet, ("fc.0", 8, 2048), ("fc.3", 4, 8), **said), resnet)
    assert names == ["fc.0", "fc.1.hardsigmoid", "fc.1.hardswish", "fc.3", "logits"]
    assert (built.notes, built.spec.decode) == ((), TopK(4))


@pytest.mark.parametrize(
    ("layers", "said", "message"),
    [
        ([], {}, "there is no classifier"),
        ([("fc.a", 8, 2048), ("fc.b", 4, 8)], {}, r"nothing says what is between fc\.a and fc\.b"),
        ([("fc.0", 2048), ("fc.1", 4, 2048)], {}, r"nothing says what is before fc\.0"),
        ([("fc.0", 8, 2048), ("fc.2", 8), ("fc.3", 4, 8)], {}, r"nothing says what is before fc\.2"),
        ([("fc.0", 4, 2048)], {"fc_0": "Linear", "fc_1": "Mish"}, r"fc\.1 is Mish"),
        ([("fc.1", 4, 2048)], {"fc_0": "BatchNorm1d", "fc_1": "Linear"}, r"batch norm fc\.0 does not follow"),
        ([("fc.0", 4, 2048)], {"fc_0": "Linear", "fc_1": "Softmax", "fc_2": "ReLU"}, r"fc\.2 \(ReLU\) follows"),
        ([("fc.0", 4, 9)], {}, r"fc\.0\.weight is \(4, 9\), expected \(any, 2048\)"),
    ],
)
def test_a_classifier_that_is_not_clear_is_refused(resnet, layers, said, message):
    with pytest.raises(ExportError, match=message) as caught:
        graphs.build(headed(resnet, *layers, **said), size=resnet.size)
    assert caught.value.hint


def test_a_fully_connected_layer_may_have_no_bias(resnet):
    tensors = {name: value for name, value in resnet.tensors.items() if name != "fc.bias"}
    (bias,) = (
        one
        for one in graphs.build(resnet.checkpoint(tensors=tensors), size=resnet.size).model.graph.initializer
        if one.name == "fc.bias"
    )
    assert not np.frombuffer(bias.raw_data, np.float32).any()


def test_a_single_output_is_a_yes_or_no(resnet):
    _, built = head(headed(resnet, ("fc.0", 1, 2048)), resnet)
    assert built.spec.decode == TopK(1, "sigmoid")
