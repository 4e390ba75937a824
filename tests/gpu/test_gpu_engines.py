"""TensorRT's backend on the whole GPU path: a stand-in library whose work goes through the driver's streams."""

import ctypes
import dataclasses
import importlib
import itertools
import json
import sys
import threading
import time
import types
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from edgeinfer import cli, load, machine, plans, profile
from edgeinfer.backends import _nvplan
from edgeinfer.bundle import Bundle, sha256_of
from edgeinfer.devices._driver import Context, call, library
from edgeinfer.devices._memory import view
from edgeinfer.errors import BackendUnavailable, DeviceLost, EdgeInferError, UsageError
from edgeinfer.loading import choose
from edgeinfer.plans import Choice, Plan
from edgeinfer.profiling.sensors import nvml
from edgeinfer.spec import Batch
from edgeinfer.tuning import _entrant, candidates
from gpu import models
from helpers import bundles, fake_nvinfer


class Pinned:
    """Page-locked arrays, one for each use, since a capture allows no fresh ones; freed together."""

    def __init__(self):
        self._held = {}

    def __call__(self, use, shape, dtype):
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if (use, shape) not in self._held:
            self._held[use, shape] = int(call("cuMemHostAlloc", nbytes, 0))
        return view(self._held[use, shape], nbytes).view(dtype).reshape(shape)

    def free(self):
        for address in self._held.values():
            call("cuMemFreeHost", address)


def through_the_driver(memory, kept):
    """As `Library.enqueue`, on a real stream: inputs down, arithmetic in a host function, outputs up."""

    def enqueue(stream, given, taken, compute):
        handle = library().CUstream(stream)
        sides = {
            name: memory((stream, name), shape, np.dtype(dtype))
            for name, (_, shape, dtype) in {**given, **taken}.items()
        }

        @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def work(_):
            for name, value in compute({name: sides[name] for name in given}).items():
                sides[name][...] = value

        kept.append((sides, work))
        for name, (pointer, _, _) in given.items():
            call("cuMemcpyDtoHAsync", sides[name].ctypes.data, pointer, sides[name].nbytes, handle)
        launch = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc
        launch.argtypes = [ctypes.c_void_p, type(work), ctypes.c_void_p]
        assert launch(stream, work, None) == 0
        for name, (pointer, _, _) in taken.items():
            call("cuMemcpyHtoDAsync", pointer, sides[name].ctypes.data, sides[name].nbytes, handle)

    return enqueue


def waiting(answer):
    def function(*given):
        call("cuCtxSynchronize")
        return answer(*given)

    return function


@pytest.fixture
def nvidia(monkeypatch, tmp_path):
    """A function of a release: the stand-in library of that release, on this driver's GPU, be it a real one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    memory, kept, contexts = Pinned(), [], []

    def install(release="10.3.0", ordinal=0):
        trt = fake_nvinfer.install(monkeypatch, release, sm=machine.gpu(ordinal).sm)
        contexts.append(Context(ordinal))
        trt.enqueue = through_the_driver(memory, kept)
        trt.current = lambda: int(call("cuCtxGetCurrent")) == int(contexts[-1].handle)
        # opening an engine waits for the whole GPU
        for name in ("Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"):
            trt._answers[name] = waiting(trt._answers[name])
        return trt

    yield install
    for context in contexts[:1]:  # none where a real driver ends the test before it begins
        with context:
            memory.free()
    for context in contexts:
        context.close()
    machine.gpu.cache_clear()


def planned(folder, trt, ordinal=0):
    """The bundle with an engine of this library, for this GPU."""
    bundles.add_plan(folder, trt, gpu=machine.gpu(ordinal).name, os=machine.system())
    return folder


@pytest.fixture
def bundle(nvidia, tmp_path):
    """The pictogram detector for batches of 1 to 4, with an engine for the stand-in GPU."""
    return planned(models.exported(tmp_path), nvidia())


def test_an_engine_runs_in_one_graph_and_finds_what_the_cpu_finds(bundle):
    images = models.pictures(2)
    with load(bundle) as model, load(bundle, "ort") as reference:
        assert model.backend == "trt"
        for picture in images * 3:
            found, wanted = model(picture), reference(picture)
            assert found.class_ids.tolist() == wanted.class_ids.tolist()
            assert np.allclose(found.boxes, wanted.boxes, atol=0.5)
        assert model.graph == ""


@pytest.mark.parametrize(("sm", "target"), [("75", "rtx:sm75"), ("89", "rtx:sm89"), ("90", ""), ("87", "")])
def test_where_tensorrt_rtx_has_no_engine_for_a_gpu_its_tests_are_skipped_for_that(monkeypatch, sm, target):
    monkeypatch.setattr(machine, "gpu", lambda: machine.Gpu(sm, "a GPU", "13.0"))
    assert (models.target("trt"), models.target("ort_gpu")) == ("trt", "")
    with nullcontext() if target else pytest.raises(UsageError, match=f"does not compile for sm{sm}"):
        assert models.target("rtx") == target


def test_an_engine_alone_runs_whichever_context_is_current(bundle, driver):
    pointer = driver.foreign(64)
    with load(bundle, self_test=False) as model, load(bundle, "ort") as reference:
        with model.device.context:
            other = call("cuPointerGetAttribute", library().CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT, pointer)
        tensors = {"images": np.random.default_rng(0).random(model.spec.inputs[0].at(2), np.float32)}
        call("cuCtxPushCurrent", other)
        try:
            found = model.infer(tensors)
            assert int(call("cuCtxGetCurrent")) == int(other)
        finally:
            call("cuCtxPopCurrent")
        for name, array in reference.infer(tensors).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)


def test_batches_in_turns_do_not_mix(bundle):
    images = models.pictures(3)
    with load(bundle, self_test=False) as model:
        alone = [models.rows(model(picture)) for picture in images]
        for count in (3, 1, 3, 2, 1):
            together = [models.rows(found) for found in model.batch(images[:count])]
            assert [classes for classes, *_ in together] == [classes for classes, *_ in alone[:count]]
        assert model.graph == ""


def labels(results):
    """The best class of each result."""
    return [one.labels[one.class_ids[0]] for one in results]


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0", "11.4.0.106", "rtx-1.7.1.116"])
def test_a_release_of_each_kind_is_captured_and_replayed_on_every_lane(nvidia, tmp_path, release):
    folder = planned(bundles.detect_bundle(tmp_path / "detector"), nvidia(release))
    with load(folder, contexts=2) as model:
        for color in bundles.COLORS * 3:
            assert labels([model(bundles.picture(color, 50, 40))]) == [color]
        assert model.graph == ""


def test_sixteen_threads_on_an_engine_never_get_each_others_results(nvidia, tmp_path):
    folder = planned(bundles.detect_bundle(tmp_path / "detector"), nvidia())
    images = [bundles.picture(color, 50, 40) for color in bundles.COLORS]
    with load(folder, contexts=3, self_test=False) as model:
        assert models.mixed(model, images, 160) == 0
        turns = itertools.cycle(range(4))
        assert models.mixed(lambda _: model(images[next(turns) % 3]), images, 32) > 0  # one that mixes is found out


@pytest.mark.parametrize("replayed", [False, True])
def test_a_gpu_lost_under_an_engine_is_fatal_and_says_so(nvidia, driver, tmp_path, replayed):
    folder = planned(bundles.detect_bundle(tmp_path / "detector"), nvidia())
    model, image = load(folder, contexts=2, self_test=False), bundles.picture("red", 50, 40)
    for _ in range(4 * replayed):
        model(image)
    driver.lose(719)
    for _ in range(3):
        with pytest.raises(DeviceLost, match=r"lost to this process: .* CUDA_ERROR_LAUNCH_FAILED \(719\)") as caught:
            model(image)
        assert caught.value.hint.startswith("restart the process")
    driver.lose(0)
    model.close()


def colors(count):
    return [bundles.COLORS[place % 3] for place in range(count)]


def test_an_open_batch_has_a_graph_for_every_size(nvidia, driver, tmp_path):
    folder = planned(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), nvidia())
    with load(folder) as model:
        for count in (4, 1, 3, 2) * 3:
            assert labels(model.batch([bundles.picture(color) for color in colors(count)])) == colors(count)
        assert (model.graph, driver.live()["ready graph"]) == ("", 4)


def test_a_graph_that_was_set_off_is_not_captured_and_the_same_is_found(bundle, driver):
    (file,) = [one.file for one in Bundle.open(bundle).spec.artifacts if one.format == "trt"]
    (image,) = models.pictures(1)
    with load(bundle, self_test=False) as model:
        wanted = models.rows(model(image))
    with load(bundle, plan=Choice("trt", file, settings={"graph": "off"}), contexts=2, self_test=False) as model:
        assert [models.rows(model(image)) for _ in range(4)] == [wanted] * 4
        assert "graph off" in model.graph
        assert all("graph off" in lane.way.graph for lane in model._lanes._fleet.lanes)
        assert driver.live().get("ready graph", 0) == 0


def test_frames_are_captured_while_other_engines_are_opened(nvidia, tmp_path):
    trt = nvidia()
    folder, enqueue = planned(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), trt), trt.enqueue

    def slowly(*given):
        time.sleep(0.003)  # others come to work within a capture
        enqueue(*given)

    trt.enqueue = slowly
    stop, failed = threading.Event(), []

    def open_and_close():
        while not stop.is_set():
            try:
                load(folder, contexts=2, self_test=False).close()
            except EdgeInferError as error:
                failed.append(error)

    opening = threading.Thread(target=open_and_close)
    opening.start()
    try:
        with load(folder, self_test=False) as model:
            for width in range(40, 70):  # each is captured when it comes again
                for _ in range(2):
                    assert labels([model(bundles.picture("red", 50, width))]) == ["red"]
            assert model.graph == ""
    finally:
        stop.set()
        opening.join()

    assert failed == []


def test_where_one_context_serves_all_sizes_nothing_captured_is_kept(nvidia, driver, tmp_path):
    folder = planned(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), nvidia("8.5.3.1"))
    with load(folder, self_test=False) as model:
        for count in (4, 4, 4, 1, 4, 1, 2, 2):
            assert labels(model.batch([bundles.picture(color) for color in colors(count)])) == colors(count)
        assert "one context" in model.graph
        assert driver.live().get("ready graph", 0) == 0


def test_no_graph_is_replayed_once_a_call_of_the_engine_alone_has_changed_the_only_contexts_shape(
    nvidia, driver, tmp_path
):
    folder = planned(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), nvidia("8.5.3.1"))
    with load(folder, self_test=False) as model:
        pictures = [bundles.picture(color) for color in colors(4)]
        for _ in range(3):
            model.batch(pictures)
        (tensor,) = model.spec.inputs
        model.infer({tensor.name: np.zeros(tensor.at(1), tensor.dtype)})
        before = driver.calls()["cuGraphLaunch"]
        assert labels(model.batch(pictures)) == colors(4)
        assert (before > 0, driver.calls()["cuGraphLaunch"]) == (True, before)


def test_what_was_captured_is_freed_before_the_engine_whose_kernels_it_runs(nvidia, driver, tmp_path, monkeypatch):
    left, release = [], _nvplan.Plan.release
    monkeypatch.setattr(_nvplan.Plan, "release", lambda plan: left.append(driver.live()) or release(plan))
    folder = planned(bundles.detect_bundle(tmp_path / "detector"), nvidia())
    with load(folder, contexts=2, self_test=False) as model:
        for _ in range(3):
            model(bundles.picture("red", 50, 40))
        assert driver.live()["ready graph"] == 1
    assert "ready graph" not in left[-1]


def test_the_second_gpu_runs_what_was_built_for_it_and_the_first_refuses_it(nvidia, driver, tmp_path):
    driver.be_several(2)
    folder = planned(bundles.detect_bundle(tmp_path / "detector"), nvidia(ordinal=1), ordinal=1)
    with load(folder, device="gpu:1") as model:
        assert (model.backend, model.device.ordinal, model.device.name) == ("trt", 1, "Stand-in 1")
        for color in bundles.COLORS * 3:
            assert labels([model(bundles.picture(color, 50, 40))]) == [color]
        assert model.graph == ""
    with pytest.raises(BackendUnavailable, match="built for sm_89, this GPU is sm_86"):
        load(folder)
    with pytest.raises(BackendUnavailable, match=r"built for sm_89, this GPU is sm_86.* ort: gpu:0 was asked for"):
        load(folder, device="gpu")


@pytest.fixture
def second(nvidia, driver, tmp_path):
    """A bundle with an engine for the second of two GPUs; (its folder, the library)."""
    driver.be_several(2)
    trt = nvidia(ordinal=1)
    return planned(bundles.detect_bundle(tmp_path / "detector"), trt, ordinal=1), trt


def test_a_measurement_is_of_the_gpu_that_was_asked_for(second):
    data = profile(second[0], scenario=["single-stream", "paced"], device="gpu:1", seconds=0.05).data
    assert (data["context"]["backend"], data["context"]["device_kind"]) == ("trt", "gpu")
    assert data["context"]["device"]["gpu"] == "Stand-in 1, compute 89"


def test_candidates_are_those_of_the_gpu_that_was_asked_for(second):
    bundle = Bundle.open(second[0])
    assert choose(bundle, plan=False, device="gpu:1").backend == "trt"
    assert "trt" in [kind.backend for kind in candidates.kinds(bundle, 1)]
    assert "trt" not in [kind.backend for kind in candidates.kinds(bundle, 0)]
    asked = {"choice": dataclasses.asdict(choose(bundle, plan=False, device="gpu:1")), "device": "gpu:1"}
    with _entrant._loaded(bundle, asked) as model:
        assert model.device.ordinal == 1


def test_a_plan_is_for_the_gpu_it_was_made_on_and_info_tells_it(second, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    bundle = Bundle.open(second[0])
    choice = dataclasses.replace(choose(bundle, plan=False, device="gpu:1"), settings={"graph": "off"})
    of_bundle = sha256_of(bundle.path / "model.json")
    plan = Plan(choice, "2026-11-21", "latency", 1.0, bundle=of_bundle, here=plans.fingerprint(1))
    plans.write(plan, bundle, 1)
    with load(bundle, device="gpu:1") as model:
        assert model.plan == plan.words()
        assert "graph off" in model.graph
    assert (plans.read(bundle), plans.read(bundle, 0)) == (None, None)
    assert cli.main(["info", str(bundle.path), "--device", "gpu:1"]) == 0
    assert plan.words() in capsys.readouterr().out
    assert cli.main(["tune", str(bundle.path), "--device", "gpu:1", "--forget"]) == 0
    assert plans.read(bundle, 1) is None


def test_verify_tries_the_engines_of_the_gpu_that_was_asked_for(second, capsys):
    assert cli.main(["verify", str(second[0]), "--device", "gpu:1"]) == 0
    assert "on trt " in capsys.readouterr().out


def test_an_engine_is_built_on_the_gpu_that_was_asked_for(second, capsys):
    folder, trt = second
    current = []
    build = trt._answers["Builder.build_serialized_network"]
    trt._answers["Builder.build_serialized_network"] = lambda *given: current.append(trt.current()) or build(*given)
    assert cli.main(["build", str(folder), "--compile", "trt", "--device", "gpu:1", "--json"]) == 0
    assert current == [True]
    assert json.loads(capsys.readouterr().out)["target"]["gpu"] == "Stand-in 1"
    assert cli.main(["build", str(folder), "--compile", "rtx:sm86", "--device", "gpu:1"]) == 2
    assert "no need of a GPU" in capsys.readouterr().err


def test_sensors_are_those_of_the_gpu_that_was_asked_for(driver, monkeypatch):
    """NVML counts by slot: the stand-in's second GPU is its first."""
    driver.be_several(2)
    slots = [b"0000:08:00.0", b"0000:09:00.0"]
    told = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(slots),
        nvmlDeviceGetHandleByIndex=slots.__getitem__,
        nvmlDeviceGetHandleByPciBusId=lambda slot: slots[slots.index(slot)],
        nvmlDeviceGetName=bytes.decode,
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", told)
    assert [nvml.facts(gpu)["gpu"] for gpu in (0, 1)] == ["0000:09:00.0", "0000:08:00.0"]
    assert set(nvml.Probe(gpu=2).unknown.values()) == {"there is no gpu:2 here: CUDA counts 2, from gpu:0"}
    del slots[1]  # the only one, whatever slot it is in
    assert nvml.facts(0)["gpu"] == "0000:08:00.0"


def test_a_gpu_that_is_not_there_is_one_error_with_its_remedy(nvidia, driver, tmp_path, capsys):
    driver.be_several(2)
    nvidia()
    folder = bundles.detect_bundle(tmp_path / "detector")
    picture = str(folder / "golden")
    for verb in (
        ["run", picture],
        ["profile"],
        ["tune"],
        ["compare", picture],
        ["build", "--compile", "trt"],
        ["info"],
    ):
        assert cli.main([verb[0], str(folder), *verb[1:], "--device", "gpu:2"]) == 1
        error, hint = capsys.readouterr().err.splitlines()
        assert error == "error: there is no gpu:2 here: CUDA counts 2, from gpu:0"
        assert "CUDA_VISIBLE_DEVICES" in hint


def test_the_benchmark_measures_a_frame_beside_its_engine(nvidia, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    clock, frames = (importlib.import_module(name) for name in ("gpuclock", "gpuframes"))
    folder = planned(bundles.detect_bundle(tmp_path / "detector"), nvidia())
    with load(folder) as model:
        row = frames.engine(clock.Bench(quick=True), "trt", model)

    assert (row["backend"], row["graph"]) == ("trt", "yes")
    assert min(row["frame_ms"], row["engine_and_upload_ms"], row["ratio"]) > 0
