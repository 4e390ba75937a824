"""The ladder names what runs, and why the rest does not."""

import dataclasses
import subprocess
import sys

import pytest

from edgeinfer import backends, ladder, loading, machine
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BackendUnavailable, EngineError, UsageError
from edgeinfer.keys import Refusal
from edgeinfer.ladder import Rung
from edgeinfer.spec import Artifact


@pytest.fixture
def no_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "edgeinfer.backends.ov", raising=False)


def with_artifacts(bundle, *artifacts):
    return Bundle(bundle.path, dataclasses.replace(bundle.spec, artifacts=artifacts))


def artifact(precision, flavor=""):
    return Artifact(f"model.{precision}{flavor}.onnx", "onnx", precision, "0" * 64, flavor)


def test_onnx_runtime_is_what_runs_a_plain_bundle_on_the_cpu(detector):
    runs = [rung for rung in ladder.climb(Bundle.open(detector)) if not rung.reason]

    assert (runs[0].backend, runs[0].artifact.file) == ("ort", "model.fp32.onnx")
    with loading.load(detector) as model:
        assert model.backend == "ort"


def test_openvino_is_not_even_imported_unless_it_runs(detector):
    code = f"import sys, edgeinfer; edgeinfer.load({str(detector)!r}); print('openvino' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_null_is_never_chosen_unless_asked_for(detector):
    assert "null" not in [rung.backend for rung in ladder.climb(Bundle.open(detector))]
    assert [rung.backend for rung in ladder.climb(Bundle.open(detector), "null")] == ["null"]


def test_a_precision_that_was_not_asked_for_is_refused_with_the_reason(detector):
    bundle = with_artifacts(Bundle.open(detector), artifact("fp32"), artifact("int8", "cpu"), artifact("int8", "trt"))
    reasons = {rung.artifact.file: rung.reason for rung in ladder.climb(bundle, "ort", "int8")}

    assert reasons == {
        "model.fp32.onnx": "int8 was asked for, this is fp32",
        "model.int8cpu.onnx": "",
        "model.int8trt.onnx": "int8 flavor trt is slower than float32 in ONNX Runtime on a CPU",
    }


@pytest.mark.parametrize(("backend", "precision"), [("cuda", "auto"), ("auto", "fp8")])
def test_a_name_that_does_not_exist_is_wrong_usage(detector, backend, precision):
    with pytest.raises(UsageError, match="is not one of auto"):
        list(ladder.climb(Bundle.open(detector), backend, precision))


def test_load_says_why_nothing_runs(detector):
    with pytest.raises(BackendUnavailable, match=r"fp16 was asked for, this is fp32") as caught:
        loading.load(detector, precision="fp16")
    assert "edgeinfer info" in caught.value.hint


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_the_bundle_lacks_is_exported_and_no_library_brings_it(detector, no_openvino, precision):
    with pytest.raises(BackendUnavailable, match=r"; ov: OpenVINO cannot be imported") as caught:
        loading.load(detector, precision=precision)
    assert caught.value.hint.startswith(f"export it again with --precision fp32,{precision}; edgeinfer info ")


CPU = "--backend ort runs it on the CPU; edgeinfer doctor shows what the GPU lacks"


@pytest.mark.parametrize(
    ("how", "way"),
    [({"backend": "trt"}, CPU), ({"backend": "ort_gpu"}, CPU), ({"device": "gpu:0"}, f"without --device, {CPU}")],
)
def test_where_only_the_gpu_is_missing_the_hint_tells_the_way_without_one(detector, monkeypatch, no_openvino, how, way):
    """A library of the CPU that is missing too would not help."""
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    with pytest.raises(BackendUnavailable, match="this machine has no NVIDIA GPU") as caught:
        loading.load(detector, **how)
    assert caught.value.hint == way


def test_a_missing_library_is_told_with_the_command_that_brings_it(detector, no_openvino):
    with pytest.raises(BackendUnavailable, match=r"nothing here runs .*: ov: ") as caught:
        loading.load(detector, "ov")
    assert caught.value.hint == 'pip install "edgeinfer[openvino]"'


@pytest.mark.parametrize(
    ("remedies", "hint"), [(["", "do this"], "do this"), (["or that", "do this"], "edgeinfer info")]
)
def test_what_would_help_is_the_hint_if_it_is_one_thing(detector, remedies, hint):
    refused = [Rung("ort", None, Refusal("backend", "slow", hint=remedy)) for remedy in remedies]
    assert ladder.nothing_runs(Bundle.open(detector), refused).hint.startswith(hint)


def test_where_no_library_is_installed_the_hint_brings_the_best(detector, monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    for library, backend in (("openvino", "ov"), ("onnxruntime", "ort")):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, f"edgeinfer.backends.{backend}", raising=False)
    with pytest.raises(BackendUnavailable, match=r"; ort: ONNX Runtime .*; ov: OpenVINO ") as caught:
        loading.load(detector)
    assert caught.value.hint == 'pip install "edgeinfer[cpu]"'


def test_without_opencv_the_cpu_runs_nothing_and_its_command_is_told(detector, monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    for module in ("cpu", "_planes"):
        monkeypatch.delitem(sys.modules, f"edgeinfer.devices.{module}", raising=False)
    codes = {rung.backend: rung.code for rung in ladder.climb(Bundle.open(detector))}
    assert codes["ort"] == "no-device"
    with pytest.raises(BackendUnavailable, match=r"; ort model.fp32.onnx: OpenCV is not installed") as caught:
        loading.load(detector)
    assert caught.value.hint.startswith('pip install "edgeinfer[cpu]"')


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", 0, None])
def test_what_is_no_gpu_is_told_with_the_way_to_the_cpu(detector, device):
    with pytest.raises(UsageError, match="is not auto, gpu or such as gpu:1") as caught:
        loading.load(detector, device=device)
    assert "--backend ort" in caught.value.hint


def test_a_backend_without_a_file_is_named_with_those_that_have_one():
    with pytest.raises(BackendUnavailable, match=r"'quantum' is not one of .*null, ort"):
        backends.load("quantum")


def test_a_model_that_differs_from_its_spec_is_refused_when_it_is_opened(detector):
    bundle = Bundle.open(detector)
    outputs = (dataclasses.replace(bundle.spec.outputs[0], name="other"),)
    wrong = Bundle(bundle.path, dataclasses.replace(bundle.spec, outputs=outputs))

    with pytest.raises(EngineError, match=r"outputs are \['output0'\], model.json says \['other'\]"):
        loading.load(wrong)
