"""Tuning: every candidate held to the budget, in a process of its own; what fails is told; the winner is kept."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeinfer import cli, load, modeljson, plans
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BundleError, UsageError
from edgeinfer.spec import Artifact, Batch
from edgeinfer.tuning import candidates
from edgeinfer.tuning.entrants import Entrant
from edgeinfer.tuning.tune import Asked, tune
from helpers import bundles


def add(folder, precision, content):
    """Put another ONNX file into a bundle."""
    spec = modeljson.read(folder / "model.json")
    file = f"model.{precision}.onnx"
    (folder / file).write_bytes(content)
    made = Artifact(file, "onnx", precision, hashlib.sha256(content).hexdigest())
    modeljson.write(dataclasses.replace(spec, artifacts=(*spec.artifacts, made)), folder / "model.json")


def shifted(folder):
    """The detector's graph with its box elsewhere: fast, and wrong."""
    model = onnx.load(folder / "model.fp32.onnx")
    (middle,) = [one for one in model.graph.initializer if one.name == "middle"]
    middle.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(middle) * 0.3, "middle"))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A detector with a wrong int8 file and a broken fp16 one, tuned as on one core: (folder, state, JSON)."""
    folder = bundles.detect_bundle(tmp_path_factory.mktemp("tuned") / "detector")
    add(folder, "int8", shifted(folder))
    add(folder, "fp16", b"no model at all")
    state, report = folder.parent / "state", folder.parent / "tuned.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.setattr("edgeinfer.machine.cores", lambda: 1)
        assert cli.main(["tune", str(folder), "--seconds", "1", "--json", str(report)]) == 0
    return folder, state, json.loads(report.read_text())


def of(report, backend, artifact):
    return [
        one
        for one in report["candidates"]
        if (one["choice"]["backend"], one["choice"]["artifact"]) == (backend, f"model.{artifact}.onnx")
    ]


@pytest.mark.parametrize("backend", ["ort", "ov"])
def test_an_artifact_that_finds_something_else_is_over_budget_and_never_raced(tuned, backend):
    rows = of(tuned[2], backend, "int8")  # several where this CPU has numbers of several kinds

    assert rows
    for row in rows:
        assert (row["state"], row["accuracy"]["agreement"]) == ("over budget", 0)
        assert row["reason"] == "100.0 % of the results differ"
        assert "p50_ms" not in row


@pytest.mark.parametrize("backend", ["ort", "ov"])
def test_a_candidate_that_fails_is_told_and_the_rest_goes_on(tuned, backend):
    rows = of(tuned[2], backend, "fp16")

    assert rows
    for row in rows:
        assert row["state"] == "failed"
        assert "model.fp16.onnx" in row["reason"]


def test_every_float32_candidate_was_measured_or_left_with_a_reason(tuned):
    rows = [row for backend in ("ort", "ov") for row in of(tuned[2], backend, "fp32")]

    assert {row["choice"]["threads"] for row in rows} == {0, 1}
    assert {tuple(row["choice"]["settings"].items()) for row in rows} >= {(), (("spinning", "off"),)}
    for row in rows:
        assert row["accuracy"]["agreement"] == 1
        assert row["p50_ms"] > 0
        assert row["memory_mb"] > 10
        assert row["measured_in"]


def test_finalists_and_the_way_without_a_plan_come_to_the_end(tuned):
    finalists = [row for row in tuned[2]["candidates"] if row["state"] == "finalist"]

    assert len(finalists) == 4
    assert tuned[2]["baseline"] == "ort model.fp32.onnx"
    assert tuned[2]["baseline"] in {row["name"] for row in finalists}
    assert any(row["pareto"] for row in finalists)
    assert tuned[2]["winner"] in {row["name"] for row in finalists}


def test_the_winner_is_kept_and_holds(tuned, monkeypatch):
    folder, state, report = tuned
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setattr("edgeinfer.machine.cores", lambda: 1)
    bundle = Bundle.open(folder)
    plan = plans.read(bundle)

    assert plan.choice.name == report["winner"]
    assert plans.fault(plan, bundle) == ""
    assert list(plan.doubts) == report["doubts"]
    with load(folder) as model:
        assert report["winner"] in model.plan


def test_energy_without_a_sensor_of_power_is_refused_before_anything_runs(detector, monkeypatch, capsys):
    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda **_: [])
    assert cli.main(["tune", str(detector), "--objective", "energy"]) == 1
    assert capsys.readouterr().err.startswith("error: no sensor of power can be read here\nhint: ")


def test_a_gpu_that_was_asked_for_is_tuned_or_nothing(detector, capsys):
    assert cli.main(["tune", str(detector), "--device", "gpu"]) == 1
    assert capsys.readouterr().err.startswith(
        f"error: nothing here runs {detector}: trt: this machine has no NVIDIA GPU"
    )


def test_without_pictures_that_prove_something_nothing_is_tuned(detector, tmp_path):
    black = tmp_path / "black"
    black.mkdir()
    cv2.imwrite(str(black / "a.png"), bundles.picture() * 0)

    with pytest.raises(UsageError, match="finds nothing in 1 pictures"):
        tune(detector, images=black)
    assert plans.read(Bundle.open(detector)) is None


def test_a_bundle_without_golden_pictures_asks_for_images(detector):
    spec = dataclasses.replace(modeljson.read(detector / "model.json"), golden=())
    modeljson.write(spec, detector / "model.json")
    shutil.rmtree(detector / "golden")

    with pytest.raises(UsageError, match="has no golden pictures"):
        tune(detector)


def test_a_bundle_without_float32_has_nothing_to_be_held_against(detector):
    spec = modeljson.read(detector / "model.json")
    artifacts = tuple(dataclasses.replace(one, precision="int8") for one in spec.artifacts)
    modeljson.write(dataclasses.replace(spec, artifacts=artifacts), detector / "model.json")

    with pytest.raises(BundleError, match="holds no float32 ONNX file"):
        tune(detector)


@pytest.mark.parametrize(
    "words", [["--budget", "-1"], ["--budget", "nan"], ["--seconds", "0"], ["--objective", "beauty"]], ids=str
)
def test_numbers_that_cannot_be_meant_are_wrong_usage(detector, words, capsys):
    assert cli.main(["tune", str(detector), *words]) == 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"budget": -1}, "budget -1 is not a number from 0 to 100"),
        ({"budget": "1"}, "budget '1' is not a number from 0 to 100"),
        ({"seconds": float("inf")}, "seconds inf is not a finite number above 0"),
    ],
)
def test_what_is_asked_from_python_is_refused_in_the_same_words(detector, asked, told):
    with pytest.raises(UsageError, match=told):
        tune(detector, **asked)


def test_numbers_of_numpy_are_in_the_plan_as_json_has_them():
    asked = Asked(budget=np.float32(2), seconds=np.int64(3))
    assert json.dumps([asked.budget, asked.seconds]) == "[2.0, 3.0]"


@pytest.mark.parametrize("presses_before", [0, 3, 12], ids=["accuracy", "heats", "final"])
def test_ctrl_c_keeps_no_plan_and_tells_what_there_is(detector, monkeypatch, capsys, presses_before):
    """Pressed when so many words have been heard from children."""
    heard, hear = [], Entrant.heard

    def press(self, seconds):
        heard.append(self)
        if len(heard) > presses_before:
            os.kill(os.getpid(), signal.SIGINT)
        return hear(self, seconds)

    monkeypatch.setattr("edgeinfer.ladder.ORDER", ("ort",))
    monkeypatch.setattr(candidates, "variants", lambda kind, *_, **__: [dataclasses.replace(kind, threads=1), kind])
    monkeypatch.setattr(Entrant, "heard", press)
    assert cli.main(["tune", str(detector), "--seconds", "1"]) == 130
    assert "interrupted: partial, and no plan is kept" in capsys.readouterr().out
    assert plans.read(Bundle.open(detector)) is None
    assert all(entrant._process.poll() is not None for entrant in heard)


def test_throughput_is_that_of_all_contexts_and_the_plan_keeps_them(detector, monkeypatch, capsys):
    monkeypatch.setattr("edgeinfer.ladder.ORDER", ("ort",))
    monkeypatch.setattr(candidates, "variants", lambda kind, *_, **__: [dataclasses.replace(kind, contexts=2)])
    assert cli.main(["tune", str(detector), "--objective", "throughput", "--seconds", "0.5"]) == 0

    out = capsys.readouterr().out
    assert "best for throughput: ort model.fp32.onnx, 2 contexts\nrun and serve keep its contexts busy" in out
    with load(detector) as model:
        assert model.contexts == 2


def test_throughput_is_measured_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeinfer.ladder.ORDER", ("ort",))
    monkeypatch.setattr(candidates, "variants", lambda kind, most, **_: [kind, dataclasses.replace(kind, batch=1)])
    folder = bundles.classify_bundle(tmp_path / "many", Batch(1, 4))
    outcome = tune(folder, objective="throughput", seconds=0.5)

    assert {row.choice.batch for row in outcome.finalists} == {0, 1}
    assert plans.read(Bundle.open(folder)).objective == "throughput"


def test_a_plan_that_cannot_be_kept_costs_no_number(detector, monkeypatch, capsys):
    monkeypatch.setattr("edgeinfer.ladder.ORDER", ("ort",))
    monkeypatch.setattr(candidates, "variants", lambda kind, *_, **__: [kind])
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert cli.main(["tune", str(detector), "--seconds", "0.5"]) == 1
    out, err = capsys.readouterr()
    assert "best for latency: ort model.fp32.onnx" in out
    assert err.startswith("error: the plan could not be kept: ")


@pytest.mark.parametrize("change", [lambda file: file.write_text(f"{file.read_text()} "), os.unlink])
def test_a_bundle_that_was_replaced_while_it_was_tuned_gets_no_plan(detector, monkeypatch, change):
    def say(words):
        if words == "final: turn 10 of 10":
            change(detector / "model.json")

    monkeypatch.setattr("edgeinfer.ladder.ORDER", ("ort",))
    monkeypatch.setattr(candidates, "variants", lambda kind, *_, **__: [kind])
    bundle = Bundle.open(detector)
    outcome = tune(bundle, seconds=0.5, say=say)
    assert outcome.winner
    assert str(detector) in str(outcome.unkept)
    assert outcome.unkept.hint
    assert (outcome.plan_file, plans.read(bundle)) == (None, None)


def test_candidates_are_timed_on_few_pictures_and_held_to_the_budget_on_all_and_thoroughly(
    detector, tmp_path, monkeypatch
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for place in range(30):
        cv2.imwrite(str(photos / f"{place:02}.png"), bundles.picture("red"))
    asked = {}

    def seen(self, bundle, choice, work, pictures, *more, **told):
        asked[work] = len(pictures), told.get("thorough")
        start(self, bundle, choice, work, pictures, *more, **told)

    start = Entrant.__init__
    monkeypatch.setattr("edgeinfer.ladder.ORDER", ("ort",))
    monkeypatch.setattr(candidates, "variants", lambda kind, *_, **__: [kind])
    monkeypatch.setattr(Entrant, "__init__", seen)
    assert tune(detector, images=photos, seconds=0.2).rows[0].accuracy.images == 30
    assert asked == {"answers": (30, True), "turns": (8, None)}


def test_pictures_that_cannot_be_read_are_told_and_left_out_of_accuracy_and_race(
    detector, tmp_path, monkeypatch, caplog
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for color in ("red", "blue"):
        cv2.imwrite(str(photos / f"{color}.png"), bundles.picture(color))
    (photos / "cut.png").write_bytes((photos / "red.png").read_bytes()[:60])
    monkeypatch.setattr(candidates, "kinds", lambda bundle, gpu: [candidates.reference(bundle)])
    monkeypatch.setattr(candidates, "variants", lambda kind, most, *, many: [kind])

    outcome = tune(detector, images=photos, seconds=0.2)

    assert [(row.state, row.reason) for row in outcome.rows] == [("finalist", "")]
    assert "1 of 3 pictures cannot be read, and are left out" in caplog.text
