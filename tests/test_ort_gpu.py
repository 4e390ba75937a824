"""ONNX Runtime on the GPU, by a stand-in whose CUDA tensors are the stand-in GPU's."""

import pytest

from edgeinfer import backends, cli, load
from edgeinfer.errors import BackendUnavailable, EngineError
from edgeinfer.spec import Batch
from helpers import bundles, fake_gpu, fake_ort
from helpers.interrupting import broken_off


@pytest.fixture(autouse=True)
def _machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_gpu.install(monkeypatch)


@pytest.mark.parametrize("color", ["red", "green", "blue"])
def test_a_frame_goes_through_on_the_devices_own_tensors(detector, monkeypatch, color):
    fake_ort.module(monkeypatch)
    with load(detector, backend="ort_gpu") as model:
        assert [label for _, _, label in model(bundles.picture(color, 50, 40))] == [color]
        assert "allocates" in model.engine.uncapturable


def test_batches_of_any_size_are_bound_when_they_change(tmp_path, monkeypatch):
    fake_ort.module(monkeypatch)
    with load(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), backend="ort_gpu") as model:
        for colors in (["red"], ["green", "blue", "red"], ["blue"]):
            found = model.batch([bundles.picture(color) for color in colors])
            assert [next(iter(one))[1] for one in found] == colors


def test_a_call_that_a_signal_broke_off_while_it_was_bound_leaves_the_next_right(tmp_path, monkeypatch):
    fake_ort.module(monkeypatch)
    pictures, moment = [bundles.picture(color) for color in ("red", "green", "blue")], 1
    with load(bundles.classify_bundle(tmp_path / "open", Batch(1, 4)), backend="ort_gpu") as model:
        while model.batch(pictures[:1]) and broken_off(lambda: model.batch(pictures), moment, type(model.engine)._bind):
            found = [[one[0][1] for one in model.batch(pictures[:count])] for count in (1, 3)]
            assert found == [["red"], ["red", "green", "blue"]], moment
            moment += 1
    assert moment > 6


def test_what_a_signals_handler_raises_while_a_session_is_opened_stays_what_it_is(detector, monkeypatch):
    def late(*_, **__):
        raise TimeoutError("of the program's own")

    fake_ort.module(monkeypatch)
    monkeypatch.setattr("onnxruntime.InferenceSession", late)
    with pytest.raises(TimeoutError, match="of the program's own"):
        load(detector, backend="ort_gpu")


def test_each_lane_has_a_session_on_its_own_stream(detector, monkeypatch):
    opened = fake_ort.module(monkeypatch)
    with load(detector, backend="ort_gpu", contexts=2, self_test=False) as model:
        streams = [one[fake_ort.CUDA]["user_compute_stream"] for one in opened]
        assert len(set(streams)) == len(streams) == 2
        assert str(model.device.stream) in streams


@pytest.mark.parametrize("backend", ["ort_gpu", "ort_trt"])
def test_a_provider_that_did_not_load_is_an_error_and_never_the_cpu(detector, monkeypatch, backend, capsys):
    fake_ort.module(monkeypatch, loads=False, providers=(fake_ort.TENSORRT, fake_ort.CUDA, fake_ort.CPU))
    with pytest.raises(EngineError, match="did not load, only CPUExecutionProvider; nothing runs on the GPU") as caught:
        load(detector, backend=backend)
    assert str(caught.value).endswith("Failed to load libcublasLt.so.13: no such file")
    assert "cudnn" in caught.value.hint
    assert capsys.readouterr().out == ""  # which may be JSON


def test_an_onnx_runtime_without_cuda_names_the_one_that_has_it(monkeypatch):
    fake_ort.module(monkeypatch, providers=(fake_ort.CPU,))
    with pytest.raises(BackendUnavailable, match="no CUDA provider") as caught:
        backends.load("ort_gpu")
    assert "edgeinfer[gpu]" in caught.value.hint


def test_the_tensorrt_provider_is_for_those_who_ask_and_falls_back_to_cuda_only(detector, monkeypatch):
    opened = fake_ort.module(monkeypatch, providers=(fake_ort.TENSORRT, fake_ort.CUDA, fake_ort.CPU))
    with load(detector) as model:
        assert model.backend == "ort_gpu"
    with load(detector, backend="ort_trt") as model:
        assert len(model(bundles.picture())) == 1
    assert list(opened[-1]) == [fake_ort.TENSORRT, fake_ort.CUDA]
    assert opened[-1][fake_ort.TENSORRT]["trt_fp16_enable"] == "0"


@pytest.mark.parametrize("place", ["", "a file"])
def test_the_tensorrt_provider_keeps_its_engines_where_they_can_be(detector, monkeypatch, tmp_path, place):
    opened = fake_ort.module(monkeypatch, providers=(fake_ort.TENSORRT, fake_ort.CUDA, fake_ort.CPU))
    if place:
        (tmp_path / "cache").write_text(place)
    with load(detector, backend="ort_trt", self_test=False) as model:
        assert len(model(bundles.picture())) == 1
    kept = opened[-1][fake_ort.TENSORRT].get("trt_engine_cache_path")
    assert kept == (None if place else str(tmp_path / "cache" / "edgeinfer" / "ort_trt"))


def test_a_run_that_fails_is_one_error(detector, monkeypatch):
    fake_ort.module(monkeypatch, fails=True)
    with load(detector, backend="ort_gpu", self_test=False) as model, pytest.raises(EngineError, match="failure 700"):
        model(bundles.picture())


def test_info_says_why_its_frames_are_not_one_graph(detector, monkeypatch, capsys):
    fake_ort.module(monkeypatch)
    assert cli.main(["info", str(detector)]) == 0

    assert "stage by stage, not one CUDA graph a frame: ONNX Runtime allocates memory" in capsys.readouterr().out
