"""What every backend on the CPU must do, ONNX Runtime's and OpenVINO's; and what only OpenVINO does."""

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edgeinfer import backends, load, machine, modeljson, quota
from edgeinfer.backends import ov
from edgeinfer.devices import cpu
from edgeinfer.errors import EngineError
from edgeinfer.spec import Artifact, Batch, Boxes, TensorSpec
from helpers import bundles, networks

BACKENDS = ("ort", "ov")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def spec(classifier):
    """Of networks with the input of the helpers' bundles and ten logits."""
    base = modeljson.read(classifier / "model.json")
    return dataclasses.replace(base, outputs=(TensorSpec("logits", (1, 10)),), labels=tuple("abcdefghij"))


def opened(backend, path, spec, **settings):
    device = cpu.Device(spec)
    return backends.load(backend)(path, spec, device, **settings)


def noise(images=1, seed=0):
    return {"images": np.random.default_rng(seed).random((images, 3, 32, 32), np.float32)}


def test_it_finds_what_the_bundle_promises(detector, backend):
    with load(detector, backend) as model:
        found = model(bundles.picture("green", 64, 64))
    assert [(label, box.tolist()) for box, _, label in found] == [("green", [16, 16, 48, 48])]


def test_float32_is_that_of_onnx_runtime_to_the_sixth_digit(spec, tmp_path):
    path = networks.residual(tmp_path / "net.onnx")
    ours, theirs = (opened(name, path, spec).run(noise())["logits"] for name in BACKENDS)

    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_batch_of_any_size_in_the_range_is_run_in_its_order(tmp_path, backend):
    folder = bundles.classify_bundle(tmp_path / "many", Batch(1, 4))
    colors = ("red", "green", "blue", "green")
    with load(folder, backend) as model:
        for count in (1, 4, 2, 3):
            results = model.batch([bundles.picture(color) for color in colors[:count]])
            assert tuple(next(iter(result))[1] for result in results) == colors[:count]


def test_outputs_lie_in_the_same_memory_every_run(detector, backend):
    with load(detector, backend) as model:
        tensors, _ = model.device.preprocess([bundles.picture()])
        first, second = (model.engine.run(tensors)["output0"] for _ in range(2))
        assert first.ctypes.data == second.ctypes.data
        assert first[0, 0, 5] == pytest.approx(1)


def test_a_fork_does_not_write_into_its_twin(spec, tmp_path, backend):
    engine = opened(backend, networks.residual(tmp_path / "net.onnx"), spec)
    twin = engine.fork(cpu.Device(spec))
    mine = engine.run(noise(seed=1))["logits"]
    before = mine.copy()
    theirs = twin.run(noise(seed=2))["logits"]

    np.testing.assert_array_equal(mine, before)
    assert not np.allclose(mine, theirs)


def test_an_input_at_another_address_is_seen(spec, tmp_path, backend):
    engine = opened(backend, networks.residual(tmp_path / "net.onnx"), spec)
    one, two = noise(seed=1), noise(seed=2)
    first = engine.run(one)["logits"].copy()
    second = engine.run(two)["logits"].copy()

    assert not np.allclose(first, second)
    np.testing.assert_allclose(engine.run(one)["logits"], first, rtol=1e-6)


def test_an_input_that_may_only_be_read_is_read_where_it_lies(spec, tmp_path, backend):
    engine = opened(backend, networks.residual(tmp_path / "net.onnx"), spec)
    inputs = [noise(seed=1), noise(seed=2)]
    wanted = [engine.run(one)["logits"].copy() for one in inputs]
    array = inputs[0]["images"].copy()
    shown = array.view()
    shown.flags.writeable = False
    found = [engine.run({"images": shown})["logits"].copy()]
    array[...] = inputs[1]["images"]  # as the bytes of the next request may come to lie where the last one's were
    found.append(engine.run({"images": shown})["logits"].copy())

    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_result(detector, backend, threads):
    with load(detector, backend, threads=threads) as model:
        assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"]


def test_layers_are_named_with_their_time_kind_and_precision(spec, tmp_path, backend):
    path = networks.residual(tmp_path / "net.onnx")
    layers = opened(backend, path, spec).profile_layers(noise())
    convolutions = [layer for layer in layers if "Conv" in layer.kind]  # as FusedConv

    assert len(convolutions) >= 3
    assert all(layer.ms >= 0 for layer in layers)
    assert {layer.precision for layer in convolutions} == {"fp32"}


@pytest.mark.parametrize("step", ["__init__", "run", "end_profiling"])
def test_what_a_signals_handler_raises_while_onnx_runtime_opens_or_times_a_model_stays_what_it_is(
    spec, tmp_path, monkeypatch, step
):
    def late(*_, **__):
        raise TimeoutError("of the program's own")

    path = networks.residual(tmp_path / "net.onnx")
    engine = opened("ort", path, spec)
    monkeypatch.setattr(f"onnxruntime.InferenceSession.{step}", late)
    with pytest.raises(TimeoutError, match="of the program's own"):
        engine.profile_layers(noise())
    if step == "__init__":
        with pytest.raises(TimeoutError, match="of the program's own"):
            opened("ort", path, spec)


@pytest.mark.parametrize(("own", "expected"), [(False, TimeoutError), (True, EngineError)])
def test_of_what_comes_out_of_openvino_as_it_opens_a_model_only_its_own_failures_are_engine_errors(
    spec, tmp_path, monkeypatch, own, expected
):
    def failing(*_):
        raise (ov.openvino.frontend.GeneralFailure if own else TimeoutError)("in the middle")

    monkeypatch.setattr(ov.openvino.Core, "read_model", failing)
    with pytest.raises(expected, match="in the middle"):
        opened("ov", networks.residual(tmp_path / "net.onnx"), spec)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08\x12\x00" * 50], ids=["empty", "text", "bytes"])
def test_a_file_that_is_no_model_is_one_clear_error(spec, tmp_path, backend, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)

    with pytest.raises(EngineError, match=r"net\.onnx") as caught:
        opened(backend, path, spec)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": (TensorSpec("other", (1, 10)),)}, r"outputs are \[.*'logits'\], model.json says \['other'\]"),
        ({"outputs": (TensorSpec("logits", (1, 11)),)}, r"output logits is .*model.json says \(1, 11\) float32"),
        ({"outputs": (TensorSpec("logits", (1, 10), "float16"),)}, r"model.json says \(1, 10\) float16"),
    ],
    ids=["name", "shape", "dtype"],
)
def test_a_model_that_is_not_what_its_spec_says_is_refused(spec, tmp_path, backend, changes, words):
    path = networks.residual(tmp_path / "net.onnx")
    width = changes["outputs"][0].shape[-1]

    with pytest.raises(EngineError, match=words):
        opened(backend, path, dataclasses.replace(spec, **changes, labels=tuple("abcdefghijk"[:width])))


def test_a_closed_engine_can_be_closed_again(spec, tmp_path, backend):
    engine = opened(backend, networks.residual(tmp_path / "net.onnx"), spec)
    engine.close()
    engine.close()


def in_new_process(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("code", ["edgeinfer.load(sys.argv[1], 'ort').close()", "cli.main(['doctor'])"])
def test_onnx_runtime_keeps_no_name_for_this_machine_and_sends_nothing(detector, tmp_path, code):
    home = tmp_path / "home"
    home.mkdir()
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(home))
    told = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    line = [sys.executable, "-c", f"import sys, edgeinfer; from edgeinfer import cli; {code}", str(detector)]
    subprocess.run(line, env={**told, **places}, check=True, stdout=subprocess.DEVNULL)
    assert [file.name for file in home.rglob("*") if file.is_file()] == []


def test_openvino_prints_nothing_and_its_telemetry_is_never_loaded(detector, tmp_path):
    code = (
        f"import sys, edgeinfer\nwith edgeinfer.load({str(detector)!r}, 'ov') as model: pass\n"
        "print('openvino' in sys.modules, 'openvino_telemetry' in sys.modules)"
    )
    assert in_new_process(code, HOME=str(tmp_path / "home")) == (0, "True False\n", "")
    assert not (tmp_path / "home" / "intel").exists()


def test_what_openvino_compiled_is_kept_below_the_cache_and_a_damaged_copy_is_made_again(
    detector, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load(detector, "ov").close()
    (kept,) = (tmp_path / "cache" / "edgeinfer" / "openvino").rglob("*.blob")
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes()[:100])

    with load(detector, "ov") as model:
        assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"]


def test_a_cache_that_cannot_be_written_costs_no_result(detector, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with load(detector, "ov") as model:
        assert len(model(bundles.picture("blue"))) == 1


def test_openvino_keeps_to_float32_where_the_processor_would_rather_round(spec, tmp_path):
    engine = opened("ov", networks.residual(tmp_path / "net.onnx"), spec)

    assert engine._model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert backends.load("ov").settings()["compute"][0] == "f32"


@pytest.mark.parametrize(("threads", "contexts", "streams"), [(1, 1, 1), (1, 2, 2), (1, 3, 2), (2, 2, 1), (5, 2, 1)])
def test_as_many_contexts_of_openvino_run_beside_each_other_as_their_threads_find_cores(
    detector, monkeypatch, threads, contexts, streams
):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(quota, "threads", lambda: 0)
    with load(detector, "ov", threads=threads, contexts=contexts) as model:
        config = model.engine._config
    assert (config["NUM_STREAMS"], config["INFERENCE_NUM_THREADS"]) == (str(streams), str(streams * threads))


def test_rows_that_openvino_leaves_as_columns_are_read_as_rows_in_any_batch(spec, tmp_path):
    many, rows = Batch(1, 3), {"rows": (1024, 8), "again": (1024, 8), "again_columns": (8, 1024)}
    outputs = tuple(TensorSpec(name, (many, *shape)) for name, shape in rows.items())
    images, decode = TensorSpec("images", (many, 3, 32, 32)), Boxes("end2end")
    several = SimpleNamespace(inputs=(images,), outputs=outputs, batch=many, decode=decode)
    path = networks.transposed(tmp_path / "net.onnx")
    ours, theirs = (backends.load(name)(path, several, cpu.Device(spec)) for name in ("ov", "ort"))
    for images in (3, 1, 2):
        found, expected = (engine.run(noise(images, seed=images)) for engine in (ours, theirs))
        assert found["rows"].strides[1] == 4 < found["again"].strides[1]
        for name in rows:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
@pytest.mark.parametrize("shape", [(2, 8, 4), (1, 85, 2520), (3, 1, 5), (2, 5, 1), (1, 1, 1), (2, 3, 4, 5), (2, 6)])
def test_what_is_fetched_lies_row_by_row_whatever_the_engine_left(spec, shape, dtype):
    left = np.random.default_rng(0).random(shape).astype(dtype).swapaxes(1, -1)
    found = cpu.Device(spec).fetch({"rows": left}, len(left))["rows"]
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, left)


def wide(spec):
    """The classifier's spec with as many classes as the quantised networks have."""
    return dataclasses.replace(spec, outputs=(TensorSpec("logits", (1, 32)),), labels=tuple(map(str, range(32))))


@pytest.mark.parametrize("net", [networks.quantized, networks.concatenated, networks.float_headed])
def test_int8_graphs_run_in_int8_on_openvino_and_find_what_onnx_runtime_finds(spec, tmp_path, net):
    path = net(tmp_path / "net.onnx")
    engine, other = (opened(backend, path, wide(spec)) for backend in ("ov", "ort"))
    found, expected = (np.array(one.run(noise())["logits"]) for one in (engine, other))

    assert "int8" in {layer.precision for layer in engine.profile_layers(noise())}
    near = 0.02 if machine.has_exact_int8() else 0.3
    assert np.abs(found - expected).max() < near * expected.std()


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("avx2", {"trt"}),
        ("avx2 avx512f", {"trt"}),
        ("avx2 avx_vnni", set()),
        ("avx512f avx512_vnni", set()),
        ("amx_int8", set()),
        (None, set()),
    ],
)
def test_openvino_takes_int8_of_every_flavor_whose_sums_this_processor_can_hold(monkeypatch, tmp_path, flags, refused):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    (tmp_path / "proc").mkdir()
    if flags:
        (tmp_path / "proc" / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    refuses = backends.load("ov").refuses
    reasons = {one: refuses(Artifact("net.onnx", "onnx", "int8", "0" * 64, flavor=one)) for one in ("cpu", "trt", "")}

    assert {one for one, reason in reasons.items() if reason} == refused
    assert all("no VNNI" in reasons[one] for one in refused)


def test_a_float32_convolution_is_given_its_silu_unrounded_and_clipped_values_as_they_are(tmp_path):
    import openvino

    from edgeinfer.backends import _ovpairs

    model = openvino.Core().read_model(networks.float_headed(tmp_path / "net.onnx"))
    _ovpairs.join_activations(model)
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    heads = [node for node in convolutions if list(node.input_value(1).get_shape())[2:] == [1, 1]]
    assert sorted(bool(_ovpairs._pair(node.input_value(0).get_node())) for node in heads) == [False, True]


def test_openvino_is_given_no_signed_activation(tmp_path):
    import openvino

    from edgeinfer.backends import _ovpairs

    model = openvino.Core().read_model(networks.concatenated(tmp_path / "net.onnx"))

    assert _ovpairs.store_unsigned(model) == 5
    assert _ovpairs.store_unsigned(model) == 0
    made = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    assert {tuple(one.input_value(end).get_node().data.item() for end in (3, 4)) for one in made} == {(0, 255)}
