"""The proof that runs in a TensorRT kit, here with an engine of the host's in TensorRT's place."""

import json
import types

import pytest

from edgeinfer.errors import BackendUnavailable
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


def test_a_wrong_result_is_a_failure(folder, library):
    cases = folder / "models" / "detect_bundle" / "cases.json"
    results = json.loads(cases.read_text())
    results[0][0]["box"][0] += 5
    cases.write_text(json.dumps(results))

    assert prove.main() == 1
    assert states(folder)["detect", "trt fp32 results"] is False
    assert states(folder)["detect", "decode and suppress kernels"] is False
    assert states(folder)["detect", "trt fp32 in one CUDA graph"] is True
