"""Two bundles against each other, each in a real process of its own."""

import json
import shutil
import signal

import numpy as np
import pytest

import edgeinfer
from edgeinfer import cli
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.profiling import rivals
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.sensors import Sensors


@pytest.fixture
def twin(detector, tmp_path):
    return shutil.copytree(detector, tmp_path / "twin")


def run(*args):
    return cli.main(["profile", *map(str, args)])


def test_two_bundles_are_measured_in_turns_and_compared(detector, twin, tmp_path, capsys):
    target, page = tmp_path / "r.json", tmp_path / "r.html"
    code = run(detector, twin, "--seconds", "2", "--json", target, "--html", page, "--fail-if-slower", "900%")
    out = capsys.readouterr().out
    assert code in {0, 3}
    assert all(
        line.startswith((f"  {detector}: ", f"  {twin}: ")) for line in out.split(" on ort")[0].splitlines()[1:-1]
    )
    assert f"colors-detect ({detector}) on ort" in out
    assert f"colors-detect ({twin}) on ort" in out
    data = json.loads(target.read_text())
    (found,) = data["comparison"]["differences"]
    assert found["low"] <= found["ratio"] <= found["high"]
    assert "interleaved at random" in data["comparison"]["remark"]
    other = data["comparison"]["with"]
    assert [one["context"]["bundle"]["path"] for one in (other, data)] == [str(detector), str(twin)]
    spans = [one["samples"]["single-stream"]["start_s"] for one in (other, data)]
    assert len(spans[0]) >= rivals.TURNS
    # each began before the other ended
    assert spans[0][0] < spans[1][-1]
    assert spans[1][0] < spans[0][-1]
    assert str(twin) in page.read_text()
    assert str(detector) in page.read_text()


def test_the_ratio_is_that_of_the_second_bundle_to_the_first(detector):
    context = edgeinfer.profile(detector, "null", seconds=0.05).data["context"]

    def rival(latency):
        one = object.__new__(rivals.Rival)
        one.context, one.warm_up = context, {"runs": 5, "seconds": 1.0}
        one.turns = [
            Samples(10.0 * place, [0.0, 1.0], [latency, latency + 0.1], {"infer": [1.0, 1.0]}, 2, 2.0)
            for place in range(rivals.TURNS)
        ]
        return one

    with Sensors([]) as watch:
        pass
    report = rivals._judged([rival(2.0), rival(3.0)], "single-stream", watch, 0.0, interrupted=False)
    (found,) = report.data["comparison"]["differences"]
    assert found["ratio"] == pytest.approx(3.05 / 2.05)
    assert report.slower_than(0.4)
    assert not report.slower_than(0.6)
    samples = report.data["samples"]["single-stream"]
    assert samples["start_s"][:4] == [0.0, 1.0, 10.0, 11.0]
    assert samples["latency_ms"][:2] == [3.0, 3.1]
    assert report.data["summary"]["single-stream"]["images"] == 2 * rivals.TURNS


def test_what_each_of_two_dropped_of_a_cameras_pictures_is_told(detector):
    context = edgeinfer.profile(detector, "null", seconds=0.05).data["context"]

    def rival(dropped):
        one = object.__new__(rivals.Rival)
        one.context, one.warm_up, one.fps = context, {"runs": 5, "seconds": 1.0}, 30.0
        one.turns = [Samples(0.0, [0.0], [2.0], {"infer": [1.0]}, 1, 2.0, dropped)]
        return one

    with Sensors([]) as watch:
        pass
    report = rivals._judged([rival(7), rival(9)], "paced", watch, 0.0, interrupted=False)
    for data, dropped in ((report.data["comparison"]["with"], 7), (report.data, 9)):
        assert (data["scenarios"]["paced"]["fps"], data["scenarios"]["paced"]["dropped"]) == (30.0, dropped)
        assert f"{dropped} pictures dropped" in report.table()


def test_numbers_of_numpy_reach_both_processes(detector, twin):
    asked = {"seconds": np.int64(1), "fps": np.float32(200), "threads": np.int64(1)}
    report = rivals.versus(detector, twin, "null", scenario="paced", source=detector / "golden" / "0.png", **asked)
    assert json.loads(report.json())["scenarios"]["paced"]["fps"] == 200
    with pytest.raises(UsageError, match="threads '1' is not a whole number"):
        rivals.versus(detector, twin, threads="1")


def test_a_bundle_that_does_not_load_is_one_error(detector, twin):
    (twin / "model.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match="sha256"):
        rivals.versus(detector, twin, "ort", seconds=1)


def test_a_process_that_dies_is_one_error(detector, twin, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(EngineError, match="ended with code 1"):
        rivals.versus(detector, twin, seconds=1)


def test_a_process_that_is_killed_between_turns_is_one_error(detector, capsys, monkeypatch):
    turn = rivals.Rival.turn

    def killed(rival, seconds):
        rival._process.kill()
        rival._process.wait()
        turn(rival, seconds)

    monkeypatch.setattr(rivals.Rival, "turn", killed)
    assert run(detector, detector, "--seconds", "1") == 1
    assert capsys.readouterr().err.startswith(f"error: the process of {detector} crashed: SIGKILL")


def test_a_process_that_hangs_is_one_error(detector, capsys, monkeypatch):
    turn = rivals.Rival.turn

    def stopped(rival, seconds):
        rival._process.send_signal(signal.SIGSTOP)
        turn(rival, seconds)

    monkeypatch.setattr(rivals.Rival, "turn", stopped)
    monkeypatch.setattr(rivals, "SILENCE_S", 0.2)
    assert run(detector, detector, "--seconds", "0.1") == 1
    assert capsys.readouterr().err.startswith(f"error: the process of {detector} hung: not a word in 0 s")


@pytest.mark.parametrize("scenario", ["server", "cold"])
def test_some_scenarios_have_no_turns(detector, twin, scenario):
    with pytest.raises(UsageError, match="compared in single-stream"):
        rivals.versus(detector, twin, scenario=scenario)


def test_three_bundles_or_two_scenarios_are_wrong_usage(detector, capsys):
    assert run(detector, detector, detector) == 2
    assert run(detector, detector, "--scenario", "paced,offline") == 2
    assert run(detector, detector, "--layers") == 2


def test_both_are_measured_on_the_gpu_that_was_asked_for_or_not_at_all(detector, twin, capsys):
    assert run(detector, twin, "--device", "gpu", "--seconds", "1") == 1
    assert "gpu:0 was asked for, and this backend runs on the CPU" in capsys.readouterr().err
