"""TensorRT's and TensorRT-RTX's backends on a stand-in library that computes."""

import sys
import threading
import weakref

import numpy as np
import pytest

from edgeinfer import backends, cache
from edgeinfer.backends import Layer, _nvlibrary
from edgeinfer.bundle import Bundle
from edgeinfer.errors import EngineError
from edgeinfer.profiling import layers
from edgeinfer.spec import Batch
from helpers import bundles, fake_gpu, fake_nvinfer, vendornames
from helpers.patience import LONG_S

RELEASES = vendornames.releases()


COLORS = ("red", "green", "blue")


def test_the_library_may_speak_of_what_is_freed_while_another_message_is_noted_down(on, monkeypatch):
    messages = _nvlibrary.Messages(on(), "trt")

    def freeing(line):
        if not freed:
            freed.append(line)
            messages.hear("WARNING", "an engine was freed")
        return line

    freed = []
    monkeypatch.setattr(_nvlibrary, "plain", freeing)
    speaking = threading.Thread(target=messages.hear, args=("ERROR", "no memory"), daemon=True)
    speaking.start()
    speaking.join(LONG_S)
    assert not speaking.is_alive()
    assert (freed, messages.since(0)) == (["no memory"], ["no memory"])


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_runs_a_detector(on, detector, release):
    with bundles.engine_of(detector, on(release)) as model:
        for color in COLORS:
            assert [label for _, _, label in model(bundles.picture(color, 64, 64))] == [color]


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_runs_an_open_batch_of_any_size_in_any_order(on, tmp_path, release):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    with bundles.engine_of(folder, on(release)) as model:
        for count in (4, 1, 3, 4, 2, 1):
            colors = [COLORS[place % 3] for place in range(count)]
            found = model.batch([bundles.picture(color) for color in colors])
            assert [next(iter(one))[1] for one in found] == colors


@pytest.mark.parametrize("release", ["8.5.3.1", "8.6.1"])
def test_where_a_profile_takes_one_context_the_reason_against_a_cuda_graph_is_told(on, tmp_path, release):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    library = on(release)
    with bundles.engine_of(folder, library) as model:
        assert model.engine.uncapturable == ""
        model(bundles.picture())
        assert "one context" in model.engine.uncapturable
    with pytest.raises(EngineError, match="chosen by another"):
        bundles.engine_of(folder, library, Bundle.open(folder).spec.artifacts[-1], contexts=2)


def test_where_a_profile_takes_one_context_layers_are_not_timed_and_a_report_says_why(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    with bundles.engine_of(folder, on("8.5.3.1")) as model:
        inputs, _ = model.device.preprocess([bundles.picture()])
        found = layers.record(model.engine, inputs)
        assert (found["layers"], "chosen by another" in found["reason"]) == (None, True)
        assert next(iter(model(bundles.picture("blue"))))[1] == "blue"


def test_a_context_is_made_once_a_batch_size_and_told_shapes_and_addresses_once(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    library = on("10.3.0")
    with bundles.engine_of(folder, library) as model:
        pictures = [bundles.picture()] * 2
        model.batch(pictures)
        before = len(library.calls)
        for _ in range(5):
            model.batch(pictures)
        assert {name for name, _ in library.calls[before:]} == {"IExecutionContext.execute_async_v3"}
        assert len(library.made("ICudaEngine.create_execution_context")) == 2  # the largest at open, and two


def test_outputs_keep_their_addresses(on, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    with bundles.engine_of(folder, on()) as model:
        outputs = [model.engine.run(model.device.preprocess([bundles.picture()] * count)[0]) for count in (1, 2, 1, 4)]
        assert len({one["logits"].pointer for one in outputs}) == 1
        assert [one["logits"].shape for one in outputs] == [(1, 3), (2, 3), (1, 3), (4, 3)]
        assert outputs[1]["logits"].nbytes == 2 * 3 * 4
        assert outputs[1]["logits"].__cuda_array_interface__["shape"] == (2, 3)


def test_run_does_not_wait_for_the_gpu(on, detector):
    with bundles.engine_of(detector, on()) as model:
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
    with bundles.engine_of(folder, library, contexts=2) as model:
        model.batch([bundles.picture()] * 2)
        memories = [address for address, _ in library.made("IExecutionContext.set_device_memory")]
        assert len(memories) == 3
        assert len(set(memories)) == 2


def test_forks_share_one_engine(on, detector):
    library = on()
    with bundles.engine_of(detector, library, contexts=3) as model:
        assert len(library.made("Runtime.deserialize_cuda_engine")) == 1
        assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"]


def test_inputs_are_taken_from_where_they_are(on, classifier):
    with bundles.engine_of(classifier, on()) as model:
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
    with bundles.engine_of(folder, library, bundles.add_plan(folder, library, content=content)) as model:
        assert len(model.batch([bundles.picture()] * 6)) == 6
        assert next(iter(model(bundles.picture("blue"))))[1] == "blue"
    chosen = [place for place, _ in library.made("IExecutionContext.set_optimization_profile_async")]
    assert chosen == ([1, 1] if len(profiles) == 2 else [])


def test_layers_are_timed_with_as_many_pictures_as_are_given(on, tmp_path):
    library = on("10.3.0")
    with bundles.engine_of(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), library) as model:
        tensors, _ = model.device.preprocess([bundles.picture()] * 2)
        model.engine.profile_layers(tensors)
    assert library.made("IExecutionContext.set_input_shape")[-1] == ("images", (2, 3, 32, 32))


def test_an_engine_that_the_library_finds_unfit_for_a_graph_says_so(on, detector):
    library = on("rtx-1.7.1.116", {"IExecutionContext.is_stream_capturable": False})
    with bundles.engine_of(detector, library) as model:
        assert model.engine.uncapturable == "the library says that this engine cannot be captured"


def test_layers_are_timed_on_a_context_of_their_own(on, detector):
    library = on()
    with bundles.engine_of(detector, library) as model:
        model(bundles.picture())
        before = len(library.made("IExecutionContext.execute_async_v3"))
        tensors, _ = model.device.preprocess([bundles.picture()])
        assert model.engine.profile_layers(tensors) == [Layer("conv", 0.25), Layer("head", 0.5)]
        assert len(library.made("IExecutionContext.execute_async_v3")) == before + 2  # one to warm up
        served = next(iter(model.engine._contexts.values())).context
        assert "profiler" not in vars(served)


def test_rtx_replaces_no_kernel_once_a_frame_may_be_captured(on, detector):
    library = on("rtx-1.7.1.116")
    with bundles.engine_of(detector, library, bundles.add_plan(detector, library)):
        ((_, strategy),) = library.made("IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy")
        assert strategy is library.DynamicShapesKernelSpecializationStrategy.EAGER


def test_kernels_that_rtx_compiles_are_kept_and_given_back(on, detector):
    library = on("rtx-1.7.1.116")
    artifact = bundles.add_plan(detector, library)
    with bundles.engine_of(detector, library, artifact) as model:
        assert cache.read("rtx", f"{artifact.sha256[:32]}-sm86") is None
        for _ in range(2):
            model(bundles.picture())  # a service may be killed at any time: they are kept as soon as they are there
            assert len(library.made("IRuntimeCache.serialize")) == 1
        assert cache.read("rtx", f"{artifact.sha256[:32]}-sm86") == b"kernels compiled here"
    with bundles.engine_of(detector, library, artifact) as model:
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
    with bundles.engine_of(detector, library, artifact) as model:
        assert len(model(bundles.picture())) == 1


def test_a_closed_engine_lets_go_of_the_library_and_says_so(on, detector):
    library = on()
    model = bundles.engine_of(detector, library, contexts=2)
    plan = model.engine._plan
    engine = model.engine
    model.close()
    engine.close()
    assert plan.engine is None
    with pytest.raises(EngineError, match="closed"):
        engine.run({"images": fake_gpu.Tensor(np.zeros((1, 3, 32, 32), np.float32))})


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_what_the_library_holds_it_frees_in_the_gpus_context(on, detector, closed):
    model = bundles.engine_of(detector, on(), contexts=2)
    current = []
    for lane in model._lanes._fleet.lanes:
        for ready in lane.engine._contexts.values():
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
