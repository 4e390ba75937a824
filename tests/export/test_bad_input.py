"""What cannot be exported is said in one error and one hint, before any work, and nothing is written."""

import os
import re
import sys

import pytest
from onnx import load

from edgeinfer.cli import main
from edgeinfer.errors import ExportError
from edgeinfer_export import export as exporting
from edgeinfer_export import fitness, modelfile, quantize, targets
from edgeinfer_export.ranges import Range
from helpers import fake_nvinfer, foreign, networks, seeded
from helpers.scenery import SOURCE, TRUTH


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Exports to nowhere: gives the two lines, once it is sure that nothing was written and no work begun."""

    def export(source, *words, code=1):
        before = sorted(tmp_path.rglob("*"))
        assert main(["export", str(source), "-o", str(tmp_path / "out"), *map(str, words)]) == code
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(":")[0] for line in lines] == ["error", "hint"]
        assert sorted(tmp_path.rglob("*")) == before
        return " ".join(lines)

    def begun(*_):
        pytest.fail("it began to write")

    monkeypatch.setattr(exporting, "writing", begun)
    return export


def onnx(tmp_path, change=None, **how):
    model = foreign.yolov8(**how)
    if change:
        change(model)
    return foreign.save(model, tmp_path / "models" / "tiny.onnx")


def engine(tmp_path):
    file = tmp_path / "best.engine"
    file.write_bytes(b"ftrt" + bytes(1 << 10))
    return file


# -- the model


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model.engine", "recipe.toml"])
def test_a_pipe_is_not_waited_for(tmp_path, refused, name):
    os.mkfifo(tmp_path / name)
    assert re.search(f"{name}.* is not a (regular )?file", refused(tmp_path / name))


@pytest.mark.parametrize("version", [3, 99])
def test_an_unknown_opset(tmp_path, refused, version):
    source = onnx(tmp_path, lambda model: setattr(model.opset_import[0], "version", version))
    assert f"tiny.onnx has opset {version}, expected 7 to" in refused(source)


def test_an_unsupported_operator_by_the_name_of_its_node(tmp_path, refused):
    source = onnx(tmp_path, lambda model: setattr(model.graph.node[1], "op_type", "EfficientNMS_TRT"))
    assert "node /p8.conv is the operator EfficientNMS_TRT" in refused(source)


def test_a_size_that_is_no_multiple(refused):
    assert "use 96,640" in refused(SOURCE, "--imgsz", "100,640")


def test_a_batch_that_the_model_has_not(tmp_path, refused):
    assert "batch" in refused(onnx(tmp_path), "--batch", "1-8")


# -- pictures


def test_pictures_that_are_not_there_or_too_few(tmp_path, refused):
    words = ("--imgsz", 64, "--precision", "int8", "--calibrate")
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in refused(SOURCE, *words, tmp_path / "empty")
    assert "does not exist" in refused(SOURCE, *words, tmp_path / "nowhere")
    assert "add --calibrate DIR with 100 or more" in refused(SOURCE, *words[:4])
    (tmp_path / "empty" / "0.jpg").write_bytes(next(TRUTH.glob("*.jpg")).read_bytes())
    assert "holds 1 pictures that can be read, expected 100" in refused(SOURCE, *words, tmp_path / "empty")


def test_held_out_pictures_that_are_not_there(tmp_path, refused):
    assert "does not exist" in refused(SOURCE, "--precision", "fp16", "--held-out", tmp_path / "nowhere")


def test_a_model_whose_numbers_overflow_in_float32(tmp_path):
    golden = seeded.Golden("resnet-basic")
    golden.tensors["fc.weight"][:] = 3e38
    built = exporting.graphs.build(golden.checkpoint(), size=golden.size)
    with pytest.raises(ExportError, match="holds NaN or infinity") as caught:
        exporting.write_bundle(built.model, built.spec, tmp_path / "out")
    assert "diverged" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# -- the place


def test_a_place_that_holds_something_else(tmp_path, refused):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert "holds other files" in refused(SOURCE)


# -- what it is to be compiled for


@pytest.mark.parametrize(
    ("target", "message"), [("rtx:sm87", "Jetson Orin"), ("rtx:sm99", "sm99"), ("cuda", "'cuda'"), ("trt:sm86", "sm86")]
)
def test_an_unknown_target(refused, target, message):
    assert message in refused(SOURCE, "--compile", target, code=2)


def test_a_compiled_source_is_not_compiled_again(tmp_path, refused):
    words = ("--layout", "yolov5", "--imgsz", 64, "--precision", "fp16", "--compile", "rtx:sm86")
    assert "it cannot be compiled again" in refused(engine(tmp_path), *words)


def test_an_onnx_that_suppresses_its_boxes_is_not_for_rtx(tmp_path, refused):
    options = exporting.Options(size=exporting.Size(64, 64), variant=exporting.graphs.Variant(nms=True))
    modelfile.write(exporting.read(SOURCE, options).model, tmp_path / "model.onnx")
    assert "TensorRT-RTX has no NonMaxSuppression" in refused(tmp_path / "model.onnx", "--compile", "rtx:sm86")


def test_int8_for_cpus_is_not_compiled(tmp_path, refused):
    built = exporting.read(SOURCE, exporting.Options(size=exporting.Size(64, 64)))
    names = quantize.points(built.model)
    ranges = dict.fromkeys(names, Range(-1.0, 3.0))
    model = quantize.quantize(built.model, ranges, "cpu")
    fitness.check(model, (), ["int8"])
    modelfile.write(model, tmp_path / "cpu.onnx")
    said = refused(tmp_path / "cpu.onnx", "--compile", "rtx:sm86")
    assert "with a zero point, which TensorRT does not take" in said
    assert "`trt` flavour" in said


def test_a_float32_head_of_another_tool_is_not_for_turing(tmp_path, refused):
    source = foreign.save(foreign.classifier(gemm=True), tmp_path / "models" / "resnet.onnx")
    assert "is a Gemm, which TensorRT-RTX has not in float32 for sm75" in refused(source, "--compile", "rtx:sm75+sm86")


@pytest.mark.parametrize(("name", "precision"), [("yolo11", "fp32"), ("yolo11", "int8"), ("yolo12", "fp32")])
def test_attention_in_float32_is_not_for_turing(tmp_path, refused, name, precision):
    golden = seeded.Golden(name)
    modelfile.write(exporting.graphs.build(golden.checkpoint(), size=golden.size).model, tmp_path / "model.onnx")
    words = ("--compile", "rtx:sm75", "--precision", precision, "--calibrate", tmp_path)
    assert "is a MatMul, which TensorRT-RTX has not in float32 for sm75" in refused(tmp_path / "model.onnx", *words)


@pytest.mark.parametrize(("target", "precision"), [("rtx:sm86", "fp32"), ("rtx:sm75", "fp16"), ("trt", "fp32")])
def test_a_head_is_refused_for_turing_in_float32_alone(target, precision):
    fitness.check(foreign.classifier(gemm=True), targets.parse(target), [precision])


def test_convolutions_in_symmetric_int8_are_taken_even_for_turing(tmp_path):
    model = load(networks.quantized(tmp_path / "int8.onnx"))
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    del first.input[2]  # which means a zero point of 0
    fitness.check(model, targets.parse("rtx:sm75"), ["int8"])


@pytest.mark.parametrize(("target", "module"), [("rtx:sm86", "tensorrt_rtx"), ("trt", "tensorrt")])
def test_a_compiler_that_is_not_installed(tmp_path, refused, monkeypatch, target, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert f"{module} is not installed" in refused(onnx(tmp_path), "--compile", target)


@pytest.mark.parametrize("words", [(), ("--plan",)])
@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_without_onnx_runtime_no_export_begins(tmp_path, refused, monkeypatch, kind, words):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fake_nvinfer.forget(monkeypatch, "ort")
    told = refused(onnx(tmp_path) if kind == "onnx" else SOURCE, *words)
    assert told.startswith("error: ONNX Runtime cannot be imported: ")
    assert "hint: pip install" in told


def test_a_compiler_without_its_gpu(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", sys)
    assert "TensorRT compiles on an NVIDIA GPU" in refused(onnx(tmp_path), "--compile", "rtx:sm86,trt")
