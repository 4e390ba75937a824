"""The proof that runs in a TensorRT kit, here with an engine of the host's in TensorRT's place."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from edgeinfer import modeljson
from edgeinfer.devices import compiler as nvrtc
from edgeinfer.errors import BackendUnavailable
from edgeinfer.results import Detections
from edgeinfer.spec import Size
from edgeinfer_export import compile as compiler
from gpu import hostengine
from gpu.kit import pack, prove
from helpers import bundles


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A packed folder of two small models."""
    monkeypatch.setattr(prove, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["prove.py", "--json", str(tmp_path / "proof.json")])
    monkeypatch.setattr(prove, "RUNS", 2)
    images = [bundles.picture(color, 20 + 9 * at, 50) for at, color in enumerate(bundles.COLORS)]
    for make in (bundles.detect_bundle, bundles.classify_bundle):
        pack.cases(make(tmp_path / "models" / make.__name__), images)
    return tmp_path


@pytest.fixture
def library(monkeypatch):
    """Stands where TensorRT would: the ONNX is the plan, ONNX Runtime on the host runs it."""

    def compile_onnx(onnx, plan, options):
        plan.write_bytes(onnx.read_bytes())
        return types.SimpleNamespace(elapsed_s=0.1, size_bytes=plan.stat().st_size)

    monkeypatch.setattr(compiler, "compile_onnx", compile_onnx)
    engine = lambda plan, spec, device: hostengine.HostEngine(hostengine.session(plan), spec, device)  # noqa: E731
    monkeypatch.setattr(prove.backends, "load", lambda _: engine)


def states(folder):
    report = json.loads((folder / "proof.json").read_text())
    assert report["context"]["gpu"]
    return {(row["model"].partition("_")[0], row["what"]): row["passed"] for row in report["checks"]}


WHAT = ("preprocess kernel", "decode and suppress kernels")
ENGINE = ("trt fp32 results", "trt fp32 in one CUDA graph", "trt fp32 replay equals plain")


def test_all_is_proved_where_all_is_right(folder, library):
    assert prove.main() == 0
    assert states(folder) == {(model, what): True for model in ("detect", "classify") for what in (*WHAT, *ENGINE)}


def test_a_missing_library_is_a_named_skip(folder, monkeypatch):
    def missing(_):
        raise BackendUnavailable("tensorrt is not installed")

    monkeypatch.setattr(prove.backends, "load", missing)

    assert prove.main() == 0
    assert states(folder)["detect", "trt fp32"] is None
    assert states(folder)["detect", "preprocess kernel"] is True


def test_where_no_kernel_can_be_compiled_the_report_says_so_and_how_to_mend_it(folder, library, monkeypatch):
    def refuse():
        raise BackendUnavailable("NVRTC is not here", hint="bring it")

    monkeypatch.setattr(nvrtc, "library", refuse)
    assert prove.main() == 1
    rows = json.loads((folder / "proof.json").read_text())["checks"]
    assert [row["passed"] for row in rows] == [False] * len(rows)
    assert {row["detail"] for row in rows} == {"BackendUnavailable: NVRTC is not here; bring it"}


def test_a_wrong_result_is_a_failure(folder, library):
    cases = folder / "models" / "detect_bundle" / "cases.json"
    results = json.loads(cases.read_text())
    results["fp32"][0][0]["box"][0] += 5
    cases.write_text(json.dumps(results))

    assert prove.main() == 1
    assert states(folder)["detect", "trt fp32 results"] is False
    assert states(folder)["detect", "decode and suppress kernels"] is False
    assert states(folder)["detect", "trt fp32 in one CUDA graph"] is True


def test_what_breaks_is_a_failure_and_stops_none_of_the_rest(folder, library, monkeypatch):
    def broken(*_):
        raise TypeError("an argument that this release does not take")

    monkeypatch.setattr(compiler, "compile_onnx", broken)

    assert prove.main() == 1
    assert {name for name, passed in states(folder).items() if passed is False} == {
        (model, "trt fp32") for model in ("detect", "classify")
    }
    assert states(folder)["classify", "decode and suppress kernels"] is True


def test_what_there_is_no_time_for_is_left_out_by_name(folder, library, monkeypatch):
    monkeypatch.setattr("sys.argv", [*sys.argv, "--seconds", "0"])

    assert prove.main() == 0
    assert states(folder)["detect", "trt fp32"] is None
    assert states(folder)["detect", "preprocess kernel"] is True


@pytest.mark.parametrize(("precision", "engines"), [("fp32", {"trt fp32"}), ("fp16", set())])
def test_engines_of_one_precision_can_be_proved_alone(folder, library, monkeypatch, precision, engines):
    monkeypatch.setattr("sys.argv", [*sys.argv, "--precision", precision])

    assert prove.main() == 0
    assert {what[:8] for _, what in states(folder) if what.startswith("trt")} == engines


def test_what_fails_on_the_way_leaves_the_engine_closed_and_then_the_device(folder, library, monkeypatch):
    closed, close = [], prove.gpu.Device.close
    monkeypatch.setattr(hostengine.HostEngine, "close", lambda _: closed.append("engine"))
    monkeypatch.setattr(prove.gpu.Device, "close", lambda self: closed.append("device") or close(self))
    monkeypatch.setattr(prove, "timed", lambda *_: 1 / 0)

    assert prove.main() == 1
    assert "".join(name[0] for name in closed).endswith("eded")


def test_the_report_is_there_before_the_last_check(folder, library, monkeypatch):
    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler, "compile_onnx", cut_off)
    with pytest.raises(KeyboardInterrupt):
        prove.main()

    assert states(folder)["detect", "decode and suppress kernels"] is True


def test_a_kit_goes_through_small_parts_unchanged(folder, tmp_path):
    parts = pack.split(folder / "models", tmp_path / "kit.parts", 700)
    assert len(parts) > 3
    assert all(0 < part.stat().st_size <= 700 for part in parts)
    joined = [sys.executable, str(tmp_path / "kit.parts" / "join.py"), str(tmp_path / "there")]
    subprocess.run(joined, check=True, capture_output=True)
    found, wanted = tmp_path / "there" / "gpu-kit", folder / "models"
    files = [file.relative_to(wanted) for file in wanted.rglob("*") if file.is_file()]
    assert [(found / file).read_bytes() for file in files] == [(wanted / file).read_bytes() for file in files]

    parts[1].unlink()
    refused = subprocess.run([*joined[:-1], str(tmp_path / "nowhere")], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert parts[1].name in refused.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (2, True), (3, False)])
def test_an_int8_engine_may_miss_one_result_in_twenty(folder, lost, passes):
    cases = prove.Cases(folder / "models" / "detect_bundle")
    box = [4.0, 4.0, 30.0, 30.0]
    cases._expected["int8"] = [[{"class_id": 0, "score": 0.9, "box": box}]] * 40
    boxes, empty = np.array([box], np.float32), np.empty((0, 4), np.float32)
    there = Detections(boxes, np.float32([0.8]), np.int32([0]), ("red",), Size(64, 64))
    gone = Detections(empty, np.float32([]), np.int32([]), ("red",), Size(64, 64))

    assert (cases.wrong([gone] * lost + [there] * (40 - lost), "int8") == []) is passes


def test_int8_is_expected_to_be_what_the_cpu_makes_of_the_same_graph(tmp_path):
    folder = bundles.detect_bundle(tmp_path / "bundle")
    spec = modeljson.read(folder / "model.json")
    images = [bundles.picture(color, 40, 50) for color in bundles.COLORS]
    pack.cases(folder, images)
    exact = json.loads((folder / "cases.json").read_text())["fp32"]

    assert pack.rounded(folder / spec.artifacts[0].file, spec, images) == exact
