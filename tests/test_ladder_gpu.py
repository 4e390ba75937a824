"""The ladder on a machine with a GPU: a stand-in device, a stand-in TensorRT that computes, ONNX Runtime's likeness."""

import dataclasses
import json
import logging
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeinfer import cache, cli, devices, ladder, load, machine, modeljson
from edgeinfer.bundle import Bundle
from edgeinfer.cli import _machine as _machine_looks
from edgeinfer.errors import BackendUnavailable, EngineError, UsageError
from helpers import bundles, fake_gpu, fake_nvinfer, fake_ort


@pytest.fixture(autouse=True)
def _machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_gpu.install(monkeypatch)
    fake_ort.module(monkeypatch)


@pytest.fixture
def trt(monkeypatch):
    return fake_nvinfer.install(monkeypatch, "10.3.0")


@pytest.fixture
def rtx(monkeypatch):
    return fake_nvinfer.install(monkeypatch, "rtx-1.7.1.116")


def runs(folder, **asked):
    with load(folder, **asked) as model:
        assert len(model(bundles.picture())) == 1
        return f"{model.backend} {model.artifact}"


def reasons(folder):
    return {
        rung.name: (rung.reason.code, str(rung.reason)) for rung in ladder.climb(Bundle.open(folder)) if rung.reason
    }


def wrong_plan(folder, library, factor=0.5, precision="fp32"):
    """An engine whose boxes and scores are so many times what they should be, and is otherwise in order."""
    model = onnx.load_from_string((folder / "model.fp32.onnx").read_bytes())
    for tensor in model.graph.initializer:
        if tensor.name == "middle":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), "middle"))
    content = fake_nvinfer.plan(model.SerializeToString(), library.__version__)
    return bundles.add_plan(folder, library, precision=precision, content=content)


def test_an_exact_engine_runs_before_one_that_merely_fits_whatever_its_library(detector, trt, rtx):
    bundles.add_plan(detector, trt, name="other.plan", gpu="Another A10")
    bundles.add_plan(detector, rtx, name="exact.plan", gpu="")
    assert runs(detector) == "rtx exact.plan"
    caveats = [str(rung.caveat) for rung in ladder.climb(Bundle.open(detector)) if not rung.reason]
    assert caveats[0] == ""
    assert "built and timed on Another A10, this is Stand-in A10" in caveats[1]


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ("36.4.3", ["", ""]),
        ("36.4.4", ["built for the DLA of L4T 36.4.3, this is 36.4.4", "built under L4T 36.4.3, this is 36.4.4"]),
    ],
)
def test_engines_of_a_jetson_are_compared_with_the_release_of_this_one(detector, trt, monkeypatch, here, told):
    monkeypatch.setattr(machine, "l4t", lambda: here)
    bundles.add_plan(detector, trt, l4t="36.4.3", dla="0")
    bundles.add_plan(detector, trt, l4t="36.4.3")
    dla, gpu = ladder.climb(Bundle.open(detector), "trt")
    assert [dla.reason, gpu.caveat] == told


def test_a_file_of_a_precision_that_a_backend_does_not_open_is_no_rung_of_it(detector):
    bundle = Bundle.open(detector)
    int8 = dataclasses.replace(bundle.spec.artifacts[0], file="model.int8.onnx", precision="int8")
    held = Bundle(bundle.path, dataclasses.replace(bundle.spec, artifacts=(int8, *bundle.spec.artifacts)))
    assert [rung.name for rung in ladder.climb(held, "ort_gpu")] == ["ort_gpu model.fp32.onnx"]


def test_keys_are_compared_before_anything_is_deserialised(detector, trt):
    bundles.add_plan(detector, trt, sm="87")
    assert runs(detector) == "ort_gpu model.fp32.onnx"
    assert trt.made("Runtime.deserialize_cuda_engine") == []
    code, text = reasons(detector)["trt trt-1.fp32.plan"]
    assert (code, text) == ("other-gpu", "built for sm_87, this GPU is sm_86")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"garbage", "magic tag does not match"),
        (fake_nvinfer.plan(b"", "10.7.0"), "Version tag"),
        (fake_nvinfer.plan(b"", "10.3.0", sm="75"), "expecting compute"),
        (b"", "cannot be read"),
    ],
    ids=["corrupt", "other release", "other GPU", "empty"],
)
def test_an_engine_that_does_not_open_gives_way_with_a_warning(detector, trt, caplog, content, words):
    bundles.add_plan(detector, trt, content=content)
    assert runs(detector) == "ort_gpu model.fp32.onnx"
    assert words in caplog.text
    assert "trt trt-1.fp32.plan is passed by" in caplog.text


def test_an_engine_that_does_not_open_is_an_error_where_it_was_asked_for(detector, trt):
    bundles.add_plan(detector, trt, content=b"garbage")
    with pytest.raises(EngineError, match="magic tag"):
        load(detector, backend="trt")


def test_an_engine_that_was_changed_on_disk_gives_way(detector, trt, caplog):
    made = bundles.add_plan(detector, trt)
    with (detector / made.file).open("ab") as file:
        file.write(b"\0")
    assert runs(detector).startswith("ort_gpu")
    assert "sha256" in caplog.text


def test_out_of_memory_gives_way_and_leaves_nothing_behind(detector, trt, caplog):
    trt._answers["ICudaEngine.create_execution_context"] = fake_nvinfer.failing("OutOfMemory (no memory)", None)
    bundles.add_plan(detector, trt)
    assert runs(detector).startswith("ort_gpu")
    assert "OutOfMemory" in caplog.text
    assert devices.load("gpu").live == 0


def test_the_cpu_is_not_taken_unasked_where_there_is_a_gpu(detector, trt, monkeypatch):
    fake_ort.module(monkeypatch, providers=(fake_ort.CPU,))
    with pytest.raises(BackendUnavailable, match="the CPU is used when asked for: --backend ort") as caught:
        load(detector)
    assert "--backend ort" in caught.value.hint
    monkeypatch.undo()


def test_the_cpu_is_taken_where_it_is_asked_for_or_there_is_no_gpu(detector, monkeypatch):
    assert runs(detector, backend="ort") == "ort model.fp32.onnx"
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert runs(detector) == "ort model.fp32.onnx"
    assert reasons(detector)["trt"][0] == "no-gpu"


def test_a_gpu_that_the_driver_does_not_give_is_said(detector, trt, monkeypatch):
    def lost(*_):
        raise BackendUnavailable("the NVIDIA driver finds no usable GPU (cuInit gave 999)", hint="check nvidia-smi")

    monkeypatch.setattr(machine, "gpu", lost)
    bundles.add_plan(detector, trt)
    with pytest.raises(BackendUnavailable, match="cuInit gave 999"):
        load(detector)
    assert reasons(detector)["trt trt-1.fp32.plan"][0] == "no-device"


def test_what_the_device_itself_lacks_is_said_before_an_engine_is_tried(detector, trt, monkeypatch):
    def lacking():
        raise BackendUnavailable("cuda-bindings cannot be imported", hint="pip install them")

    monkeypatch.setattr(devices.load("gpu"), "check_libraries", lacking)
    bundles.add_plan(detector, trt)
    assert reasons(detector)["trt trt-1.fp32.plan"] == ("no-device", "cuda-bindings cannot be imported")
    with pytest.raises(BackendUnavailable, match="plan: cuda-bindings cannot be imported") as caught:
        load(detector, "trt")
    assert caught.value.hint == "pip install them"


@pytest.mark.parametrize("device", ["tpu", "gpu:", "gpu:x", "gpu:-1", "gpu:²", "gpu:" + "9" * 5000, "cpu:0", ""])
def test_a_device_that_cannot_be_is_wrong_usage(detector, device):
    with pytest.raises(UsageError, match="is not auto, gpu or such as gpu:1"):
        load(detector, device=device)


def test_a_gpu_that_was_asked_for_is_never_the_cpu(detector, monkeypatch):
    with pytest.raises(BackendUnavailable, match="gpu:1 was asked for, and this backend runs on the CPU"):
        load(detector, "ort", device="gpu:1")
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"this machine has no NVIDIA GPU.* ort: gpu:0 was asked for"):
        load(detector, device="gpu")


def test_an_engine_is_tested_once_on_each_machine(detector, trt):
    bundles.add_plan(detector, trt)
    opened = []
    for _ in range(3):
        runs(detector)
        opened.append(len(trt.made("Runtime.deserialize_cuda_engine")))
    assert opened == [2, 3, 4]


def test_another_gpu_driver_or_library_is_another_machine(detector, trt, monkeypatch):
    bundles.add_plan(detector, trt)
    runs(detector)
    monkeypatch.setattr(machine, "driver", lambda: "999.1")
    before = len(trt.made("Runtime.deserialize_cuda_engine"))
    runs(detector)
    assert len(trt.made("Runtime.deserialize_cuda_engine")) == before + 2


def test_the_self_test_can_be_left_out(detector, trt):
    wrong_plan(detector, trt)
    with load(detector, self_test=False) as model:
        assert model.backend == "trt"
    assert len(trt.made("Runtime.deserialize_cuda_engine")) == 1


@pytest.mark.parametrize(("precision", "backend"), [("fp16", "trt"), ("fp32", "ort_gpu")])
def test_an_engine_may_differ_as_far_as_its_precision_does(detector, trt, precision, backend):
    wrong_plan(detector, trt, 0.98, precision)
    assert runs(detector).split()[0] == backend


def test_where_nothing_runs_the_engine_that_was_passed_by_is_told_with_its_fault(detector, trt):
    wrong = wrong_plan(detector, trt)
    spec = Bundle.open(detector).spec
    modeljson.write(dataclasses.replace(spec, artifacts=(wrong,)), detector / "model.json")
    with pytest.raises(BackendUnavailable, match=r"nothing here runs .*trt.*failed its self-test"):
        load(detector)


def test_an_engine_that_finds_the_wrong_things_is_quarantined_and_the_next_serves(detector, trt, caplog, capsys):
    wrong = wrong_plan(detector, trt)
    assert runs(detector) == "ort_gpu model.fp32.onnx"
    assert "failed its self-test: golden/0.png: 1 of 1 not found" in caplog.text

    opened = len(trt.made("Runtime.deserialize_cuda_engine"))
    caplog.clear()
    assert runs(detector) == "ort_gpu model.fp32.onnx"
    assert len(trt.made("Runtime.deserialize_cuda_engine")) == opened
    code, text = reasons(detector)[f"trt {wrong.file}"]
    assert code == "quarantined"
    assert text.endswith(f"edgeinfer verify {detector} tries it again")

    cli.main(["info", str(detector)])
    assert "failed its self-test here on" in capsys.readouterr().out
    with pytest.raises(BackendUnavailable, match="failed its self-test here on"):
        load(detector, backend="trt")


def test_verify_lifts_a_quarantine_when_the_engine_passes(detector, trt, capsys):
    answer = trt._answers["IExecutionContext.execute_async_v3"]
    trt._answers["IExecutionContext.execute_async_v3"] = True  # runs nothing: the outputs stay zero
    bundles.add_plan(detector, trt)
    assert runs(detector).startswith("ort_gpu")
    assert cli.main(["verify", str(detector)]) == 1
    assert "wrong  golden/0.png on trt trt-1.fp32.plan: 1 of 1 not found" in capsys.readouterr().out
    trt._answers["IExecutionContext.execute_async_v3"] = answer
    assert cli.main(["verify", str(detector)]) == 0
    assert runs(detector) == "trt trt-1.fp32.plan"


def test_a_verdict_that_cannot_be_kept_is_asked_for_again(detector, trt, monkeypatch):
    monkeypatch.setattr(cache, "write", lambda *_: False)
    bundles.add_plan(detector, trt)
    assert [runs(detector) for _ in range(2)] == ["trt trt-1.fp32.plan"] * 2


@pytest.mark.parametrize("kept", [b"not JSON", b"{}", b"[1]", b"null"])
def test_a_verdict_that_is_damaged_counts_for_nothing(detector, trt, kept):
    bundles.add_plan(detector, trt)
    runs(detector)
    for file in cache.path("verdicts", "").iterdir():
        cache.write("verdicts", file.name, kept)
    assert runs(detector) == "trt trt-1.fp32.plan"


@pytest.mark.parametrize("fact", ["the release", "the driver"])
def test_a_verdict_holds_as_long_as_what_it_was_found_with(detector, trt, monkeypatch, fact):
    wrong_plan(detector, trt)
    runs(detector)
    opened = len(trt.made("Runtime.deserialize_cuda_engine"))
    if fact == "the release":
        monkeypatch.setattr("edgeinfer.__version__", "99.0")
    else:
        monkeypatch.setattr(machine, "driver", lambda: "999.99")
    runs(detector)
    assert len(trt.made("Runtime.deserialize_cuda_engine")) == opened + 1


def test_golden_samples_that_nothing_can_read_are_told_with_what_can(detector, trt, monkeypatch):
    bundles.add_plan(detector, trt)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendUnavailable, match="OpenCV is not installed"):
        load(detector)
    with load(detector, self_test=False) as model:
        assert model.backend == "trt"


def test_a_bundle_without_golden_samples_runs_untested(detector, trt):
    bundles.add_plan(detector, trt)
    spec = modeljson.read(detector / "model.json")
    modeljson.write(dataclasses.replace(spec, golden=()), detector / "model.json")
    assert runs(detector) == "trt trt-1.fp32.plan"
    assert len(trt.made("Runtime.deserialize_cuda_engine")) == 1


def test_info_tells_programs_the_reason_of_every_rung(detector, trt, capsys):
    bundles.add_plan(detector, trt, sm="87")
    bundles.add_plan(detector, trt, gpu="Another A10")
    assert cli.main(["info", str(detector), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["ladder"]
    named = {f"{step['backend']} {step['artifact']}": step for step in steps}
    refused, chosen = named["trt trt-1.fp32.plan"], named["trt trt-2.fp32.plan"]
    assert (refused["code"], refused["facts"]) == ("other-gpu", {"built_for": "87", "here": "86"})
    assert (chosen["runs"], chosen["caveat_code"]) == (True, "other-model")
    assert named["ort model.fp32.onnx"]["code"] == "cpu-unasked"


def test_info_says_how_to_get_an_engine_that_fits(detector, trt, capsys):
    cli.main(["info", str(detector)])
    assert f"edgeinfer build {detector} --compile trt" in capsys.readouterr().out
    bundles.add_plan(detector, trt)
    cli.main(["info", str(detector)])
    assert "edgeinfer build" not in capsys.readouterr().out


def test_the_command_line_shows_what_was_passed_by(detector, trt, capsys, tmp_path):
    bundles.add_plan(detector, trt, content=b"garbage")
    assert cli.main(["run", str(detector), str(detector / "golden/0.png")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("warning: trt trt-1.fp32.plan is passed by: ")
    assert len(err.splitlines()) == 1
    assert logging.getLogger("edgeinfer").handlers == []


def test_doctor_says_what_engines_must_be_for_and_which_are_quarantined(detector, trt, capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.cli.doctor.LOOKS", (_machine_looks.engines,))
    wrong = wrong_plan(detector, trt)
    runs(detector)
    assert cli.main(["doctor", "--json"]) == 0
    fits, failed = json.loads(capsys.readouterr().out)["findings"]
    assert (fits["state"], fits["text"]) == ("ok", "for sm_86, Stand-in A10, linux-x86_64")
    assert failed["text"].startswith(f"{wrong.file} failed its self-test on")
    assert failed["remedy"] == "edgeinfer verify BUNDLE tries it again"
    monkeypatch.setattr(machine, "driver", lambda: "another")
    cli.main(["doctor", "--json"])
    assert len(json.loads(capsys.readouterr().out)["findings"]) == 1


def test_doctor_says_what_a_gpu_lacks_that_cannot_be_used(capsys, monkeypatch):
    def lost(*_):
        raise BackendUnavailable("the NVIDIA driver finds no usable GPU (cuInit gave 999)", hint="check nvidia-smi")

    monkeypatch.setattr(machine, "gpu", lost)
    (finding,) = _machine_looks.engines()
    assert (finding.state, finding.remedy) == ("problem", "check nvidia-smi")
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert _machine_looks.engines() == []
