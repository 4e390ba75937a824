"""Tuning: every candidate held to the budget, in a process of its own; what fails is told; the winner is kept."""

import dataclasses
import hashlib
import io
import json
import os
import queue
import shutil
import signal
from types import SimpleNamespace

import cv2
import onnx
import pytest
from onnx import numpy_helper

from edgeinfer import cli, load, modeljson, plans
from edgeinfer.accuracy import Comparison
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BundleError, UsageError
from edgeinfer.plans import Choice
from edgeinfer.profiling import subject
from edgeinfer.profiling.child import Failed
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.sensors import Reading, Sensors
from edgeinfer.spec import Artifact, Batch
from edgeinfer.tuning import _entrant, candidates, entrants
from edgeinfer.tuning.budget import over_budget
from edgeinfer.tuning.entrants import Entrant, Turn
from edgeinfer.tuning.figures import Figures, doubts, figures
from edgeinfer.tuning.outcome import Outcome, Row
from edgeinfer.tuning.race import Race
from edgeinfer.tuning.tune import tune
from helpers import bundles, fake_gpu, fake_nvinfer
from helpers.patience import LONG_S


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


def turn(origin, latency_ms, memory_mb):
    return Turn(Samples(origin, [0.0, 0.5], [latency_ms] * 2, {}, 4, 1.0), memory_mb)


@pytest.mark.parametrize(("device", "watts"), [("cpu", 30.0), ("gpu", 80.0)])
def test_figures_are_of_all_turns_and_energy_is_that_of_the_device_that_ran(device, watts):
    turns = [turn(0.0, 200.0, None), turn(2.0, 300.0, 90.0), turn(4.0, 400.0, 80.0)]
    read = [(0.5, 20.0), (1.5, 900.0), (2.5, 40.0)]  # the second between two turns
    watch = Sensors([])
    watch.readings = [Reading(at, {"gpu.power_w": 80.0, "cpu.package_power_w": power}) for at, power in read]
    found = figures(SimpleNamespace(turns=turns), watch, device)
    assert (found.samples, found.p50_ms, found.per_second, found.memory_mb) == (6, 300.0, 4.0, 90.0)
    assert found.joules == watts / 4


def test_who_did_not_one_call_has_no_figures():
    assert figures(SimpleNamespace(turns=[Turn(Samples(0.0), 90.0)])) is None
    assert doubts([SimpleNamespace(turns=[])], Sensors([]), "single-stream", "cpu") == []


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


def test_to_load_a_candidate_is_not_to_read_its_pictures(detector, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "red.png"), bundles.picture())
    seconds, read = [0.0], subject.picture_set

    def slow(*given):
        seconds[0] += 1000.0
        return read(*given)

    monkeypatch.setattr(subject, "picture_set", slow)
    monkeypatch.setattr(_entrant, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    asked = {"bundle": str(detector), "choice": {"backend": "ort", "artifact": "model.fp32.onnx"}, "device": "auto"}
    heard = []
    _entrant.turns({**asked, "scenario": "single-stream", "pictures": [str(tmp_path / "red.png")]}, heard.append)
    assert (heard[0]["ready"]["load_ms"], seconds[0]) == (0.0, 1000.0)


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
        ({"seconds": float("inf")}, "seconds inf is not a finite number above 0"),
    ],
)
def test_what_is_asked_from_python_is_refused_in_the_same_words(detector, asked, told):
    with pytest.raises(UsageError, match=told):
        tune(detector, **asked)


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


@pytest.fixture
def entrant(detector):
    made = Entrant(
        Bundle.open(detector), Choice("ort", "model.fp32.onnx"), "turns", pictures=[], scenario="single-stream"
    )
    yield made
    made.close()


def test_a_process_that_crashes_is_a_failure_with_the_signals_name(entrant):
    entrant.wait_ready()
    os.kill(entrant.pid, signal.SIGSEGV)

    with pytest.raises(Failed, match="crashed: SIGSEGV"):
        entrant.turn(0.1)


def test_a_process_that_crashes_within_a_line_is_a_failure_too(entrant):
    entrant._lines = queue.Queue()
    entrant._lines.put('{"samples": {"start_s": [0.1')
    os.kill(entrant.pid, signal.SIGKILL)

    with pytest.raises(Failed, match="crashed: SIGKILL"):
        entrant.heard(LONG_S)


def test_a_process_that_hangs_is_a_failure_and_is_ended(entrant, monkeypatch):
    entrant.wait_ready()
    monkeypatch.setattr(entrants, "SILENCE_S", 0.3)
    os.kill(entrant.pid, signal.SIGSTOP)

    with pytest.raises(Failed, match="hung: not a word in 0 s"):
        entrant.turn(0.1)
    entrant.close()
    assert entrant._process.returncode == -signal.SIGKILL


def test_threads_batches_and_settings_are_all_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeinfer.machine.cores", lambda: 6)
    kind = Choice("ort", "model.fp32.onnx")
    tried = list(candidates.variants(kind, 4, many=True))

    assert {choice.threads for choice in tried if choice.contexts == 1} == {0, 1, 2, 4, 6}
    assert {choice.batch for choice in tried} == {0, 1, 2}
    assert {(choice.contexts, choice.threads) for choice in tried if choice.contexts > 1} == {(2, 3), (4, 1), (6, 1)}
    assert {choice.name for choice in tried} >= {"ort model.fp32.onnx", "ort model.fp32.onnx, spinning off, batch 2"}
    assert len(set(map(str, tried))) == len(tried) == 10 * 3


def test_engines_on_a_gpu_are_tried_with_and_without_a_graph_of_the_frame(monkeypatch):
    fake_gpu.install(monkeypatch)
    fake_nvinfer.install(monkeypatch)
    tried = candidates.variants(Choice("trt", "trt.fp16.plan"), 1, many=False)

    assert [choice.name for choice in tried] == ["trt trt.fp16.plan", "trt trt.fp16.plan, graph off"]


def test_for_latency_no_contexts_and_no_batches_are_tried():
    tried = [*candidates.variants(Choice("ort", "model.fp32.onnx"), 4, many=False)]

    assert {(choice.contexts, choice.batch) for choice in tried} == {(1, 0)}


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


@pytest.mark.parametrize(
    ("agreement", "difference", "budget", "words"),
    [
        (0.99, None, 1.0, ""),
        (0.97, None, 1.0, "3.0 % of the results differ"),
        (0.95, None, 5.0, ""),  # 100 * (1 - 0.95) is 5.000000000000004
        (0.5, -0.9, 1.0, ""),
        (0.5, 100 * (0.87 - 0.88), 1.0, ""),  # -1.0000000000000009
        (0.5, 3.0, 0.0, ""),
        (1.0, -1.2, 1.0, "loses 1.20 points"),
    ],
)
def test_the_budget_is_of_points_with_labels_and_of_agreement_without(agreement, difference, budget, words):
    assert over_budget(Comparison(10, 10, agreement, difference), budget) == words


def finished(*spans, objective="latency"):
    """An outcome whose finalists took these milliseconds in each of ten turns; the first is the baseline."""
    outcome = Outcome(None, objective, 1.0, "pictures")
    for place, span in enumerate(spans):
        turns = [span * (1 + 0.01 * (turn % 3)) for turn in range(10)]
        known = Figures(20, span, None, 1e3 / span, 100.0 - place)
        accuracy = Comparison(1, 1, 1.0)
        row = Row(Choice("ort", f"{place}"), "finalist", figures=known, turns_ms=turns, accuracy=accuracy)
        outcome.finalists.append(row)
    outcome.rows, outcome.baseline = list(outcome.finalists), outcome.finalists[0]
    return outcome


def test_the_fastest_wins_where_it_is_shown_to_be_faster():
    outcome = finished(20, 10, 15)
    outcome.choose()

    assert outcome.winner.choice.artifact == "1"
    assert outcome.difference.shown


def test_what_is_not_shown_to_be_faster_does_not_replace_the_usual_way():
    outcome = finished(20, 19.99)
    outcome.finalists[1].turns_ms = [19.99 * (0.9 if turn % 2 else 1.1) for turn in range(10)]
    outcome.choose()

    assert outcome.winner is outcome.baseline
    assert "nothing is shown to be better" in outcome.table()


def test_where_nothing_was_measured_of_what_is_asked_for_the_usual_way_wins():
    outcome = finished(20, 10, objective="energy")
    outcome.baseline = outcome.finalists[1]
    outcome.choose()

    assert outcome.winner is outcome.baseline
    assert "nothing is shown to be better" in outcome.table()


@pytest.mark.parametrize("known", [0, 1])
def test_what_is_known_of_one_alone_makes_it_neither_better_nor_worse(known):
    outcome = finished(20, 10)
    row = outcome.finalists[known]
    row.figures = dataclasses.replace(row.figures, joules=3.0)
    assert outcome.pareto() == [outcome.finalists[1]]


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory", "energy"])
def test_each_heat_is_left_by_the_slower_half_and_never_by_the_usual_way(monkeypatch, objective):
    rows = [Row(Choice("ort", f"{place}")) for place in range(10)]
    race, heats, broken = Race(None, (), objective, 40.0, rows, rows[9], print), [], rows[0]

    def alone(self, row, seconds, heat):
        heats.append((heat, seconds))
        cost = float(row.choice.artifact) + 1
        row.figures = Figures(20, *((cost, None, 1 / cost, 5.0) if objective != "memory" else (5.0, None, 1.0, cost)))
        if row is broken:
            row.leave("failed", "crashed: SIGSEGV")

    monkeypatch.setattr(Race, "_alone", alone)
    race.heats()
    assert heats == [(1, 2.0)] * 10 + [(2, 4.0)] * 5
    assert race.running == [rows[1], rows[2], rows[3], rows[9]]
    assert [row.reason for row in rows[:9]] == [
        *("crashed: SIGSEGV", "", "", "", "after heat 2"),
        *["after heat 1"] * 4,
    ]


def test_what_its_turns_show_to_be_slower_does_not_win_by_its_other_numbers():
    outcome = finished(20, 10)
    outcome.finalists[1].turns_ms = [30.0] * 10
    outcome.choose()

    assert outcome.difference.shown
    assert outcome.winner is outcome.baseline


def test_the_table_has_the_best_on_top_and_the_others_by_how_far_they_came():
    outcome = finished(20, 10)
    outcome.reference = "ort model.fp32.onnx"
    known = outcome.finalists[0].figures
    for name, heat, state, reason in (
        ("broken", "", "failed", "crashed: SIGSEGV"),
        ("early", "heat 1", "eliminated", "after heat 1"),
        ("lossy", "", "over budget", "loses 2.00 points"),
        ("late", "heat 10", "eliminated", "after heat 10"),
    ):
        row = Row(Choice("ov", name), state, reason, heat, figures=known if heat else None)
        outcome.rows.append(row)
    outcome.choose()
    lines = outcome.table().splitlines()

    assert [line[:10].rstrip() for line in lines[1:5]] == ["* ort 1", "  ort 0", "  ov late", "  ov early"]
    assert lines[5:10] == [
        "ov lossy: over budget, loses 2.00 points",
        "ov broken: failed, crashed: SIGSEGV",
        "",
        "*: no other finalist is better in everything",
        "accuracy against ort model.fp32.onnx on pictures",
    ]
    assert lines[10].startswith("against ort 0: ort 1: 50.0% faster (")
    assert lines[11:] == ["best for latency: ort 1"]


@pytest.mark.parametrize(
    ("partial", "told"),
    [(True, "interrupted: partial, and no plan is kept"), (False, "nothing came to the end, so no plan is kept")],
)
def test_where_nothing_was_measured_the_table_is_of_words_alone(partial, told):
    outcome = Outcome(None, "latency", 1.0, "pictures", "ort model.fp32.onnx", partial=partial)
    outcome.rows = [Row(Choice("ort", "0"))]
    assert outcome.table().splitlines() == ["accuracy against ort model.fp32.onnx on pictures", told]


@pytest.mark.parametrize(
    ("compared", "difference", "budget", "told"),
    [(26, None, 1, True), (26, None, 4, False), (200, None, 1, False), (26, None, 0, False), (26, -2.0, 1, False)],
)
def test_who_is_judged_by_few_results_is_told_to_give_more_pictures(compared, difference, budget, told):
    outcome = finished(20, 10)
    outcome.choose()
    outcome.budget = budget
    lost = Row(Choice("ov", "int8"), accuracy=Comparison(3, compared, 0.8, difference))
    lost.leave("over budget", "20.0 % of the results differ")
    words = "26 results judge coarsely, one is 3.8 %: give more pictures, best with labels (--images)"

    assert words not in outcome.table()
    outcome.rows.append(lost)
    assert (words in outcome.table()) is told


def test_the_least_memory_wins_where_memory_is_the_objective():
    outcome = finished(10, 20, 30, objective="memory")
    outcome.choose()

    assert outcome.winner.choice.artifact == "2"


def test_the_front_holds_only_what_nothing_beats_in_everything():
    outcome = finished(10, 20)
    assert len(outcome.pareto()) == 2

    slow = outcome.finalists[1]
    slow.figures = dataclasses.replace(slow.figures, memory_mb=200.0)
    assert outcome.pareto() == [outcome.finalists[0]]


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
