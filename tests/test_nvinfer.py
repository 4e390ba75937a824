"""TensorRT's and TensorRT-RTX's backends on a stand-in library that computes, and the real library without a GPU."""

import ctypes.util
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from edgeinfer import backends, cache, devices
from edgeinfer.backends import _nvwords
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BackendUnavailable, EngineError, EngineMismatch
from edgeinfer.lanes import Lane
from edgeinfer.pipeline import Pipeline
from edgeinfer.profiling import layers
from edgeinfer.spec import Batch
from helpers import bundles, fake_gpu, fake_nvinfer, vendornames
from helpers.patience import LONG_S

RELEASES = vendornames.releases()
COLORS = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def on(monkeypatch):
    """A machine with the stand-in GPU and a release of the library; gives the library."""

    def machine(release="10.3.0", answers=()):
        fake_gpu.install(monkeypatch)
        return fake_nvinfer.install(monkeypatch, release, answers=answers)

    return machine


def engine_of(folder, library, artifact=None, contexts=1):
    """A pipeline over the bundle's engine, put together by hand."""
    artifact = artifact or bundles.add_plan(folder, library)
    spec = Bundle.open(folder).spec
    backend = backends.load(artifact.format)
    device = devices.load("gpu")(spec)
    lanes = [Lane(device, backend(folder / artifact.file, spec, device))]
    for _ in range(contexts - 1):
        other = devices.load("gpu")(spec)
        lanes.append(Lane(other, lanes[0].engine.fork(other)))
    return Pipeline(spec, lanes)


def test_the_library_may_speak_of_what_is_freed_while_another_message_is_noted_down(on, monkeypatch):
    words = _nvwords.Words(on(), "trt")

    def freeing(line):
        if not freed:
            freed.append(line)
            words.hear("WARNING", "an engine was freed")
        return line

    freed = []
    monkeypatch.setattr(_nvwords, "plain", freeing)
    speaking = threading.Thread(target=words.hear, args=("ERROR", "no memory"), daemon=True)
    speaking.start()
    speaking.join(LONG_S)
    assert not speaking.is_alive()
    assert (freed, words.since(0)) == (["no memory"], ["no memory"])


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_runs_a_detector(on, detector, release):
    with engine_of(detector, on(release)) as model:
        for color in COLORS:
            assert [label for _, _, label in model(bundles.picture(color, 64, 64))] == [color]


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_runs_an_open_batch_of_any_size_in_any_order(on, tmp_path, release):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    with engine_of(folder, on(release)) as model:
        for count in (4, 1, 3, 4, 2, 1):
            colors = [COLORS[place % 3] for place in range(count)]
            found = model.batch([bundles.picture(color) for color in colors])
            assert [next(iter(one))[1] for one in found] == colors


@pytest.mark.parametrize("release", ["8.5.3.1", "8.6.1"])
def test_where_a_profile_takes_one_context_the_reason_against_a_cuda_graph_is_told(on, tmp_path, release):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    library = on(release)
    with engine_of(folder, library) as model:
        assert model.engine.capturable == ""
        model(bundles.picture())
        assert "one context" in model.engine.capturable
    with pytest.raises(EngineError, match="chosen by another"):
        engine_of(folder, library, Bundle.open(folder).spec.artifacts[-1], contexts=2)


def test_where_a_profile_takes_one_context_layers_are_not_timed_and_a_report_says_why(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    with engine_of(folder, on("8.5.3.1")) as model:
        inputs, _ = model.device.preprocess([bundles.picture()])
        found = layers.record(model.engine, inputs)
        assert (found["layers"], "chosen by another" in found["reason"]) == (None, True)
        assert next(iter(model(bundles.picture("blue"))))[1] == "blue"


def test_a_context_is_made_once_a_batch_size_and_told_shapes_and_addresses_once(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    library = on("10.3.0")
    with engine_of(folder, library) as model:
        pictures = [bundles.picture()] * 2
        model.batch(pictures)
        before = len(library.calls)
        for _ in range(5):
            model.batch(pictures)
        assert {name for name, _ in library.calls[before:]} == {"IExecutionContext.execute_async_v3"}
        assert len(library.made("ICudaEngine.create_execution_context")) == 2  # the largest at open, and two


def test_outputs_keep_their_addresses(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    with engine_of(folder, on()) as model:
        outputs = [model.engine.run(model.device.preprocess([bundles.picture()] * count)[0]) for count in (1, 2, 1, 4)]
        assert len({one["logits"].pointer for one in outputs}) == 1
        assert [one["logits"].shape for one in outputs] == [(1, 3), (2, 3), (1, 3), (4, 3)]
        assert outputs[1]["logits"].nbytes == 2 * 3 * 4
        assert outputs[1]["logits"].__cuda_array_interface__["shape"] == (2, 3)


def test_run_does_not_wait_for_the_gpu(on, detector):
    with engine_of(detector, on()) as model:
        tensors, _ = model.device.preprocess([bundles.picture("green")])
        output = model.engine.run(tensors)["output0"]
        before = fake_gpu.at(output.pointer, output.shape, output.dtype).copy()
        fake_gpu.wait(model.device.stream)
        after = fake_gpu.at(output.pointer, output.shape, output.dtype)
        assert np.all(before == 0)
        assert np.any(after != 0)


def test_contexts_of_one_lane_share_their_scratch_memory_and_lanes_do_not(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    library = on("10.3.0")
    with engine_of(folder, library, contexts=2) as model:
        model.batch([bundles.picture()] * 2)
        memories = [address for address, _ in library.made("IExecutionContext.set_device_memory")]
        assert len(memories) == 3
        assert len(set(memories)) == 2


def test_forks_share_one_engine(on, detector):
    library = on()
    with engine_of(detector, library, contexts=3) as model:
        assert len(library.made("Runtime.deserialize_cuda_engine")) == 1
        assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"]


def test_inputs_are_taken_from_where_they_are(on, classifier):
    with engine_of(classifier, on()) as model:
        places = [np.zeros((1, 3, 32, 32), np.float32) for _ in range(2)]
        for channel, place in enumerate(places):
            place[0, channel] = 1
        for best in (0, 1, 1, 0):
            outputs = model.engine.run({"images": fake_gpu.Tensor(places[best])})["logits"]
            fake_gpu.wait(model.device.stream)
            assert fake_gpu.at(outputs.pointer, outputs.shape, outputs.dtype).argmax() == best


@pytest.mark.parametrize("profiles", [[(1, 1, 8), (1, 8, 8)], [(1, 1, 1), (2, 8, 8)], [(1, 2, 8)]])
def test_the_profile_whose_usual_batch_is_nearest_is_taken(on, tmp_path, profiles):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 8))
    library = on("10.3.0")
    content = fake_nvinfer.plan((folder / "model.fp32.onnx").read_bytes(), "10.3.0", profiles=profiles)
    with engine_of(folder, library, bundles.add_plan(folder, library, content=content)) as model:
        assert len(model.batch([bundles.picture()] * 6)) == 6
        assert next(iter(model(bundles.picture("blue"))))[1] == "blue"
    chosen = [place for place, _ in library.made("IExecutionContext.set_optimization_profile_async")]
    assert chosen == ([1, 1] if len(profiles) == 2 else [])


def test_layers_are_timed_with_as_many_pictures_as_ran(on, tmp_path):
    library = on("10.3.0")
    with engine_of(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), library) as model:
        model.batch([bundles.picture()] * 2)
        model.engine.profile_layers()
    assert library.made("IExecutionContext.set_input_shape")[-1] == ("images", (2, 3, 32, 32))


def test_an_engine_that_the_library_finds_unfit_for_a_graph_says_so(on, detector):
    library = on("rtx-1.7.1.116", {"IExecutionContext.is_stream_capturable": False})
    with engine_of(detector, library) as model:
        assert model.engine.capturable == "the library says that this engine cannot be captured"


def test_layers_are_timed_on_a_context_of_their_own(on, detector):
    library = on()
    with engine_of(detector, library) as model:
        with pytest.raises(EngineError, match="before the first run"):
            model.engine.profile_layers()
        model(bundles.picture())
        before = len(library.made("IExecutionContext.execute_async_v3"))
        assert model.engine.profile_layers() == [("conv", 0.25), ("head", 0.5)]
        assert len(library.made("IExecutionContext.execute_async_v3")) == before + 2  # one to warm up
        tensors, _ = model.device.preprocess([bundles.picture()])
        assert len(model.engine.profile_layers(tensors)) == 2
        served = next(iter(model.engine._ready.values())).context
        assert "profiler" not in vars(served)


def test_rtx_replaces_no_kernel_once_a_frame_may_be_captured(on, detector):
    library = on("rtx-1.7.1.116")
    with engine_of(detector, library, bundles.add_plan(detector, library)):
        ((_, strategy),) = library.made("IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy")
        assert strategy is library.DynamicShapesKernelSpecializationStrategy.EAGER


def test_kernels_that_rtx_compiles_are_kept_and_given_back(on, detector):
    library = on("rtx-1.7.1.116")
    artifact = bundles.add_plan(detector, library)
    with engine_of(detector, library, artifact) as model:
        assert cache.read("rtx", f"{artifact.sha256[:32]}-sm86") is None
        for _ in range(2):
            model(bundles.picture())  # a service may be killed at any time: they are kept as soon as they are there
            assert len(library.made("IRuntimeCache.serialize")) == 1
        assert cache.read("rtx", f"{artifact.sha256[:32]}-sm86") == b"kernels compiled here"
    with engine_of(detector, library, artifact) as model:
        model(bundles.picture())
        assert library.made("ICudaEngine.create_execution_context")[-1] == (model.engine._plan.jit.config,)
    assert library.made("IRuntimeCache.deserialize") == [(b"kernels compiled here",)]


@pytest.mark.parametrize("kept", [b"", b"rubbish"])
def test_a_cache_of_kernels_that_is_broken_or_cannot_be_kept_stops_nothing(on, detector, monkeypatch, kept):
    library = on("rtx-1.7.1.116")
    artifact = bundles.add_plan(detector, library)
    if kept:
        cache.write("rtx", f"{artifact.sha256[:32]}-sm86", kept)
    else:
        monkeypatch.setattr(cache, "write", lambda *_: False)
    with engine_of(detector, library, artifact) as model:
        assert len(model(bundles.picture())) == 1


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
    with pytest.raises(EngineError, match=r"the last words") as caught, engine_of(folder, library) as model:
        model(bundles.picture())
    assert caught.value.hint


@pytest.mark.parametrize("call", ["Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"])
def test_out_of_memory_says_so(on, detector, call):
    library = on("10.3.0", {call: fake_nvinfer.failing("CUDA error 2: cudaErrorMemoryAllocation", None)})
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation") as caught:
        engine_of(detector, library)
    assert "other programs" in caught.value.hint


def test_an_engine_that_fails_while_running_can_run_again(on, detector):
    library = on("10.3.0")
    with engine_of(detector, library) as model:
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
        engine_of(detector, library, bundles.add_plan(detector, library, content=content))
    assert devices.load("gpu").live == 1  # the caller's own


def test_rtx_says_from_the_first_bytes_that_an_engine_will_not_run(on, detector):
    library = on("rtx-1.7.1.116")
    bad = library.EngineInvalidityDiagnostics.UNSUPPORTED_CC
    library._answers["Runtime.get_engine_validity"] = lambda *_: (library.EngineValidity.INVALID, int(bad))
    with pytest.raises(EngineError, match="unsupported cc"):
        engine_of(detector, library)
    assert library.made("Runtime.deserialize_cuda_engine") == []


def test_tensors_that_model_json_does_not_declare_are_refused(on, detector, tmp_path):
    library = on()
    other = bundles.classify_bundle(tmp_path / "other")
    content = fake_nvinfer.plan((other / "model.fp32.onnx").read_bytes(), library.__version__)
    with pytest.raises(EngineError, match=r"outputs are \['logits'\], model.json says \['output0'\]"):
        engine_of(detector, library, bundles.add_plan(detector, library, content=content))


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
        engine_of(detector, library)


@pytest.mark.parametrize("shape", [(1, 3, 32, 31), (1, 3, 32)], ids=str)
def test_tensors_of_another_shape_are_refused(on, detector, shape):
    library = on(answers={"ICudaEngine.get_tensor_shape": lambda *_: shape})
    with pytest.raises(EngineError, match=r"images is .* float32, model.json says \(1, 3, 32, 32\) float32") as caught:
        engine_of(detector, library)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(("core", "cores", "has"), [("0", 0, "none"), ("2", 2, "2"), ("first", 2, "2")])
def test_an_engine_for_a_dla_core_that_is_not_here_is_refused(on, detector, core, cores, has):
    library = on(answers={"Runtime.num_DLA_cores": cores})
    with pytest.raises(EngineMismatch, match=f"is for DLA core {core}, this machine has {has}"):
        engine_of(detector, library, bundles.add_plan(detector, library, dla=core))


@pytest.mark.parametrize("file", ["one.plan", "orin/one.plan"])
def test_an_engine_runs_on_the_dla_core_that_it_was_built_for(on, detector, file):
    library = on(answers={"Runtime.num_DLA_cores": 2})
    (detector / "orin").mkdir()
    with engine_of(detector, library, bundles.add_plan(detector, library, name=file, dla="1")) as model:
        assert model.engine._plan.runtime.DLA_core == 1


@pytest.mark.parametrize(("profile", "batch"), [((1, 2, 4), 8), ((2, 4, 8), 1)])
def test_an_engine_built_for_other_batches_is_refused(on, tmp_path, profile, batch):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 8))
    library = on()
    content = fake_nvinfer.plan((folder / "model.fp32.onnx").read_bytes(), "10.3.0", profiles=[profile])
    with pytest.raises(EngineMismatch, match=f"the model takes {batch} too"):
        engine_of(folder, library, bundles.add_plan(folder, library, content=content))


@pytest.mark.parametrize("trusted", ["", "1"])
def test_code_of_an_engine_runs_only_where_the_user_trusts_it(on, detector, monkeypatch, trusted):
    monkeypatch.setenv("EDGEINFER_TRUST_ENGINES", trusted)
    library = on("10.3.0")
    engine_of(detector, library).close()
    allowed = [value for _, value in library.made("Runtime.engine_host_code_allowed")]
    assert allowed == ([True] if trusted else [])


def test_a_runtime_that_does_not_start_is_unavailable(on, detector):
    def start(*_):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library = on("10.3.0", {"Runtime.__init__": start})
    with pytest.raises(BackendUnavailable, match=r"tensorrt 10\.3\.0 does not start: .*nullptr"):
        engine_of(detector, library)


def test_a_closed_engine_lets_go_of_the_library_and_says_so(on, detector):
    library = on()
    model = engine_of(detector, library, contexts=2)
    plan = model.engine._plan
    engine = model.engine
    model.close()
    engine.close()
    assert plan.engine is None
    with pytest.raises(EngineError, match="closed"):
        engine.run({"images": fake_gpu.Tensor(np.zeros((1, 3, 32, 32), np.float32))})


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_what_the_library_holds_it_frees_in_the_gpus_context(on, detector, closed):
    model = engine_of(detector, on(), contexts=2)
    current = []
    for lane in model._lanes._fleet.lanes:
        for ready in lane.engine._ready.values():
            weakref.finalize(ready.context, lambda: current.append(fake_gpu.Context.depth))
    weakref.finalize(model.engine._plan.engine, lambda: current.append(fake_gpu.Context.depth))
    del lane, ready
    if closed:
        model.close()
    del model

    assert current == [1, 1, 1]


def test_the_lean_runtime_takes_the_place_of_a_missing_tensorrt(on, monkeypatch):
    library = on()
    library.__name__ = "tensorrt_lean"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", library)
    assert backends.load("trt").library == "tensorrt_lean 10.3.0"


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
