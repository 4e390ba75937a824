"""Ultralytics' .engine files: a JSON prefix read, checked, taken off; what is left is NVIDIA's plan, byte for byte."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinfer.bundle import Bundle, sha256_of
from edgeinfer.cli import main
from edgeinfer.errors import EdgeInferError, ExportError
from edgeinfer.spec import Batch, Boxes, Size, TopK
from edgeinfer_export import enginefile
from edgeinfer_export.export import Options, export
from edgeinfer_export.told import Told

PLAN = b"ftrt" + bytes(range(256)) * 64
METADATA = {
    "description": "Ultralytics YOLO11n model",
    "author": "Ultralytics",
    "license": "AGPL-3.0 License",
    "stride": 32,
    "task": "detect",
    "batch": 8,
    "imgsz": [64, 96],
    "names": {"0": "cat", "1": "dog"},
    "args": {"batch": 8, "half": True, "dynamic": True, "nms": False},
}
TOLD = {"told": Told("yolov5"), "size": Size(64, 64), "labels": ("cat", "dog"), "precisions": ("fp16",)}


def written(tmp_path, metadata=METADATA, plan=PLAN, length=None):
    text = json.dumps(metadata).encode()
    size = len(text) if length is None else length
    file = tmp_path / "model.engine"
    file.write_bytes(size.to_bytes(4, "little", signed=True) + text + plan)
    return file


def test_the_plan_is_left_plain_and_the_spec_comes_from_the_prefix(tmp_path):
    bundle = Bundle.open(export(written(tmp_path), tmp_path / "out"))
    spec, artifact = bundle.spec, bundle.spec.artifacts[0]

    assert bundle.artifact_file(artifact).read_bytes() == PLAN
    assert (artifact.file, artifact.format, artifact.precision) == ("trt.fp16.plan", "trt", "fp16")
    assert spec.inputs[0].shape == (Batch(1, 8), 3, 64, 96)
    assert spec.outputs[0].shape == (Batch(1, 8), 6, 126)
    assert (spec.decode, spec.labels) == (Boxes("yolov8"), ("cat", "dog"))
    assert (spec.provenance.architecture, spec.provenance.license) == ("YOLO11n", "AGPL-3.0 License")
    assert spec.provenance.sha256 == sha256_of(tmp_path / "model.engine")


@pytest.mark.parametrize(
    ("change", "decode", "shape"),
    [
        ({"end2end": True}, Boxes("end2end"), (300, 6)),
        ({"args": {"nms": True, "quantize": 8}}, Boxes("end2end"), (300, 6)),
        ({"task": "classify"}, TopK(2, "none"), (2,)),
    ],
)
def test_the_layout_follows_from_task_and_arguments(tmp_path, change, decode, shape):
    spec = Bundle.open(export(written(tmp_path, {**METADATA, **change}), tmp_path / "out")).spec

    assert (spec.decode, spec.outputs[0].shape[1:]) == (decode, shape)


@pytest.mark.parametrize(
    ("args", "precision"),
    [
        ({"batch": 8}, "fp32"),
        ({"half": True}, "fp16"),
        ({"quantize": 16}, "fp16"),
        ({"quantize": 8}, "int8"),
        ({"int8": True}, "int8"),
        ({"int8": False, "quantize": None, "half": False}, "fp32"),
    ],
)
def test_the_precision_is_what_its_arguments_asked_for(tmp_path, args, precision):
    bundle = Bundle.open(export(written(tmp_path, {**METADATA, "args": args}), tmp_path / "out"))

    assert [(one.file, one.precision) for one in bundle.spec.artifacts] == [(f"trt.{precision}.plan", precision)]


def test_verify_checks_the_hash_and_says_that_nothing_was_run(tmp_path, capsys):
    target = export(written(tmp_path), tmp_path / "out")

    assert main(["verify", str(target)]) == 0
    assert "1 check passed; it has no golden samples, so nothing was run" in capsys.readouterr().out
    assert main(["info", str(target)]) == 0
    assert "came without its ONNX" in capsys.readouterr().out
    (target / "trt.fp16.plan").write_bytes(PLAN[:-1])
    assert main(["verify", str(target)]) == 1


def test_a_plain_plan_needs_to_be_told_all_and_the_error_lists_the_flags(tmp_path, capsys):
    file = tmp_path / "best.engine"
    file.write_bytes(PLAN)

    assert main(["export", str(file), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "plain TensorRT plan" in said
    assert all(flag in said for flag in ("--layout", "--imgsz", "--labels", "--precision"))
    assert not (tmp_path / "out").exists()


def test_a_plain_plan_that_is_told_all_becomes_a_bundle(tmp_path):
    file = tmp_path / "best.engine"
    file.write_bytes(PLAN)
    bundle = Bundle.open(
        export(file, tmp_path / "out", Options(batch=Batch(2, 2), **{**TOLD, "told": Told("yolov5", io="float16")}))
    )

    assert bundle.spec.outputs[0].shape == (2, 252, 7)
    assert bundle.spec.inputs[0].dtype == bundle.spec.outputs[0].dtype == "float16"
    assert bundle.file("trt.fp16.plan").read_bytes() == PLAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "pose"}, "task is pose"),
        ({"imgsz": None}, "--imgsz"),
        ({"names": ["a", None]}, "--labels"),
        ({"args": None}, "--precision"),
        ({"imgsz": [0, 64]}, "below 1 pixel"),
        ({"imgsz": [10**9, 10**9]}, "above 16384"),
        ({"batch": 10**9}, "not within 1-1024"),
        ({"names": [f"c{place}" for place in range(200_000)]}, "its prefix of"),
    ],
    ids=["pose", "no-size", "odd-names", "no-arguments", "no-pixels", "huge", "huge-batch", "many-names"],
)
def test_a_prefix_that_says_too_little_or_too_much_is_refused(tmp_path, change, message):
    with pytest.raises(ExportError) as caught:
        export(written(tmp_path, {**METADATA, **change}), tmp_path / "out")
    assert message in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [-5, 0, 1, 40, 1 << 21, (1 << 31) - 1])
def test_a_wrong_length_is_an_error_and_takes_no_memory(tmp_path, length):
    file = written(tmp_path, length=length)
    tracemalloc.start()
    try:
        with pytest.raises(ExportError):
            export(file, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_file_cut_after_its_prefix_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="cut off: no plan"):
        export(written(tmp_path, plan=b""), tmp_path / "out")


@pytest.mark.parametrize("size", [0, 4])
def test_a_file_of_a_few_bytes_is_no_engine(tmp_path, size):
    file = tmp_path / "best.engine"
    file.write_bytes(PLAN[:size])
    with pytest.raises(ExportError, match=f"best.engine holds {size} bytes, which is no engine"):
        export(file, tmp_path / "out", Options(**TOLD))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precisions": ("fp32",)}, "holds fp16, and --precision fp32 was asked for"),
        ({"precisions": ("fp16", "int8")}, "holds fp16, and --precision fp16,int8 was"),
        ({"batch": Batch(1, 16)}, "holds 1-8, and --batch 1-16 was"),
        ({"labels": ("cat",)}, "holds 2 classes, and --labels 1 classes was"),
    ],
)
def test_an_engine_is_what_it_was_built_as(tmp_path, asked, message):
    with pytest.raises(ExportError, match=message) as caught:
        export(written(tmp_path), tmp_path / "out", Options(**asked))
    assert caught.value.hint.startswith("leave --")


@pytest.mark.parametrize("batch", [Batch(1, 8), Batch(2, 4), Batch(8, 8)])
def test_size_and_batch_of_an_engine_are_open_where_it_was_built_so(tmp_path, batch):
    asked = Options(size=Size(64, 64), batch=batch)
    spec = Bundle.open(export(written(tmp_path), tmp_path / "out", asked)).spec
    assert (spec.preprocess.size, spec.batch) == (Size(64, 64), batch)
    fixed = written(tmp_path, {**METADATA, "args": {"half": True}})
    with pytest.raises(ExportError, match="holds 64x96, and --imgsz 64x64 was asked for"):
        export(fixed, tmp_path / "other", asked)
    with pytest.raises(ExportError, match="holds 8, and --batch 4-8 was asked for"):
        export(fixed, tmp_path / "other", Options(batch=Batch(4, 8)))


def test_a_plain_plan_of_a_classifier_takes_one_picture_and_needs_to_be_told_how_it_is_normalised(tmp_path):
    file = tmp_path / "best.engine"
    file.write_bytes(PLAN)
    asked = {**TOLD, "labels": tuple("abcdef")}
    with pytest.raises(ExportError, match="does not say its normalisation") as caught:
        export(file, tmp_path / "out", Options(**{**asked, "told": Told("classes")}))
    assert "--normalize" in caught.value.hint
    told = Told("classes", normalize="imagenet")
    spec = Bundle.open(export(file, tmp_path / "out", Options(**{**asked, "told": told}))).spec
    assert (spec.batch, spec.outputs[0].shape, spec.decode) == (Batch(1, 1), (1, 6), TopK(5, "softmax"))


def test_a_plain_plan_has_one_precision(tmp_path):
    file = tmp_path / "best.engine"
    file.write_bytes(PLAN)
    with pytest.raises(ExportError, match="does not say its precision"):
        export(file, tmp_path / "out", Options(**{**TOLD, "precisions": ("fp32", "fp16")}))


def test_what_changes_a_graph_is_refused_for_an_engine(tmp_path, capsys):
    words = ["export", str(written(tmp_path)), "-o", str(tmp_path / "out"), "--nms", "graph"]

    assert main(words) == 1
    assert "cannot be changed" in capsys.readouterr().err


def test_the_runtimes_thresholds_may_be_told_of_an_engine(tmp_path):
    words = ["export", str(written(tmp_path)), "-o", str(tmp_path / "out"), "--conf", "0.4", "--limit", "20"]

    assert main(words) == 0
    assert Bundle.open(tmp_path / "out").spec.decode == Boxes("yolov8", score=0.4, limit=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    prefix=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda text, off: (len(text) + off).to_bytes(4, "little", signed=True) + text,
            st.text('{}[]":,0 \\ud8', max_size=60).map(lambda text: b"{" + text.encode()),
            st.integers(-2, 2),
        ),
        st.dictionaries(
            st.sampled_from([*METADATA, "end2end"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=6,
            ),
        ).map(lambda value: len(json.dumps(value)).to_bytes(4, "little") + json.dumps(value).encode()),
    )
)
def test_no_prefix_gives_anything_but_an_engine_or_our_error(tmp_path, prefix):
    file = tmp_path / "model.engine"
    file.write_bytes(prefix + PLAN[:64])
    try:
        found = enginefile.read(
            file, Options(told=Told("yolov8"), size=Size(64, 64), labels=("a",), precisions=("fp16",))
        )
    except EdgeInferError as error:
        assert error.hint
        return
    assert 0 <= found.start < len(prefix) + 64
