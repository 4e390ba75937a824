"""Plans that tune kept: used while they hold, passed over with the reason where they do not, never in the way."""

import dataclasses
import json
import os

import pytest

from edgeinfer import backends, cli, load, machine, modeljson, plans, quota
from edgeinfer.bundle import Bundle, sha256_of
from edgeinfer.errors import EdgeInferError
from edgeinfer.plans import Choice, Plan
from edgeinfer.profiling.child import Failed
from helpers import bundles


def kept(folder, **changes):
    """Write a plan that holds for this bundle here, but for `changes`; the bundle."""
    bundle = Bundle.open(folder)
    choice = Choice("ov", "model.fp32.onnx", threads=1, settings={"pinning": "off"})
    facts = {"made": "2026-11-21", "objective": "latency", "budget": 1.0, "here": plans.fingerprint()}
    plan = Plan(choice, **facts, bundle=sha256_of(folder / "model.json"))
    plans.write(dataclasses.replace(plan, **changes), bundle)
    return bundle


def test_what_was_written_is_read(detector):
    bundle = kept(detector, objective="memory")
    plan = plans.read(bundle)

    assert (plan.choice.backend, plan.choice.settings, plan.objective) == ("ov", {"pinning": "off"}, "memory")
    assert plans.fault(plan, bundle) == ""


def test_a_bundle_of_a_very_long_name_has_a_plan_of_its_own(detector):
    folders = [detector.with_name("目" * 80 + end) for end in ("one", "two")]
    kept(detector.rename(folders[0]))
    assert plans.read(Bundle.open(folders[0])).choice.backend == "ov"
    assert plans.read(Bundle.open(folders[0].rename(folders[1]))) is None


def test_load_runs_the_plan_and_says_so(detector):
    kept(detector)
    with load(detector) as model:
        assert (model.backend, model.artifact) == ("ov", "model.fp32.onnx")
        assert model.plan == ("tuned 2026-11-21 for latency on this machine: ov model.fp32.onnx, 1 thread, pinning off")
        assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"]


@pytest.mark.parametrize(("asked", "contexts"), [({}, 2), ({"contexts": 3}, 3), ({"plan": False}, 1)])
def test_a_plan_of_several_contexts_has_at_least_these(detector, asked, contexts):
    kept(detector, choice=Choice("ort", "model.fp32.onnx", contexts=2))
    with load(detector, **asked) as model:
        assert model.contexts == contexts


@pytest.mark.parametrize("asked", [{"plan": False}, {"backend": "ort"}, {"precision": "fp32"}], ids=str)
def test_load_passes_the_plan_over_where_something_else_is_asked_for(detector, asked):
    kept(detector)
    with load(detector, **asked) as model:
        assert (model.backend, model.plan) == ("ort", "")


def test_a_plan_of_another_folder_is_not_this_ones(detector, classifier):
    kept(detector)
    with load(classifier) as model:
        assert model.backend == "ort"


def test_a_plan_is_tied_to_the_gpu_it_was_found_with(detector, monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "gpu", lambda ordinal: machine.Gpu("86", f"A1{ordinal}", "12.8"))
    bundle = kept(detector)
    first, second = (f"A1{ordinal}, sm 86, driver for CUDA 12.8" for ordinal in (0, 1))

    assert plans.fault(plans.read(bundle), bundle) == ""
    assert plans.fault(plans.read(bundle), bundle, 1) == f"gpu is {second} now, and was {first}"


def test_a_plan_may_ask_for_the_most_there_can_be(detector):
    most = quota.most_threads()
    bundle = kept(detector, choice=Choice("ort", "model.fp32.onnx", threads=most, batch=1, contexts=most))
    assert plans.fault(plans.read(bundle), bundle) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bundle": "0" * 64}, "the bundle has changed since"),
        ({"here": {**plans.fingerprint(), "processor": "Z80"}}, "and was Z80"),
        ({"here": {**plans.fingerprint(), "tensorrt": "11.0"}}, "tensorrt is not there now, and was 11.0"),
        ({"choice": Choice("ov", "gone.onnx")}, "the bundle holds no gone.onnx"),
        ({"choice": Choice("warp", "model.fp32.onnx")}, "there is no backend warp"),
        ({"choice": Choice("trt", "model.fp32.onnx")}, "this machine has no NVIDIA GPU"),
        ({"choice": Choice("ov", "model.fp32.onnx", settings={"warp": "on"})}, "ov has no setting warp on"),
        ({"choice": Choice("ov", "model.fp32.onnx", settings={"pinning": "so"})}, "ov has no setting pinning so"),
        ({"choice": Choice("ov", "model.fp32.onnx", threads=-4)}, "threads -4 is not within 0 to "),
        ({"choice": Choice("ov", "model.fp32.onnx", threads=99999)}, "threads 99999 is not within 0 to "),
        ({"choice": Choice("ov", "model.fp32.onnx", batch=2)}, "batch 2 is not within 0 to 1"),
        ({"choice": Choice("ov", "model.fp32.onnx", contexts=0)}, "contexts 0 is not within 1 to "),
    ],
    ids=[
        *("bundle", "processor", "library", "artifact", "backend", "gpu", "setting", "value"),
        *("below", "above", "batch", "contexts"),
    ],
)
def test_a_plan_that_does_not_hold_is_passed_over_and_info_says_why(detector, monkeypatch, capsys, changes, reason):
    monkeypatch.setattr("edgeinfer.machine.has_gpu", lambda: False)
    kept(detector, **changes)
    with load(detector) as model:
        assert (model.backend, model.plan) == ("ort", "")

    assert cli.main(["info", str(detector)]) == 0
    out = capsys.readouterr().out
    assert "not used: " in out
    assert reason in out


def test_a_plan_is_passed_over_for_what_its_backend_says_of_its_own_file_alone(detector):
    spec = Bundle.open(detector).spec
    (detector / "model.int8.trt.onnx").write_bytes((detector / "model.fp32.onnx").read_bytes())
    other = dataclasses.replace(spec.artifacts[0], file="model.int8.trt.onnx", precision="int8", flavor="trt")
    modeljson.write(dataclasses.replace(spec, artifacts=(*spec.artifacts, other)), detector / "model.json")

    bundle = kept(detector, choice=Choice("ort", other.file))
    assert "int8 flavor trt" in plans.fault(plans.read(bundle), bundle)
    kept(detector, choice=Choice("ort", "model.fp32.onnx"))
    assert plans.fault(plans.read(bundle), bundle) == ""


def test_a_choice_in_words_has_all_that_is_not_as_usual():
    every = Choice("ov", "model.fp32.onnx", threads=2, settings={"pinning": "off"}, batch=4, contexts=2)
    assert every.name == "ov model.fp32.onnx, 2 contexts, 2 threads, pinning off, batch 4"
    assert (Choice("ort", "model.fp32.onnx").name, Choice("null").name) == ("ort model.fp32.onnx", "null")


def test_a_bundle_written_again_is_not_run_by_the_old_plan(detector):
    bundle = kept(detector)
    modeljson.write(dataclasses.replace(bundle.spec, name="other"), detector / "model.json")

    with load(detector) as model:
        assert model.backend == "ort"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"schema": 2}'),
        *('{"schema": 1, "choice": {"backend": 5}}', '{"schema": 1, "choice": 3}'),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_plan_is_no_plan_and_info_says_so(detector, capsys, text):
    bundle = kept(detector)
    plans.path(bundle).write_text(text)
    with load(detector) as model:
        assert model.backend == "ort"

    with pytest.raises(EdgeInferError, match="cannot be read"):
        plans.read(bundle)
    assert cli.main(["info", str(detector)]) == 0
    assert "plan: unreadable\n  not used: the plan " in capsys.readouterr().out


@pytest.mark.parametrize("place", ["threads", "contexts", "made", "here", "settings", "doubts"])
def test_a_value_of_the_wrong_type_is_damage(detector, place):
    bundle = kept(detector)
    data = json.loads(plans.path(bundle).read_text())
    (data["choice"] if place in data["choice"] else data)[place] = [1]
    plans.path(bundle).write_text(json.dumps(data))

    with pytest.raises(EdgeInferError, match="cannot be read"):
        plans.read(bundle)


def test_info_tells_the_plan_and_marks_what_it_runs(detector, capsys):
    kept(detector)
    cli.main(["info", str(detector)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "plan: tuned 2026-11-21 for latency on this machine: ov model.fp32.onnx, 1 thread, pinning off" in lines
    assert "could ort model.fp32.onnx (fp32)" in lines
    assert "runs ov model.fp32.onnx (fp32)" in lines

    cli.main(["info", str(detector), "--json"])
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["holds"], plan["choice"]["backend"]) == (True, "ov")


def test_info_tells_what_a_plan_is_in_doubt_for(detector, capsys):
    kept(detector, doubts=("the processor was hot", "few samples"))
    cli.main(["info", str(detector)])
    lines = capsys.readouterr().out.splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith("plan: tuned")]
    assert lines[place + 1 : place + 3] == ["  in doubt: the processor was hot", "  in doubt: few samples"]

    cli.main(["info", str(detector), "--json"])
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["holds"], plan["doubts"]) == (True, ["the processor was hot", "few samples"])


def test_without_a_plan_info_has_none(detector, capsys):
    cli.main(["info", str(detector), "--json"])
    assert json.loads(capsys.readouterr().out)["plan"] is None


def test_run_says_that_a_plan_was_used_and_no_plan_turns_it_off(detector, capsys):
    kept(detector)
    picture = str(detector / "golden/0.png")
    cli.main(["run", str(detector), picture])
    assert "ran on ov model.fp32.onnx (tuned 2026-11-21" in capsys.readouterr().out

    cli.main(["run", str(detector), picture, "--no-plan"])
    assert "ran on ort model.fp32.onnx\n" in capsys.readouterr().out


class Gone:
    """A process that does not come up."""

    def __init__(self, *_, **__):
        self.turns, self.pid = [], os.getpid()

    def wait_ready(self):
        raise Failed("gone")

    def close(self):
        pass


@pytest.mark.parametrize(("module", "models", "how"), [("compare", 1, []), ("parity", 2, ["--parity"])])
def test_compare_runs_the_plan_and_no_plan_turns_it_off(detector, monkeypatch, capsys, module, models, how):
    monkeypatch.setattr(f"edgeinfer.comparing.{module}.Entrant", Gone)
    kept(detector)
    words = ["compare", *[str(detector)] * models, str(detector / "golden/0.png"), *how]
    assert cli.main(words) == 1
    assert "colors-detect (ov model.fp32.onnx, 1 thread, pinning off): gone" in capsys.readouterr().err

    assert cli.main([*words, "--no-plan"]) == 1
    assert "colors-detect (ort model.fp32.onnx): gone" in capsys.readouterr().err


def test_forget_removes_the_plan(detector, capsys):
    bundle = kept(detector)
    assert cli.main(["tune", str(detector), "--forget"]) == 0
    assert not plans.path(bundle).exists()
    capsys.readouterr()

    assert cli.main(["tune", str(detector), "--forget"]) == 2
    assert "has no plan on this machine" in capsys.readouterr().err


def test_a_batch_in_the_plan_is_the_most_that_a_run_takes(tmp_path):
    from edgeinfer.spec import Batch

    folder = bundles.classify_bundle(tmp_path / "many", Batch(1, 8))
    kept(folder, choice=Choice("ort", "model.fp32.onnx", batch=2))
    runs = []
    with load(folder) as model:
        engine, run = model.engine, model.engine.run
        engine.run = lambda inputs: runs.append(len(inputs["images"])) or run(inputs)
        assert len(model.batch([bundles.picture()] * 5)) == 5
    assert runs == [2, 2, 1]


@pytest.mark.parametrize("name", ["ort", "ov"])
def test_every_value_an_engine_offers_is_one_it_takes(detector, name):
    for setting, values in backends.load(name).settings().items():
        for value in values:
            choice = Choice(name, "model.fp32.onnx", settings={setting: value})
            with load(detector, plan=choice) as model:
                assert [label for _, _, label in model(bundles.picture("blue"))] == ["blue"], choice.name
