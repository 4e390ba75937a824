"""int8 graphs: pairs where TensorRT and ONNX Runtime want them, near float32, valid, the same bytes every time."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeinfer import backends
from edgeinfer.devices import cpu
from edgeinfer.spec import Size
from edgeinfer_export import graphs, quantize
from edgeinfer_export.compile import Options, compile_onnx
from edgeinfer_export.precision import title
from helpers import fullsize, graphmodels
from helpers.quantizing import built, constants, makers, pictures, ranged

NAMES = ["yolov5", "yolov5u", "resnet-basic", "resnet-bottleneck"]


@pytest.fixture(scope="module")
def quantized():
    """Models by name, in float32 and both flavours."""

    def of(name):
        if name not in made:
            one = built(name)
            found = ranged(one)
            made[name] = one, {flavor: quantize.quantize(one.model, found, flavor) for flavor in quantize.FLAVORS}
        return made[name]

    made = {}
    return of


def scale(model, name):
    """The scale of the DequantizeLinear that a tensor comes from; None of a float32 tensor."""
    node = makers(model).get(name)
    return float(constants(model)[node.input[1]]) if node and node.op_type == "DequantizeLinear" else None


@pytest.mark.parametrize(
    "name", [*NAMES, "yolov3-tiny", "yolov5-transformer", "yolov6", "yolov8-ghost", "yolov9t", "yolo11", "yolo12"]
)
@pytest.mark.parametrize("flavor", quantize.FLAVORS)
def test_int8_is_near_float32(quantized, name, flavor):
    one, models = quantized(name)
    onnx.checker.check_model(models[flavor], full_check=True)
    shown = pictures(2, one.spec.preprocess.size)
    for picture in shown:
        before, after = (graphmodels.seen(model, one.spec, [picture]) for model in (one.model, models[flavor]))
        assert np.linalg.norm(after - before) < 0.12 * np.linalg.norm(before)
        assert not np.array_equal(after, before)


@pytest.mark.parametrize("name", NAMES)
def test_for_tensorrt_every_convolution_but_the_last_reads_8_bits(quantized, name):
    _, models = quantized(name)
    model = models["trt"]
    made = makers(model)
    dequantized = {
        node.name: [made[name].op_type if name in made else "" for name in node.input[:2]] == ["DequantizeLinear"] * 2
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    last = {node for node, eight in dequantized.items() if not eight}
    heads = ("model.24.m.", "model.24.cv2.", "model.24.cv3.", "fc")
    assert last
    assert all(node.startswith(heads) for node in last), last


@pytest.mark.parametrize(("name", "attentions"), [("yolo11", 1), ("yolo12", 8)])
@pytest.mark.parametrize("flavor", quantize.FLAVORS)
def test_what_attention_weighs_by_is_not_rounded(quantized, flavor, name, attentions):
    model = quantized(name)[1][flavor]
    attention = [node for node in model.graph.node if ".attn." in node.name and node.op_type in ("MatMul", "Softmax")]
    weighing = {node.output[0] for node in attention}

    assert len(weighing) == 3 * attentions
    assert not [
        node.name for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in weighing
    ]


@pytest.mark.parametrize("name", [*NAMES, "yolov9t", "yolo11", "yolo12"])
def test_for_tensorrt_all_is_symmetric_and_biases_are_floats(quantized, name):
    _, models = quantized(name)
    numbers = constants(models["trt"])
    pairs = [node for node in models["trt"].graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]

    assert {numbers[node.input[2]].dtype.name for node in pairs} == {"int8"}
    assert all(not numbers[node.input[2]].any() for node in pairs)
    biases = [node.input[2] for node in models["trt"].graph.node if node.op_type == "Conv"]
    assert all(numbers[bias].dtype == np.float32 for bias in biases)


def test_for_tensorrt_what_is_joined_has_one_scale(quantized):
    model = quantized("yolov5")[1]["trt"]
    joined = [node for node in model.graph.node if node.op_type == "Concat" and ".decode" not in node.name]
    seen = 0
    for node in joined:
        scales = {scale(model, name) for name in (*node.input, f"{node.output[0]}.dequantized")}
        if scales != {None}:
            assert len(scales) == 1
            seen += 1
    assert seen >= 8


@pytest.mark.parametrize("name", ["yolov5", "resnet-basic", "resnet-bottleneck"])
def test_for_tensorrt_additions_read_8_bits_on_the_residual_side_alone(quantized, name):
    model = quantized(name)[1]["trt"]
    additions = [node for node in model.graph.node if node.op_type == "Add" and ".decode" not in node.name]

    assert additions
    for node in additions:
        assert sum(scale(model, name) is not None for name in node.input) == 1


@pytest.mark.parametrize("name", ["yolov5", "yolov5u"])
def test_openvino_computes_silu_inside_the_int8_convolution_and_nearer_to_float32(quantized, name, tmp_path):
    one, models = quantized(name)
    path = tmp_path / "net.onnx"
    path.write_bytes(models["cpu"].SerializeToString())
    device = cpu.Device(one.spec)
    inputs, _ = device.preprocess(pictures(1, one.spec.preprocess.size))
    engine = backends.load("ov")(path, one.spec, device)
    kinds = [layer.kind for layer in engine.profile_layers(inputs) if layer.precision == "int8"]
    (found,) = engine.run(inputs).values()
    exact, rounded = (
        graphmodels.seen(model, one.spec, pictures(1, one.spec.preprocess.size)) for model in (one.model, models["cpu"])
    )

    activations = sum(node.op_type == "Sigmoid" for node in models["cpu"].graph.node)
    assert "Convolution" in kinds
    # what OpenVINO compiles of operators between convolutions, as it must where something is rounded there
    assert kinds.count("Subgraph") < activations / 2
    assert np.linalg.norm(found - exact) < np.linalg.norm(rounded - exact)


@pytest.mark.parametrize("name", NAMES)
def test_for_cpus_onnx_runtime_makes_whole_kernels_of_it(quantized, name, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    model = quantized(name)[1]["cpu"]
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)

    heads = {"yolov5": 6, "yolov5u": 6}.get(name, 1)
    assert kinds["QLinearConv"] == sum(eight for _, _, eight in convolutions(model)) > 10
    # numbers of 8 bits are made once, behind the first convolutions and the thin ones, and left again for the heads
    assert kinds["QuantizeLinear"] <= 2
    assert kinds["DequantizeLinear"] <= 2 + heads
    assert kinds["Add"] + kinds["Sigmoid"] + kinds["MaxPool"] <= 1 + heads


def convolutions(model):
    """(channels out, channels in, whether its weights are int8) of every convolution."""
    made, numbers = makers(model), constants(model)
    rows = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            eight = node.input[1] in made
            rows.append((*numbers[made[node.input[1]].input[0] if eight else node.input[1]].shape[:2], eight))
    return rows


@pytest.mark.parametrize("name", ["yolov5", "yolov5u"])
def test_for_cpus_thin_convolutions_and_what_stands_between_them_stay_float32(quantized, name):
    model = quantized(name)[1]["cpu"]
    thin = {min(outputs, inputs) <= 16 for outputs, inputs, eight in convolutions(model) if eight}
    rounded = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]

    assert thin == {False}
    # the first with more than 16 channels on both sides
    assert [eight for _, _, eight in convolutions(model)].index(True) == 14
    assert rounded[0] == "model.4.concat"


def test_for_cpus_what_is_joined_has_one_scale_so_that_it_is_copied(quantized):
    model = quantized("yolov5")[1]["cpu"]
    joined = [node for node in model.graph.node if node.op_type == "Concat" and ".decode" not in node.name]
    scales = [[scale(model, name) for name in (*node.input, f"{node.output[0]}.dequantized")] for node in joined]
    eight = [set(one) for one in scales if set(one[:-1]) != {None}]

    assert len(eight) >= 8
    assert all(len(one) == 1 and None not in one for one in eight)


@pytest.mark.parametrize("flavor", quantize.FLAVORS)
def test_decoding_and_what_is_asked_for_stay_float32(quantized, flavor):
    one, models = quantized("yolov5")
    rounded = {node.input[0] for node in models[flavor].graph.node if node.op_type == "QuantizeLinear"}
    assert not [name for name in rounded if name.startswith("model.24.")]

    everything = {node.name for node in one.model.graph.node}
    bare = quantize.quantize(one.model, {}, flavor, everything)
    assert [node.op_type for node in bare.graph.node] == [node.op_type for node in one.model.graph.node]


@pytest.mark.parametrize("flavor", quantize.FLAVORS)
def test_bytes_repeat_and_the_model_given_stays(flavor):
    one = built("yolov5")
    before = one.model.SerializeToString(deterministic=True)
    first, second = (
        quantize.quantize(one.model, ranged(one), flavor).SerializeToString(deterministic=True) for _ in range(2)
    )

    assert first == second
    assert one.model.SerializeToString(deterministic=True) == before


def test_thin_convolutions_stay_float32_for_cpus_although_all_wide_ones_do():
    one = built("yolov5")
    net = quantize.Net(one.model)
    wide, every = (net.convolutions(flavor) for flavor in quantize.FLAVORS)
    titles = {title(node) for node in wide}

    assert 0 < len(wide) < len(every)
    assert quantize.Net(one.model, titles).points("cpu") == set()


def test_sums_that_no_convolution_ends_in_stay_float32_for_tensorrt():
    random = np.random.default_rng(0)
    matrices = {name: random.random((32, 32), np.float32) for name in ("one", "two", "three")}
    nodes = [helper.make_node("MatMul", ["x", "one"], ["a"]), helper.make_node("MatMul", ["x", "two"], ["b"])]
    nodes += [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("MatMul", ["c", "three"], ["y"])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(value, name) for name, value in matrices.items()]
    graph = helper.make_graph(nodes, "products", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    assert quantize.points(model) == set()


@pytest.mark.parametrize("make", [fullsize.yolov5n, fullsize.resnet50])
def test_real_models_are_valid_explicit_int8_for_turing_and_ampere(tmp_path, make):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: NVIDIA has no wheel for this machine")
    one = graphs.build(make(), size=Size(160, 160))
    model = quantize.quantize(one.model, ranged(one, 1), "trt")
    file = tmp_path / "int8.onnx"
    onnx.save(model, file)
    engine = compile_onnx(file, tmp_path / "e.plan", Options(library="rtx", precision="int8", capabilities=(75, 86)))

    assert engine.warnings == ()
    assert file.stat().st_size < 0.33 * one.model.ByteSize()
