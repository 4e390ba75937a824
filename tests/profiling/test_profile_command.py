"""`edgeinfer profile` on the command line: what it prints and writes, and how it ends."""

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest

import edgeinfer
from edgeinfer import cli
from edgeinfer.backends import _ortlayers
from edgeinfer.cli import profile as command
from edgeinfer.errors import EngineError
from edgeinfer.profiling import layers, scenarios
from edgeinfer.profiling.report import MAKE, SCHEMA
from edgeinfer.profiling.subject import BOUNDARIES
from helpers.patience import said

pytestmark = pytest.mark.usefixtures("brief_warm_up")


def run(*args):
    return cli.main(["profile", *map(str, args)])


def test_the_layers_are_those_of_the_graph_with_shares_of_the_whole(detector, capsys):
    assert run(detector, "--seconds", "0.05", "--layers") in {0, 3}
    assert "ReduceMean" in capsys.readouterr().out
    found = edgeinfer.profile(detector, seconds=0.05, layers=True).data["layers"]
    rows = found["layers"]
    assert {layer["kind"] for layer in rows} == {"ReduceMean", "Concat", "Unsqueeze"}
    assert {layer["precision"] for layer in rows} == {"fp32"}
    assert sum(layer["share"] for layer in rows) == pytest.approx(1.0)
    assert [layer["ms"] for layer in rows] == sorted((layer["ms"] for layer in rows), reverse=True)


def cut(monkeypatch):
    """ONNX Runtime writes half of its profile, as on a disk that is full."""
    whole = onnxruntime.InferenceSession.end_profiling

    def half(session):
        path = whole(session)
        os.truncate(path, Path(path).stat().st_size // 2)
        return path

    monkeypatch.setattr(onnxruntime.InferenceSession, "end_profiling", half)


def full(monkeypatch):
    """Not even a folder can be made any more."""

    def refused(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_ortlayers, "tempfile", SimpleNamespace(TemporaryDirectory=refused))


@pytest.mark.parametrize("disk", [cut, full])
def test_what_was_measured_is_kept_where_the_profile_of_the_layers_is_not_all_written(detector, monkeypatch, disk):
    disk(monkeypatch)
    report = edgeinfer.profile(detector, seconds=0.05, layers=True)
    assert report.data["scenarios"]
    assert report.data["layers"]["layers"] is None
    assert report.data["layers"]["reason"].startswith("ONNX Runtime's profile is not all in its file: ")


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
