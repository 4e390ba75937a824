"""An engine is built while another backend serves, and takes over: under calls, and when something goes wrong."""

import dataclasses
import os
import shutil
import signal
import sys
import threading

import pytest

from edgeinfer import building, cli, lifetime, load, machine
from edgeinfer.bundle import Bundle
from edgeinfer.errors import UsageError
from helpers import bundles, fake_gpu, fake_nvinfer, fake_ort
from helpers.patience import LONG_S, until

COLORS = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def trt(monkeypatch, tmp_path):
    """A machine with a GPU, ONNX Runtime for it, and a TensorRT that can build."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_gpu.install(monkeypatch)
    fake_ort.module(monkeypatch)
    return fake_nvinfer.install(monkeypatch, "10.3.0")


@pytest.fixture
def builder(monkeypatch, tmp_path, detector, trt):
    """What `edgeinfer build` would do, done by a shell script once `go` is called; gives `go` and what it was told."""
    done, gate, told = tmp_path / "built", tmp_path / "gate", tmp_path / "told"
    shutil.copytree(detector, done)
    os.mkfifo(gate)

    class Builder:
        said = told

        def go(self, code=0, words="", **plan):
            if not code:
                bundles.add_plan(done, trt, **plan)
            gate.write_text(f"{code} {words}\n")

    script = tmp_path / "python"
    copy = f'cp "{done}"/*.plan "{detector}/" && cp "{done}/model.json" "{detector}/model.json"'
    script.write_text(
        f'#!/bin/sh\necho "$@" > "{told}"\nread code words < "{gate}"\n'
        f'if [ "$code" != 0 ]; then echo "$words" >&2; exit "$code"; fi\n{copy}\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return Builder()


def test_the_engine_takes_over_under_calls_of_which_none_fails_or_mixes(detector, builder):
    wrong, served, done = [], set(), threading.Event()

    def work(color):
        while not done.is_set():
            try:
                before = model.backend
                results = model.batch([bundles.picture(color)] * 2)
                served.add(before)
                if [label for result in results for _, _, label in result] != [color] * 2:
                    wrong.append(results)
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    with load(detector, build="background", contexts=2) as model:
        assert (model.backend, model.upgrade.state) == ("ort_gpu", "building")
        threads = [threading.Thread(target=work, args=(color,)) for color in COLORS]
        for thread in threads:
            thread.start()
        builder.go()
        model.upgrade.join(LONG_S)
        assert (model.upgrade.state, model.backend, model.artifact) == ("serving", "trt", "trt-1.fp32.plan")
        assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"]
        done.set()
        for thread in threads:
            thread.join(LONG_S)
        assert model.contexts == 2
    assert wrong == []
    asked = ["edgeinfer", "build", str(detector), "--compile", "trt", "--precision", "fp32"]
    assert builder.said.read_text().split()[-len(asked) :] == asked


def test_the_bundle_is_found_again_when_the_program_went_to_another_folder(
    detector, builder, monkeypatch, tmp_path, caplog
):
    monkeypatch.chdir(detector.parent)
    with load(detector.name, build="background") as model:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        builder.go()
        model.upgrade.join(LONG_S)
        assert (model.upgrade.state, model.backend) == ("serving", "trt")
    assert caplog.messages == []


def test_a_build_that_fails_leaves_what_serves_and_says_why(detector, builder, caplog):
    with load(detector, build="background") as model:
        builder.go(1, "error: no memory for this")
        model.upgrade.join(LONG_S)
        assert model.backend == "ort_gpu"
        assert len(model(bundles.picture())) == 1
        assert model.upgrade.state == "failed: error: no memory for this"
    assert "goes on serving" in caplog.text


def test_an_engine_that_fails_its_self_test_does_not_take_over(detector, builder, trt, caplog):
    trt._answers["IExecutionContext.execute_async_v3"] = True  # runs nothing: the outputs stay zero
    with load(detector, build="background") as model:
        builder.go()
        model.upgrade.join(LONG_S)
        assert model.backend == "ort_gpu"
        assert "failed its self-test" in model.upgrade.state
    assert "failed its self-test" in caplog.text
    with load(detector, build="never") as model:
        assert (model.backend, model.upgrade) == ("ort_gpu", None)


def test_an_engine_that_does_not_fit_after_all_does_not_take_over(detector, builder):
    with load(detector, build="background") as model:
        builder.go(sm="87")
        model.upgrade.join(LONG_S)
        assert model.upgrade.state == "failed: the bundle holds no engine that fits exactly"


def test_what_nobody_foresaw_ends_the_upgrade_too_and_is_told(detector, builder, monkeypatch, caplog):
    def unforeseen(*_):
        raise RuntimeError("a pointer is null")

    with load(detector, build="background") as model:
        monkeypatch.setattr(model.upgrade, "_open", unforeseen)
        builder.go()
        model.upgrade.join(LONG_S)
        assert model.upgrade.state == "failed: a pointer is null"
    assert "goes on serving; the engine built here failed: a pointer is null" in caplog.text


def test_closing_ends_the_build_and_nothing_is_told_of_it(detector, builder, caplog):
    model = load(detector, build="background")
    upgrade = model.upgrade
    model.close()
    assert not upgrade.is_alive()
    assert upgrade.state == "stopped"
    assert caplog.messages == []


def test_a_ctrl_c_at_the_terminal_is_for_the_program_and_not_for_the_build(detector, builder):
    with load(detector, build="background") as model:
        until(lambda: model.upgrade._process)
        pid = model.upgrade._process.pid
        assert os.getsid(pid) == pid


def test_a_program_that_ends_without_closing_its_model_leaves_no_build_behind(detector, builder):
    model = load(detector, build="background")
    until(builder.said.exists)
    assert model.upgrade in lifetime._GUESTS
    model.upgrade.halt()
    model.upgrade.settle()
    assert model.upgrade._process.returncode == -signal.SIGTERM
    assert (model.upgrade.state, model.upgrade.is_alive()) == ("stopped", False)
    model.close()


def test_a_fork_that_closes_the_model_leaves_its_parents_build_alone(detector, builder):
    with load(detector, build="background") as model:
        process = until(lambda: model.upgrade._process)
        model._lanes.orphan()  # as every fork begins
        model.close()
        assert process.poll() is None
        model._lanes._inherited = False


def test_a_build_that_is_stopped_before_it_began_never_begins(detector, tmp_path):
    with load(detector) as model:
        upgrade = building.Upgrade(Bundle.open(detector), model, ["touch", str(tmp_path / "began")], None)
        upgrade.halt()
        upgrade.run()
    assert upgrade.state == "stopped"
    assert not (tmp_path / "began").exists()


def test_what_a_build_says_in_another_encoding_is_told_as_far_as_it_can_be_read(detector):
    with load(detector) as model:
        upgrade = building.Upgrade(Bundle.open(detector), model, ["sh", "-c", r"printf 'm\351moire' >&2; exit 1"], None)
        upgrade.run()
    assert upgrade.state == "failed: m\ufffdmoire"


def test_a_build_that_does_not_heed_sigterm_is_killed(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "GRACE_S", 0.1)
    script = f'trap "" TERM; touch "{tmp_path}/began"; exec sleep 1000'
    with load(detector) as model:
        upgrade = building.Upgrade(Bundle.open(detector), model, ["sh", "-c", script], None)
        upgrade.start()
        until((tmp_path / "began").exists)
        upgrade.stop()
    assert (upgrade._process.returncode, upgrade.state) == (-signal.SIGKILL, "stopped")


def test_nothing_is_built_where_an_engine_fits_already(detector, builder, trt):
    bundles.add_plan(detector, trt)
    with load(detector, build="background") as model:
        assert (model.backend, model.upgrade) == ("trt", None)


def test_nothing_is_built_where_nothing_can(detector, builder, monkeypatch, caplog):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    with load(detector, build="background") as model:
        assert (model.backend, model.upgrade) == ("ort", None)
    assert caplog.messages[0].startswith(f"{detector}: no engine is built in the background")


@pytest.mark.parametrize(("flavor", "order"), [("cpu", None), ("trt", ("trt", "int8"))])
def test_int8_is_built_from_the_flavour_that_tensorrt_takes(detector, flavor, order):
    spec = Bundle.open(detector).spec
    int8 = dataclasses.replace(spec.artifacts[0], file="model.int8.onnx", precision="int8", flavor=flavor)
    held = dataclasses.replace(spec, artifacts=(*spec.artifacts, int8))
    assert building._order(Bundle(detector, held), "int8", 0) == order


def test_nothing_is_built_by_the_lean_runtime_which_only_runs_engines(detector, builder, monkeypatch, trt):
    trt.__name__ = "tensorrt_lean"
    for name, library in (("tensorrt", None), ("tensorrt_lean", trt), ("tensorrt_rtx", None)):
        monkeypatch.setitem(sys.modules, name, library)
    for name in ("trt", "rtx"):
        fake_nvinfer.forget(monkeypatch, name)
    with load(detector, build="background") as model:
        assert (model.backend, model.upgrade) == ("ort_gpu", None)


def test_rtx_is_built_for_this_gpu_where_there_is_no_tensorrt(detector, builder, monkeypatch):
    for name in ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"):
        monkeypatch.setitem(sys.modules, name, None)
    fake_nvinfer.forget(monkeypatch, "trt")
    fake_nvinfer.install(monkeypatch, "rtx-1.7.1.116")
    with load(detector, build="background") as model:
        builder.go(1)
        model.upgrade.join(LONG_S)
    assert "--compile rtx:sm86" in builder.said.read_text()


def test_the_engine_is_built_for_the_gpu_that_was_asked_for(detector, builder):
    with load(detector, build="background", device="gpu:1") as model:
        builder.go(1)
        model.upgrade.join(LONG_S)
    assert builder.said.read_text().split()[-4:] == ["--precision", "fp32", "--device", "gpu:1"]


def test_how_to_build_is_one_of_two(detector):
    with pytest.raises(UsageError, match="build 'now' is not one of never, background"):
        load(detector, build="now")


def test_run_builds_when_it_is_told_to(detector, builder, capsys, monkeypatch):
    picture = str(detector / "golden/0.png")
    assert cli.main(["run", str(detector), picture, "--build", "background"]) == 0
    assert "ort_gpu" in capsys.readouterr().out
