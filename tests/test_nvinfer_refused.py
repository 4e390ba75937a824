"""What TensorRT and TensorRT-RTX refuse or fail at is one error with its reason; the real library without a GPU."""

import ctypes.util
import subprocess
import sys

import pytest

from edgeinfer import backends, devices
from edgeinfer.errors import BackendUnavailable, EngineError, EngineMismatch
from edgeinfer.spec import Batch
from helpers import bundles, fake_nvinfer
from helpers.patience import LONG_S

WORDS = "Error Code 9: Internal Error (the last words)"


@pytest.mark.parametrize(
    ("release", "call", "value"),
    [
        ("10.3.0", "Runtime.deserialize_cuda_engine", None),
        ("10.3.0", "ICudaEngine.create_execution_context", None),
        ("8.5.3.1", "ICudaEngine.create_execution_context_without_device_memory", None),
        ("rtx-1.7.1.116", "ICudaEngine.create_execution_context", None),
        ("rtx-1.7.1.116", "IRuntimeConfig.set_runtime_cache", False),
        ("10.3.0", "IExecutionContext.set_input_shape", False),
        ("10.3.0", "IExecutionContext.set_tensor_address", False),
        ("10.3.0", "IExecutionContext.execute_async_v3", False),
    ],
)
def test_a_call_that_fails_is_one_error_with_nvidias_last_words(on, tmp_path, release, call, value):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 2))
    library = on(release, {call: fake_nvinfer.failing(WORDS, value)})
    with pytest.raises(EngineError, match=r"the last words") as caught, bundles.engine_of(folder, library) as model:
        model(bundles.picture())
    assert caught.value.hint


@pytest.mark.parametrize("call", ["Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"])
def test_out_of_memory_says_so(on, detector, call):
    library = on("10.3.0", {call: fake_nvinfer.failing("CUDA error 2: cudaErrorMemoryAllocation", None)})
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation") as caught:
        bundles.engine_of(detector, library)
    assert "other programs" in caught.value.hint


def test_an_engine_that_fails_while_running_can_run_again(on, detector):
    library = on("10.3.0")
    with bundles.engine_of(detector, library) as model:
        works = library._answers["IExecutionContext.execute_async_v3"]
        library._answers["IExecutionContext.execute_async_v3"] = fake_nvinfer.failing(WORDS, False)
        with pytest.raises(EngineError, match="does not run"):
            model(bundles.picture())
        library._answers["IExecutionContext.execute_async_v3"] = works
        assert len(model(bundles.picture())) == 1


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"garbage", EngineMismatch, "magic tag"),
        (b"", EngineError, "cannot be read"),
        (fake_nvinfer.plan(b"", "10.7.0"), EngineMismatch, "Version tag"),
        (fake_nvinfer.plan(b"", "10.3.0", sm="75"), EngineMismatch, "expecting compute 86 got 75"),
    ],
    ids=["corrupt", "empty", "other release", "other GPU"],
)
def test_an_engine_that_cannot_be_opened_says_why(on, detector, content, kind, words):
    library = on()
    with pytest.raises(kind, match=words):
        bundles.engine_of(detector, library, bundles.add_plan(detector, library, content=content))
    assert devices.load("gpu").live == 1  # the caller's own


def test_rtx_says_from_the_first_bytes_that_an_engine_will_not_run(on, detector):
    library = on("rtx-1.7.1.116")
    bad = library.EngineInvalidityDiagnostics.UNSUPPORTED_CC
    library._answers["Runtime.get_engine_validity"] = lambda *_: (library.EngineValidity.INVALID, int(bad))
    with pytest.raises(EngineError, match="unsupported cc"):
        bundles.engine_of(detector, library)
    assert library.made("Runtime.deserialize_cuda_engine") == []


def test_tensors_that_model_json_does_not_declare_are_refused(on, detector, tmp_path):
    library = on()
    other = bundles.classify_bundle(tmp_path / "other")
    content = fake_nvinfer.plan((other / "model.fp32.onnx").read_bytes(), library.__version__)
    with pytest.raises(EngineError, match=r"outputs are \['logits'\], model.json says \['output0'\]"):
        bundles.engine_of(detector, library, bundles.add_plan(detector, library, content=content))


@pytest.mark.parametrize(
    ("call", "member", "words"),
    [
        ("get_tensor_dtype", "DataType.HALF", "is .* float16, model.json says .* float32"),
        ("get_tensor_location", "TensorLocation.HOST", "lies in main memory"),
        ("get_tensor_format", "TensorFormat.CHW32", "laid out as CHW32"),
    ],
)
def test_tensors_that_are_not_plain_are_refused(on, detector, call, member, words):
    library = on()
    owner, name = member.split(".")
    library._answers[f"ICudaEngine.{call}"] = lambda *_: getattr(getattr(library, owner), name)
    with pytest.raises(EngineError, match=words):
        bundles.engine_of(detector, library)


@pytest.mark.parametrize("shape", [(1, 3, 32, 31), (1, 3, 32)], ids=str)
def test_tensors_of_another_shape_are_refused(on, detector, shape):
    library = on(answers={"ICudaEngine.get_tensor_shape": lambda *_: shape})
    with pytest.raises(EngineError, match=r"images is .* float32, model.json says \(1, 3, 32, 32\) float32") as caught:
        bundles.engine_of(detector, library)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(("core", "cores", "has"), [("0", 0, "none"), ("2", 2, "2"), ("first", 2, "2")])
def test_an_engine_for_a_dla_core_that_is_not_here_is_refused(on, detector, core, cores, has):
    library = on(answers={"Runtime.num_DLA_cores": cores})
    with pytest.raises(EngineMismatch, match=f"is for DLA core {core}, this machine has {has}"):
        bundles.engine_of(detector, library, bundles.add_plan(detector, library, dla=core))


@pytest.mark.parametrize("file", ["one.plan", "orin/one.plan"])
def test_an_engine_runs_on_the_dla_core_that_it_was_built_for(on, detector, file):
    library = on(answers={"Runtime.num_DLA_cores": 2})
    (detector / "orin").mkdir()
    with bundles.engine_of(detector, library, bundles.add_plan(detector, library, name=file, dla="1")) as model:
        assert model.engine._plan.runtime.DLA_core == 1


@pytest.mark.parametrize(("profile", "batch"), [((1, 2, 4), 8), ((2, 4, 8), 1)])
def test_an_engine_built_for_other_batches_is_refused(on, tmp_path, profile, batch):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 8))
    library = on()
    content = fake_nvinfer.plan((folder / "model.fp32.onnx").read_bytes(), "10.3.0", profiles=[profile])
    with pytest.raises(EngineMismatch, match=f"the model takes {batch} too"):
        bundles.engine_of(folder, library, bundles.add_plan(folder, library, content=content))


@pytest.mark.parametrize("trusted", ["", "1"])
def test_code_of_an_engine_runs_only_where_the_user_trusts_it(on, detector, monkeypatch, trusted):
    monkeypatch.setenv("EDGEINFER_TRUST_ENGINES", trusted)
    library = on("10.3.0")
    bundles.engine_of(detector, library).close()
    allowed = [value for _, value in library.made("Runtime.engine_host_code_allowed")]
    assert allowed == ([True] if trusted else [])


def test_a_runtime_that_does_not_start_is_unavailable(on, detector):
    def start(*_):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library = on("10.3.0", {"Runtime.__init__": start})
    with pytest.raises(BackendUnavailable, match=r"tensorrt 10\.3\.0 does not start: .*nullptr"):
        bundles.engine_of(detector, library)


def test_a_missing_library_names_the_command_that_brings_it(monkeypatch):
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"):
        monkeypatch.setitem(sys.modules, name, None)
    fake_nvinfer.forget(monkeypatch, "trt")
    with pytest.raises(BackendUnavailable, match="tensorrt is not installed") as caught:
        backends.load("trt")
    assert "python3-libnvinfer" in caught.value.hint


REAL = """
import sys
from types import SimpleNamespace
from edgeinfer import backends, load
from edgeinfer.bundle import Bundle
from edgeinfer.errors import EdgeInferError
from pathlib import Path
bundle = Bundle.open(sys.argv[1])
for attempt in (
    lambda: backends.load("rtx")(Path(sys.argv[1]) / "rtx.plan", bundle.spec, SimpleNamespace(ordinal=0)),
    lambda: load(bundle, backend="rtx"),
):
    try:
        attempt()
    except EdgeInferError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="this machine has a driver")
def test_the_real_library_without_a_driver_is_refused_and_not_touched(detector):
    pytest.importorskip("tensorrt_rtx")
    (detector / "rtx.plan").write_bytes(b"anything")
    command = [sys.executable, "-c", REAL, str(detector)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("BackendUnavailable this machine has no NVIDIA driver")
    assert second.startswith("BackendUnavailable nothing here runs")
    assert second.endswith("rtx: this machine has no NVIDIA GPU")


UNSTARTED = """
import sys
from types import SimpleNamespace
from pathlib import Path
from edgeinfer import backends, machine
from edgeinfer.bundle import Bundle
from edgeinfer.errors import EdgeInferError
from contextlib import nullcontext
machine.gpu = lambda _: machine.Gpu("86", "A10", "12.8")
bundle = Bundle.open(sys.argv[1])
device = SimpleNamespace(context=SimpleNamespace(alone=nullcontext), ordinal=0)
try:
    backends.load("rtx")(Path(sys.argv[1]) / "rtx.plan", bundle.spec, device)
except EdgeInferError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="this machine has a driver")
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"anything", "malformed engine"), (b"", "cannot be read"), (b"vtrt" + bytes(200), "CUDA driver version")],
    ids=["garbage", "empty", "a header"],
)
def test_the_real_librarys_own_refusal_is_one_error_with_its_words(detector, content, words):
    """As on a GPU, but for the driver: the library itself says that it cannot go on."""
    pytest.importorskip("tensorrt_rtx")
    (detector / "rtx.plan").write_bytes(content)
    command = [sys.executable, "-c", UNSTARTED, str(detector)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Engine")
    assert words in done.stdout
