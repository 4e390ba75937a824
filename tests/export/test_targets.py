"""What may be asked for with --compile."""

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.bundle import Bundle
from edgeinfer.errors import BundleError, ExportError, UsageError
from edgeinfer.spec import Batch
from edgeinfer_export import engines, targets
from edgeinfer_export.buildoptions import Options
from edgeinfer_export.compile import Compiled
from edgeinfer_export.targets import Target
from helpers import bundles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trt", [Target("trt")]),
        ("rtx:sm86", [Target("rtx", (86,))]),
        ("rtx:SM_86", [Target("rtx", (86,))]),
        ("rtx:sm89+sm80+sm86", [Target("rtx", (80, 86, 89))]),
        ("trt, rtx:sm86,rtx:sm86 ,rtx:sm89", [Target("trt"), Target("rtx", (86,)), Target("rtx", (89,))]),
        ("rtx:sm75+sm80+sm86+sm89+sm120+sm121", [Target("rtx", (75, 80, 86, 89, 120, 121))]),
        ("rtx", [Target("rtx", (80, 86, 89, 120))]),
    ],
)
def test_targets_are_read(text, expected):
    assert targets.parse(text) == tuple(expected)


@given(st.lists(st.sampled_from(targets.RTX_CAPABILITIES), min_size=1, unique=True))
def test_a_target_reads_back_as_it_is_written(capabilities):
    target = Target("rtx", tuple(sorted(capabilities)))
    assert targets.parse(str(target)) == (target,)


@pytest.mark.parametrize(
    "text", ["", ",", "trt,", "tensorrt", "rtx:", "trt:", "openvino", "rtx:86", "rtx:sm8", "rtx:sm86+", "rtx:sm99"]
)
def test_what_is_no_target_is_refused_with_the_known_ones(text):
    with pytest.raises(UsageError) as caught:
        targets.parse(text)
    assert "rtx:sm80+sm86+sm89" in caught.value.hint


@pytest.mark.parametrize(
    ("capability", "gpu"),
    [
        *((53, "Jetson Nano"), (60, "P100"), (61, "GeForce GTX 10"), (62, "Jetson TX2"), (70, "V100")),
        *((72, "Jetson Xavier"), (87, "Jetson Orin"), (88, "Tegra"), (90, "H100"), (100, "B200")),
        *((101, "Jetson Thor under CUDA 12"), (103, "B300"), (110, "Jetson Thor")),
    ],
)
def test_gpus_that_rtx_does_not_build_for_are_named_and_sent_to_trt(capability, gpu):
    with pytest.raises(UsageError, match=f"sm{capability} .*{gpu}.*only for sm75") as caught:
        targets.parse(f"rtx:sm{capability}")
    assert "--compile trt" in caught.value.hint


def test_tensorrt_cannot_be_told_a_gpu():
    with pytest.raises(UsageError, match="only for the GPU it runs on") as caught:
        targets.parse("trt:sm87")
    assert "build on that machine" in caught.value.hint


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(bundles.classify_bundle(tmp_path_factory.mktemp("bundles") / "many", Batch(2, 8)))


@pytest.mark.parametrize(
    ("asked", "built"), [(None, (2, 4, 8)), ((2, 2, 2), (2, 2, 2)), ((2, 8, 8), (2, 8, 8)), ((3, 4, 5), (3, 4, 5))]
)
def test_an_engine_takes_the_batches_that_its_model_takes_or_fewer(bundle, asked, built):
    trt, rtx = engines.jobs(bundle, targets.parse("trt,rtx:sm86"), batch=asked)
    assert trt.options.batch == rtx.options.batch == built


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((2, 8, 4), "2,8,4 is not smallest, usual, largest"),
        ((1, 4, 8), "1,4,8 is not within the 2-8 of colors-classify"),
        ((2, 4, 9), "2,4,9 is not within the 2-8 of colors-classify"),
    ],
)
def test_batches_that_are_none_or_not_the_models_are_refused(bundle, asked, told):
    with pytest.raises(UsageError, match=told) as caught:
        engines.jobs(bundle, targets.parse("trt"), batch=asked)
    assert caught.value.hint


def holding(bundle, *kinds):
    """The bundle with an ONNX of each precision and flavor."""
    (onnx,) = bundle.spec.artifacts
    named = [(f"model.{precision}{flavor}.onnx", precision, flavor) for precision, flavor in kinds]
    held = [replace(onnx, file=file, precision=precision, flavor=flavor) for file, precision, flavor in named]
    return Bundle(bundle.path, replace(bundle.spec, artifacts=tuple(held)))


@pytest.mark.parametrize(
    ("asked", "built"),
    [
        ((), [("model.fp32.onnx", "fp32"), ("model.fp16.onnx", "fp16"), ("model.int8trt.onnx", "int8")]),
        (("int8", "fp16"), [("model.int8trt.onnx", "int8"), ("model.fp16.onnx", "fp16")]),
    ],
)
def test_each_precision_asked_for_or_all_are_compiled_from_the_onnx_for_tensorrt(bundle, asked, built):
    held = holding(bundle, ("fp32", ""), ("fp16", ""), ("int8", "trt"), ("int8", "cpu"))
    found = engines.jobs(held, targets.parse("trt"), precisions=asked)
    assert [(job.source.file, job.options.precision) for job in found] == built


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("int8",), "holds no int8 ONNX for TensorRT, only int8 cpu"),
        ((), "holds no ONNX for TensorRT"),
    ],
)
def test_a_bundle_without_an_onnx_for_tensorrt_is_refused(bundle, asked, told):
    held = holding(bundle, ("int8", "cpu"))
    with pytest.raises(ExportError, match=told) as caught:
        engines.jobs(held, targets.parse("trt"), precisions=asked)
    assert caught.value.hint


def test_what_tensorrt_has_timed_is_kept_beside_the_bundle_unless_told_where(bundle, tmp_path):
    trt, rtx = engines.jobs(bundle, targets.parse("trt,rtx:sm86"))
    assert (trt.options.timing_cache, rtx.options.timing_cache) == (bundle.path.with_name("many.timing-cache"), None)
    (told,) = engines.jobs(bundle, targets.parse("trt"), Options(timing_cache=tmp_path / "timings"))
    assert told.options.timing_cache == tmp_path / "timings"


def test_a_build_says_which_engine_it_is_at_and_a_full_disk_ends_it_without_a_trace(bundle, monkeypatch):
    def compile_onnx(_onnx, _out, _options, progress):
        progress("tactics", 1, 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    heard = []
    monkeypatch.setattr(engines, "compile_onnx", compile_onnx)
    with pytest.raises(BundleError, match="cannot be written: No space left on device") as caught:
        engines.add_engines(bundle.path, targets.parse("rtx:sm86+sm80"), progress=lambda *told: heard.append(told))
    assert caught.value.hint
    assert heard == [("rtx sm80+sm86 fp32: tactics", 1, 2)]
    assert [file.name for file in bundle.path.parent.iterdir()] == ["many"]


@pytest.fixture
def compiled(monkeypatch):
    """Engines come at once, of this ONNX, after `meanwhile` was called; with the tensors of a bundle, or of these."""

    def prepare(path, meanwhile=lambda: None, **tensors):
        spec = Bundle.open(path).spec
        (onnx,) = (one.sha256 for one in spec.artifacts)

        def compile_onnx(_onnx, out, *_):
            out.write_bytes(b"plan")
            meanwhile()
            facts = {"built_with": "tensorrt_rtx 1.0", "target": {"sm": "86", "os": "here", "onnx": onnx}}
            found = {"inputs": spec.inputs, "outputs": spec.outputs, **tensors}
            return Compiled(out, "rtx", "fp32", "0" * 64, 4, **facts, **found, elapsed_s=1.0)

        monkeypatch.setattr(engines, "compile_onnx", compile_onnx)
        return spec

    return prepare


def test_an_engine_whose_bundle_was_exported_again_meanwhile_does_not_come_into_the_new_one(tmp_path, compiled):
    path, newer = bundles.classify_bundle(tmp_path / "one"), bundles.classify_bundle(tmp_path / "newer", side=64)
    compiled(path, lambda: (path.rename(tmp_path / "older"), newer.rename(path)))
    with pytest.raises(ExportError, match="exported again while its engine was compiled") as refused:
        engines.add_engines(path, targets.parse("rtx:sm86"))
    assert refused.value.hint == "run the same command again"
    assert [one.format for one in Bundle.open(path).spec.artifacts] == ["onnx"]


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_an_engine_whose_tensors_model_json_does_not_tell_of_does_not_come_into_the_bundle(tmp_path, compiled, part):
    path = bundles.classify_bundle(tmp_path / "one")
    (told,) = getattr(compiled(path), part)
    compiled(path, **{part: (replace(told, name="other"),)})
    with pytest.raises(ExportError, match=f"the ONNX has {part} other, model.json says {told.name}"):
        engines.add_engines(path, targets.parse("rtx:sm86"))
    assert [one.format for one in Bundle.open(path).spec.artifacts] == ["onnx"]
