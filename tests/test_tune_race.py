"""The race: what is tried, each in a process of its own, which may crash or hang; who leaves each heat."""

import io
import json
import os
import queue
import signal
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import cv2
import pytest

from edgeinfer import backends, load
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BackendUnavailable
from edgeinfer.plans import Choice
from edgeinfer.profiling import subject
from edgeinfer.profiling.child import Failed
from edgeinfer.profiling.samples import Samples
from edgeinfer.spec import Batch
from edgeinfer.tuning import _entrant, candidates, entrants
from edgeinfer.tuning.entrants import Entrant, Turn
from edgeinfer.tuning.figures import Figures
from edgeinfer.tuning.outcome import Row
from edgeinfer.tuning.race import Race
from helpers import bundles, fake_gpu, fake_nvinfer
from helpers.patience import LONG_S


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


@pytest.mark.parametrize(("kind", "backend"), [("detect", "ort"), ("detect", "null"), ("classify", "ort")])
def test_what_an_entrant_finds_comes_over_whole(tmp_path, kind, backend):
    bundle = Bundle.open(getattr(bundles, f"{kind}_bundle")(tmp_path / "model"))
    with load(bundle, backend) as model:
        found = model(bundles.picture("blue", 48, 64))
    came = entrants._result(json.loads(json.dumps(_entrant._record(found))), bundle)

    assert (type(came), came.source, came.labels) == (type(found), found.source, found.labels)
    for name in ("scores", "class_ids", *(["boxes"] if kind == "detect" else [])):
        told, original = getattr(came, name), getattr(found, name)
        assert (told.dtype, told.shape, told.tolist()) == (original.dtype, original.shape, original.tolist())


def test_what_an_entrant_could_not_read_is_nothing():
    assert entrants._result(_entrant._record(None), None) is None


@pytest.fixture
def entrant(detector):
    made = Entrant(
        Bundle.open(detector), Choice("ort", "model.fp32.onnx"), "turns", pictures=[], scenario="single-stream"
    )
    yield made
    made.close()


def test_pictures_are_answered_whose_names_no_command_line_could_hold(detector, tmp_path):
    picture = tmp_path / ("long" * 50) / "red.png"
    picture.parent.mkdir()
    cv2.imwrite(str(picture), bundles.picture())
    choice, many = Choice("ort", "model.fp32.onnx"), [picture] * 700  # more than 128 KiB
    with closing(Entrant(Bundle.open(detector), choice, "answers", many, thorough=False)) as entrant:
        entrant.wait_ready()
        assert [len(found) for found in entrant.answers()] == [1] * 700


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


def test_a_process_that_can_no_longer_be_told_anything_and_does_not_end_has_hung(entrant, monkeypatch):
    entrant.wait_ready()
    monkeypatch.setattr("edgeinfer.profiling.child.SILENCE_S", 0.1)
    with Path(os.devnull).open() as unwritable, monkeypatch.context() as patch:
        patch.setattr(entrant._process, "stdin", unwritable)
        with pytest.raises(Failed, match="hung: it is not heard any more"):
            entrant.turn(0.1)


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
    tried = list(candidates.variants(kind, Batch(1, 4), many=True))

    assert {choice.threads for choice in tried if choice.contexts == 1} == {0, 1, 2, 4, 6}
    assert {choice.batch for choice in tried} == {0, 1, 2}
    assert {(choice.contexts, choice.threads) for choice in tried if choice.contexts > 1} == {(2, 3), (4, 1), (6, 1)}
    assert {choice.name for choice in tried} >= {"ort model.fp32.onnx", "ort model.fp32.onnx, spinning off, batch 2"}
    assert len(set(map(str, tried))) == len(tried) == 10 * 3


def test_another_arithmetic_is_a_kind_of_its_own_that_every_variant_keeps(detector, monkeypatch):
    offered = {"compute": ("f32", "bf16", "f16"), "spinning": ("on", "off")}
    monkeypatch.setattr(backends.load("ort"), "settings", lambda: offered)
    monkeypatch.setattr("edgeinfer.machine.cores", lambda: 1)
    kinds = [kind for kind in candidates.kinds(Bundle.open(detector)) if kind.backend == "ort"]

    assert [dict(kind.settings) for kind in kinds] == [{}, {"compute": "bf16"}, {"compute": "f16"}]
    tried = [dict(choice.settings) for choice in candidates.variants(kinds[1], Batch(1, 1), many=False)]
    assert tried == [{"compute": "bf16"}, {"compute": "bf16"}, {"compute": "bf16", "spinning": "off"}]


def test_without_the_library_of_the_reference_nothing_is_tried(detector, monkeypatch):
    def missing(name):
        raise BackendUnavailable(f"no {name} here")

    monkeypatch.setattr(backends, "load", missing)
    with pytest.raises(BackendUnavailable, match="no ort here"):
        candidates.reference(Bundle.open(detector))


def test_engines_on_a_gpu_are_tried_with_and_without_a_graph_of_the_frame(monkeypatch):
    fake_gpu.install(monkeypatch)
    fake_nvinfer.install(monkeypatch)
    tried = candidates.variants(Choice("trt", "trt.fp16.plan"), Batch(1, 1), many=False)

    assert [choice.name for choice in tried] == ["trt trt.fp16.plan", "trt trt.fp16.plan, graph off"]


@pytest.mark.parametrize(("batch", "sizes"), [(Batch(4, 4), {0}), (Batch(2, 6), {0, 2, 4})], ids=str)
def test_no_batch_is_tried_that_would_be_filled_up_to_the_models_smallest(batch, sizes):
    tried = candidates.variants(Choice("ort", "model.fp32.onnx"), batch, many=True)

    assert {choice.batch for choice in tried} == sizes


def test_for_latency_no_contexts_and_no_batches_are_tried():
    tried = [*candidates.variants(Choice("ort", "model.fp32.onnx"), Batch(1, 4), many=False)]

    assert {(choice.contexts, choice.batch) for choice in tried} == {(1, 0)}


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory", "energy"])
def test_each_heat_is_left_by_the_slower_half_and_never_by_the_usual_way(monkeypatch, objective):
    rows, said = [Row(Choice("ort", f"{place}")) for place in range(10)], []
    race, heats, broken = Race(None, (), objective, 40.0, rows, rows[7], said.append), [], rows[0]

    def alone(self, row, seconds, heat):
        heats.append((heat, seconds))
        cost = float(row.choice.artifact) * 7 % 10 + 1  # of 1, 8, 5, 2, 9, 6, 3, 10, 7 and 4
        row.figures = Figures(20, *((cost, None, 1 / cost, 5.0) if objective != "memory" else (5.0, None, 1.0, cost)))
        if row is broken:
            row.leave("failed", "crashed: SIGSEGV")

    monkeypatch.setattr(Race, "_alone", alone)
    race.heats()
    assert heats == [(1, 2.0)] * 10 + [(2, 4.0)] * 5
    assert (said[0], said[-1]) == ("heat 1, 1 of 10: ort 0", "heat 2, 5 of 5: ort 7")
    assert race.running == [rows[3], rows[6], rows[9], rows[7]]
    assert [row.reason for row in rows] == [
        *("crashed: SIGSEGV", "after heat 1", "after heat 2", "", "after heat 1"),
        *("after heat 1", "", "", "after heat 1", ""),
    ]


@pytest.mark.parametrize(("usual", "running"), [(1, [0, 1, 2, 3]), (None, [0, 1, 2, 3]), (5, [0, 1, 2, 5])])
def test_the_usual_way_takes_the_last_place_only_where_it_has_none(monkeypatch, usual, running):
    rows = [Row(Choice("ort", f"{place}")) for place in range(6)]
    race = Race(None, (), "latency", 1.0, rows, None if usual is None else rows[usual], print)

    def alone(self, row, seconds, heat):
        row.figures = Figures(20, float(row.choice.artifact) + 1, None, 1.0, 5.0)

    monkeypatch.setattr(Race, "_alone", alone)
    race.heats()
    assert race.running == [rows[place] for place in running]


class Runner:
    """An entrant without a process; what its artifact is called says how it does."""

    log: ClassVar[list[tuple[str, float]]] = []

    def __init__(self, bundle, choice, work, pictures, device, scenario):
        self.name, self.turns, self.pid = choice.artifact, [], os.getpid()
        assert (work, scenario) == ("turns", "single-stream")
        assert device in {"auto", "gpu:1"}

    def wait_ready(self):
        if self.name == "unloadable":
            raise Failed("it cannot be loaded")
        return {"load_ms": 5.0, "device": "cpu"}

    def turn(self, seconds):
        self.log.append((self.name, seconds))
        if self.name == "crashing" and len(self.turns) == 2:
            raise Failed("crashed: SIGSEGV")
        count = 0 if self.name == "idle" else 2
        samples = Samples(10.0 * len(self.log), [0.0, 0.5][:count], [200.0] * count, {}, count, 1.0)
        self.turns.append(Turn(samples, 90.0))

    def close(self):
        self.log.append((self.name, 0.0))


@pytest.fixture
def runners(monkeypatch):
    monkeypatch.setattr("edgeinfer.tuning.race.Entrant", Runner)
    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda *_: [])
    monkeypatch.setattr(Runner, "log", [])
    return Runner.log


def racing(*names):
    """A race of these, of 20 seconds each in the final."""
    return Race(None, (), "latency", 20.0, [Row(Choice("ort", name)) for name in names], None, print)


def test_in_the_final_all_run_turn_by_turn_and_who_fails_takes_no_more(runners):
    race = racing("one", "unloadable", "crashing", "idle", "other")
    race.final()
    turns, ends = [entry for entry in runners if entry[1]], [name for name, seconds in runners if not seconds]

    assert set(turns) == {(name, 2.0) for name in ("one", "crashing", "idle", "other")}
    assert [turns.count((name, 2.0)) for name in ("one", "crashing", "idle", "other")] == [10, 3, 10, 10]
    rounds = [[name for name, _ in turns if name in ("one", "other")][at : at + 2] for at in range(0, 20, 2)]
    assert {tuple(one) for one in rounds} == {("one", "other"), ("other", "one")}
    assert sorted(ends) == ["crashing", "idle", "one", "other", "unloadable"]
    assert [(row.state, row.reason) for row in race.running] == [
        ("finalist", ""),
        ("failed", "it cannot be loaded"),
        ("failed", "crashed: SIGSEGV"),
        ("failed", "not one call was done in its turns"),
        ("finalist", ""),
    ]


def test_finalists_have_the_figures_of_their_turns_and_the_race_what_speaks_against_them(runners):
    race = racing("one", "other")
    race.final()

    assert race.finalists == race.running
    for row in race.finalists:
        assert (row.round, row.load_ms, row.device, row.turns_ms) == ("final", 5.0, "cpu", [200.0] * 10)
        assert (row.figures.samples, row.figures.p50_ms, row.figures.per_second) == (20, 200.0, 2.0)
    assert any("too few samples: 20" in doubt for doubt in race.doubts)


@pytest.mark.parametrize(("device", "place", "gpu"), [("auto", None, 0), ("gpu:1", 1, 1)])
def test_a_final_reads_the_sensors_of_its_processes_and_its_gpu(runners, monkeypatch, device, place, gpu):
    probed = []
    monkeypatch.setattr("edgeinfer.machine.ordinal", {device: place}.get)
    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda *asked: probed.append(asked) or [])
    race = racing("one")
    race.device = device
    race.final()
    assert probed == [([os.getpid()], gpu)]
    assert race.finalists == race.running


def test_a_final_of_none_ends_without_figures_and_doubts(runners):
    race = racing("unloadable")
    race.final()
    assert (race.finalists, race.doubts, runners) == ([], [], [("unloadable", 0.0)])


def test_in_a_heat_each_runs_alone_and_who_does_nothing_has_failed(runners):
    race = racing("one", "unloadable", "crashing", "idle", "other")
    race.heats()

    assert runners == [
        *(("one", 1.0), ("one", 0.0), ("unloadable", 0.0), ("crashing", 1.0), ("crashing", 0.0)),
        *(("idle", 1.0), ("idle", 0.0), ("other", 1.0), ("other", 0.0)),
    ]
    assert [row.choice.artifact for row in race.running] == ["one", "crashing", "other"]
    assert {(row.round, row.load_ms, row.figures.p50_ms) for row in race.running} == {("heat 1", 5.0, 200.0)}
