"""`edgeinfer profile` from end to end, in Python and on the command line, with tiny bundles."""

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import ClassVar

import cv2
import pytest

import edgeinfer
from edgeinfer import cli, pictures
from edgeinfer.bundle import Bundle
from edgeinfer.cli import profile as command
from edgeinfer.errors import EngineError, SourceError, UsageError
from edgeinfer.pipeline import Pipeline
from edgeinfer.profiling import _newborn, cold, layers, loop, scenarios, server
from edgeinfer.profiling.report import MAKE, SCHEMA
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.statistics import distribution
from edgeinfer.profiling.subject import BOUNDARIES, picture_set
from helpers import bundles
from helpers.patience import said, until

SCENARIOS = ["single-stream", "multi-stream", "server", "offline", "paced"]


@pytest.fixture(autouse=True)
def brief_warm_up(monkeypatch):
    monkeypatch.setattr(scenarios, "WARM_UP_S", 0.02)
    monkeypatch.setattr(server, "TRIALS", 2)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), bundles.picture("blue", 90, 120))
    return path


def run(*args):
    return cli.main(["profile", *map(str, args)])


@pytest.mark.parametrize("backend", ["null", "ort"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_gives_samples_stages_and_a_summary_of_them(detector, scenario, backend):
    report = edgeinfer.profile(detector, backend, scenario=scenario, seconds=0.1, fps=200).data
    samples, summary = report["samples"][scenario], report["summary"][scenario]
    count = len(samples["latency_ms"])
    assert count == len(samples["start_s"]) == summary["latency_ms"]["count"] > 0
    assert set(samples["stages_ms"]) == {"preprocess", "infer", "postprocess"}
    assert all(len(spans) == count for spans in samples["stages_ms"].values())
    assert summary["latency_ms"]["max"] == pytest.approx(max(samples["latency_ms"]), abs=1e-5)
    assert summary["throughput_per_s"] > 0
    assert report["scenarios"][scenario]["warm_up"]["runs"] >= 5
    issuer = report["scenarios"][scenario]["issuer"]
    assert issuer == scenarios.issuer_name(scenario)
    assert (issuer == loop.NAME) == (scenario == "paced")


def test_without_loadgen_our_own_loop_issues_and_says_so(detector, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    monkeypatch.delitem(sys.modules, "edgeinfer.profiling.loadgen", raising=False)
    report = edgeinfer.profile(detector, "null", scenario=["single-stream", "paced"], seconds=0.1)
    issuers = {name: facts["issuer"] for name, facts in report.data["scenarios"].items()}
    assert issuers == {
        "single-stream": "edgeinfer's own loop, for LoadGen is not installed",
        "paced": "edgeinfer's own loop",
    }
    assert "issued by edgeinfer's own loop, for LoadGen is not installed" in report.table()


def test_all_pictures_are_used(detector, tmp_path, monkeypatch):
    for place in range(80):
        cv2.imwrite(str(tmp_path / f"{place}.png"), bundles.picture("blue", 10 + place, 10))
    seen, run_ = set(), Pipeline._run

    def watched(self, lane, images, pixels):
        seen.update(image.shape[0] for image in images)
        if len(seen) == 80:
            signal.raise_signal(signal.SIGINT)
        return run_(self, lane, images, pixels)

    monkeypatch.setattr(Pipeline, "_run", watched)
    monkeypatch.setattr(scenarios.issuer_of("single-stream"), "MOST_QUERIES", 5000)
    report = edgeinfer.profile(detector, "null", seconds=600, source=[tmp_path / "*.png"])
    assert report.data["context"]["pictures"] == "80 given"
    assert report.partial
    assert seen == set(range(10, 90))


def test_of_a_large_folder_as_many_are_held_as_fit_in_memory_evenly_spread(detector, tmp_path):
    for place in range(300):
        cv2.imwrite(str(tmp_path / f"{place}.png"), bundles.picture("blue", 10 + place, 1))
    found = picture_set(Bundle.open(detector), [tmp_path])
    heights = [picture.image.shape[0] for picture in found.pictures]
    assert (found.origin, len(heights)) == ("128 of 300 given", 128)
    assert {after - before for before, after in itertools.pairwise(heights)} == {2, 3}


def test_a_cold_start_decodes_the_one_picture_that_its_first_result_is_of(detector, photo, monkeypatch):
    monkeypatch.setattr(_newborn, "_call", lambda *_: 0.0)
    cv2.imwrite(str(photo.with_name("z.png")), bundles.picture("red"))
    read, decode = [], pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda *given: read.append(given[1]) or decode(*given))
    asked = {"backend": "null", "precision": "auto", "plan": False, "device": "auto", "threads": 0}
    for source in ([str(photo), str(photo)], [str(photo.parent)], []):
        _newborn.main({**asked, "bundle": str(detector), "born": 0.0, "idle_s": 0.0, "source": source})
        assert len(read) == 1
        read.clear()


@pytest.mark.parametrize(
    ("boundary", "stages"),
    [
        ("engine", ["infer"]),
        ("pipeline", ["infer", "postprocess", "preprocess"]),
        ("file", ["decode", "infer", "postprocess", "preprocess"]),
    ],
)
def test_a_boundary_is_named_and_has_its_stages(detector, photo, boundary, stages):
    report = edgeinfer.profile(detector, boundary=boundary, seconds=0.1, source=[photo])
    assert sorted(report.data["samples"]["single-stream"]["stages_ms"]) == stages
    assert f"boundary {boundary}: " in report.table()


def test_the_report_says_what_it_belongs_to(detector):
    context = edgeinfer.profile(detector, seconds=0.05).data["context"]
    assert context["bundle"]["name"] == "colors-detect"
    assert len(context["bundle"]["sha256"]) == 64
    assert (context["backend"], context["artifact"]) == ("ort", "model.fp32.onnx")
    assert context["device"]["cores"] == len(os.sched_getaffinity(0))
    assert {"numpy", "onnxruntime"} <= set(context["libraries"])
    assert context["harness_ms"] > 0
    assert context["pictures"] == "1 golden of the bundle"


@pytest.mark.usefixtures("ticking")
def test_the_summary_is_that_of_the_samples_and_untold_percentiles_are_null(detector):
    data = json.loads(edgeinfer.profile(detector, "null", scenario="paced", seconds=0.3, fps=100).json())
    latencies = data["samples"]["paced"]["latency_ms"]
    summary = data["summary"]["paced"]["latency_ms"]
    assert {name: value is None for name, value in summary.items()} == {
        name: value is None for name, value in distribution(latencies).items()
    }
    assert summary["p99"] is None
    assert summary["p50"] == pytest.approx(sorted(latencies)[len(latencies) // 2], abs=1e-5)


def test_a_cold_start_is_a_process_and_its_steps_are_the_whole(detector, capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.profiling.cold.PROCESSES", 2)
    monkeypatch.setattr("edgeinfer.profiling.cold.IDLE_S", 0.01)
    data = edgeinfer.profile(detector, scenario="cold", seconds=0.01).data
    samples = data["samples"]["cold"]
    assert list(samples["stages_ms"]) == ["start", "import", "load", "decode", "first"]
    assert len(samples["latency_ms"]) == len(data["scenarios"]["cold"]["after_idle_ms"]) == 2
    for place, latency in enumerate(samples["latency_ms"]):
        assert latency == pytest.approx(sum(spans[place] for spans in samples["stages_ms"].values()), abs=1e-3)
        assert samples["stages_ms"]["start"][place] > 1  # no interpreter starts in less
    assert data["reasons"][0] == "cold: too few samples: 2, and p50 needs 11; measure longer (--seconds)"


def test_the_processes_of_a_cold_start_are_no_other_load_and_have_no_energy_each(detector, monkeypatch):
    monkeypatch.setattr("edgeinfer.profiling.cold.PROCESSES", 2)
    monkeypatch.setattr("edgeinfer.profiling.cold.IDLE_S", 0.01)
    known = []

    def here(children, _):
        known.append(children)
        return []

    monkeypatch.setattr("edgeinfer.profiling.sensors.here", here)
    summary = edgeinfer.profile(detector, scenario="cold", seconds=0.01).data["summary"]["cold"]
    assert len(set(known[0])) == 2
    assert summary["joules_reason"] == "a process does more than its first inference"


def test_a_process_that_cannot_load_the_model_is_one_error(detector):
    (detector / "model.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"in a new process: .*sha256"):
        asked = {"backend": "ort", "precision": "auto", "threads": 0, "plan": True, "device": "auto"}
        cold.issue(1.0, {**asked, "source": [], "bundle": str(detector)}, [])


def test_a_process_that_dies_is_one_error(detector, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(EngineError, match="in a new process: ended with code 1"):
        cold.issue(1.0, {"bundle": str(detector)}, [])


def test_the_layers_are_those_of_the_graph_with_shares_of_the_whole(detector, capsys):
    assert run(detector, "--seconds", "0.05", "--layers") in {0, 3}
    assert "ReduceMean" in capsys.readouterr().out
    found = edgeinfer.profile(detector, seconds=0.05, layers=True).data["layers"]
    rows = found["layers"]
    assert {layer["kind"] for layer in rows} == {"ReduceMean", "Concat", "Unsqueeze"}
    assert {layer["precision"] for layer in rows} == {"fp32"}
    assert sum(layer["share"] for layer in rows) == pytest.approx(1.0)
    assert [layer["ms"] for layer in rows] == sorted((layer["ms"] for layer in rows), reverse=True)


def test_no_name_from_a_bundle_steers_the_terminal(detector, capsys, monkeypatch):
    layer = {"name": "\x1b[2Jconv", "kind": "Conv", "precision": "fp32", "ms": 1.0, "share": 1.0}
    monkeypatch.setattr(layers, "record", lambda *_: {"layers": [layer]})
    model = json.loads((detector / "model.json").read_text())
    (detector / "model.json").write_text(json.dumps({**model, "name": "\x1b]0;colors\x07"}))
    run(detector, "--seconds", "0.05", "--layers")
    out = capsys.readouterr().out
    assert "[2Jconv" in out
    assert not [char for char in out if not char.isprintable() and char != "\n"]


def test_a_backend_without_a_profiler_says_so(detector, capsys):
    run(detector, "--backend", "null", "--seconds", "0.05", "--layers")
    assert "layers: this backend does not time its layers" in capsys.readouterr().out


def test_an_engine_that_knows_names_and_times_only_is_enough():
    class Engine:
        def profile_layers(self, inputs):
            return [("conv", 1.0), ("softmax", 3.0)]

    found = layers.record(Engine(), {})
    assert [(layer["name"], layer["share"], layer["kind"]) for layer in found["layers"]] == [
        ("softmax", 0.75, ""),
        ("conv", 0.25, ""),
    ]


def test_the_page_is_written_beside_the_json(detector, tmp_path):
    run(detector, "--seconds", "0.05", "--layers", "--html", tmp_path / "r.html", "--json", tmp_path / "r.json")
    page = (tmp_path / "r.html").read_text()
    assert "colors-detect on ort" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector", "r.html", "r.json"]


def test_json_goes_to_stdout_alone_if_asked(detector, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(detector, "--backend", "null", "--seconds", "0.05", "--json", "-", "--trace", tmp_path / "t.json")
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["schema"] == SCHEMA
    assert f"boundary pipeline: {BOUNDARIES['pipeline']}" in err
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert not (tmp_path / "-").exists()


def test_what_is_asked_for_as_json_is_json_whatever_its_name(detector, tmp_path):
    run(detector, "--backend", "null", "--seconds", "0.05", "--json", tmp_path / "r.html")
    assert json.loads((tmp_path / "r.html").read_text())["schema"] == SCHEMA


def test_two_reports_are_not_written_to_one_file(detector, tmp_path, capsys):
    both = tmp_path / "r.html"
    assert run(detector, "--seconds", "3600", "--json", both, "--html", both) == 2
    assert capsys.readouterr().err.startswith(f"error: two reports would be written to {both}\nhint: ")
    assert not both.exists()


@pytest.mark.parametrize("text", [None, "no JSON", "[" * 100_000, "[]"], ids=["none", "words", "deep", "list"])
def test_what_is_no_report_cannot_be_compared_with(detector, tmp_path, capsys, text):
    before = tmp_path / "before.json"
    if text is not None:
        before.write_text(text)
    assert run(detector, "--seconds", "3600", "--compare", before) == 2
    told, hint = capsys.readouterr().err.splitlines()
    assert (told.startswith(f"error: {before} "), hint) == (True, f"hint: {MAKE}")


def test_energy_is_mean_power_over_pictures_a_second(detector, monkeypatch):
    reads, issue = [], loop.issue

    class Meter:
        unknown: ClassVar = {}

        def read(self):
            reads.append(12.0)
            return {"gpu.power_w": 80.0, "board.power_w": reads[-1]}  # of a GPU that idles beside it

        def close(self):
            pass

    def issue_until_read(load, work):
        """The meter is read within it, however late."""
        samples, before = issue(load, work), len(reads)
        until(lambda: len(reads) > before + 1)
        samples.elapsed_s = time.perf_counter() - samples.origin
        return samples

    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda *_: [Meter()])
    monkeypatch.setattr(loop, "issue", issue_until_read)
    report = edgeinfer.profile(detector, scenario="paced", seconds=0.1, fps=50)
    summary = report.data["summary"]["paced"]
    assert summary["joules_per_inference"] == {"board.power_w": pytest.approx(12.0 / summary["throughput_per_s"])}
    assert "J each" in report.table()


def test_several_scenarios_share_one_report(detector):
    report = edgeinfer.profile(detector, "null", scenario=["paced", "single-stream"], seconds=0.05)
    assert list(report.data["summary"]) == ["paced", "single-stream"]


def test_samples_and_sensors_share_one_clock(detector):
    data = edgeinfer.profile(detector, "null", scenario=["single-stream", "paced"], seconds=0.3, fps=50).data
    first, second = (data["samples"][name]["start_s"] for name in ("single-stream", "paced"))
    times = data["sensors"]["time_s"]
    assert times[0] < first[0] <= first[-1] < second[0] <= second[-1] < times[-1]


def test_too_few_samples_make_it_invalid_with_exit_code_3_and_the_first_line_says_so(detector, tmp_path, capsys):
    code = run(detector, "--scenario", "paced", "--fps", "20", "--seconds", "0.2", "--json", tmp_path / "r.json")
    out, err = capsys.readouterr()
    assert (code, err) == (3, "")
    assert re.match(r"INVALID: do not quote these numbers\n  paced: too few samples: [1-9], and p90 needs 64; ", out)
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["schema"], record["valid"], record["partial"]) == (1, False, False)
    assert re.match(r"paced: too few samples: [1-9], ", record["reasons"][0])


@pytest.mark.usefixtures("ticking")
def test_a_quiet_machine_with_enough_samples_exits_with_0(detector, capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda *_: [])
    assert run(detector, "--backend", "null", "--seconds", "0.3") == 0
    out = capsys.readouterr().out
    assert out.startswith("VALID")
    assert "not checked, for want of a sensor: throttling" in out


def test_a_rate_that_cannot_be_kept_is_no_result(detector, capsys):
    assert run(detector, "--scenario", "server", "--seconds", "0.05", "--latency-bound", "0.0001ms") == 3
    assert "server: no rate found keeps the 99th percentile within 0.0001 ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args",
    [
        ["--scenario", "nothing"],
        ["--seconds", "0"],
        ["--fps", "nan"],
        ["--latency-bound", "-3"],
        ["--boundary", "middle"],
        ["--source", "camera:0"],
    ],
)
def test_wrong_usage_exits_with_2(detector, args, capsys):
    assert run(detector, *args) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_python_is_told_of_wrong_usage_too(detector):
    for wrong in ({"scenario": "x"}, {"boundary": "x"}, {"seconds": -1}, {"fps": float("inf")}):
        with pytest.raises(UsageError):
            edgeinfer.profile(detector, "null", **{"seconds": 0.05, **wrong})


def test_without_pictures_noise_is_used_but_not_as_a_file(detector):
    model = json.loads((detector / "model.json").read_text())
    (detector / "model.json").write_text(json.dumps({**model, "golden": []}))
    report = edgeinfer.profile(detector, "null", seconds=0.05)
    assert report.data["context"]["pictures"] == "noise, 1280x720"
    with pytest.raises(UsageError, match="needs picture files"):
        edgeinfer.profile(detector, "null", boundary="file", seconds=0.05)


def test_a_picture_that_is_none_is_one_error(detector, tmp_path):
    (tmp_path / "no.jpg").write_text("no picture")
    with pytest.raises(SourceError, match="is not a picture"):
        edgeinfer.profile(detector, source=[tmp_path / "no.jpg"])


def test_a_model_that_fails_in_the_middle_is_one_error_and_no_report(detector, tmp_path, capsys, monkeypatch):
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > 40:
            raise EngineError("the engine broke")
        return {"infer": 0.1}

    monkeypatch.setattr("edgeinfer.profiling.subject.Subject.__call__", fail)
    assert run(detector, "--seconds", "600", "--json", tmp_path / "r.json") == 1
    told, _ = capsys.readouterr().err.splitlines()
    assert told == "error: the engine broke"
    assert not (tmp_path / "r.json").exists()


def test_an_engine_replaced_meanwhile_makes_it_invalid(detector, monkeypatch):
    issue = loop.issue

    def replacing(load, work):
        samples = issue(load, work)
        work._model.artifact = "better.plan"
        return samples

    monkeypatch.setattr(loop, "issue", replacing)
    report = edgeinfer.profile(detector, scenario="paced", seconds=0.05, fps=100)
    assert "paced: ort model.fp32.onnx was replaced by ort better.plan meanwhile" in report.reasons


def test_a_full_disk_is_one_error(detector, capsys):
    assert run(detector, "--backend", "null", "--seconds", "0.05", "--json", "/dev/full") == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: /dev/full cannot be written: No space left on device")
    assert f"boundary pipeline: {BOUNDARIES['pipeline']}" in out


def test_a_reader_that_has_gone_does_not_take_the_json_with_it(detector, tmp_path):
    target, (out, gone) = tmp_path / "r.json", os.pipe()
    os.close(out)
    command = [sys.executable, "-m", "edgeinfer", "profile", str(detector), "--backend", "null", "--seconds", "0.05"]
    subprocess.run([*command, "--json", str(target)], stdout=gone, stderr=subprocess.DEVNULL, check=False)
    os.close(gone)
    assert json.loads(target.read_text())["schema"] == SCHEMA


def test_a_folder_that_is_not_there_is_said_before_anything_is_measured(detector, tmp_path, capsys):
    assert run(detector, "--seconds", "3600", "--html", tmp_path / "none" / "r.html") == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_terminal_is_told_what_goes_on(detector):
    parent, child = os.openpty()
    command = [sys.executable, "-m", "edgeinfer", "profile", str(detector), "--seconds", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=child):
        os.close(child)
        told = said(parent)
    os.close(parent)
    assert "single-stream: warming up" in told
    assert told.endswith("\r\x1b[K")


def test_ctrl_c_gives_a_partial_report(detector, tmp_path, capsys, monkeypatch):
    issuer, target = scenarios.issuer_of("single-stream"), tmp_path / "r.json"
    issue, calls = issuer.issue, []

    def issue_and_press(load, work):
        def pressing(numbers):
            calls.append(numbers)
            if len(calls) == 20:
                os.kill(os.getpid(), signal.SIGINT)
            return work(numbers)

        return issue(load, pressing if load.seconds == 600 else work)

    monkeypatch.setattr(issuer, "issue", issue_and_press)
    monkeypatch.setattr(issuer, "MOST_QUERIES", 5000)
    assert run(detector, "--seconds", "600", "--json", target) == 130
    assert capsys.readouterr().out.startswith("INVALID, PARTIAL")
    record = json.loads(target.read_text())
    assert (record["valid"], record["partial"]) == (False, True)
    # work goes on in a thread of its own until the signal is heard
    assert len(record["samples"]["single-stream"]["latency_ms"]) == len(calls) >= 20


def test_ctrl_c_while_layers_are_timed_keeps_what_was_measured(detector, monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(layers, "record", press)
    report = edgeinfer.profile(detector, seconds=0.05, layers=True)
    assert (report.partial, "layers" in report.data) == (True, False)
    assert report.data["samples"]["single-stream"]["latency_ms"]


def test_ctrl_c_is_not_lost_before_anything_is_measured(detector, monkeypatch):
    monkeypatch.setattr(scenarios.issuer_of("single-stream"), "issue", lambda *_: Samples(0.0, interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        edgeinfer.profile(detector, seconds=0.05)


def test_help_lists_the_very_scenarios_and_boundaries_there_are():
    from edgeinfer.cli import profile
    from edgeinfer.profiling.subject import BOUNDARIES

    assert tuple(scenarios.NAMES) == profile.SCENARIOS
    assert tuple(BOUNDARIES) == profile.BOUNDARIES


def test_no_plan_on_the_command_line_is_no_plan_of_the_measurement():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)

    assert command._common(parser.parse_args(["bundle", "--no-plan"]))["plan"] is False
    assert command._common(parser.parse_args(["bundle"]))["plan"] is True
