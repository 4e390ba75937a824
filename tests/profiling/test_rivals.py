"""Two bundles against each other, each in a real process of its own."""

import json
import shutil

import pytest

from edgeinfer import cli
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.profiling import rivals


@pytest.fixture
def twin(detector, tmp_path):
    return shutil.copytree(detector, tmp_path / "twin")


def run(*args):
    return cli.main(["profile", *map(str, args)])


def test_two_bundles_are_measured_in_turns_and_compared(detector, twin, tmp_path, capsys):
    target, page = tmp_path / "r.json", tmp_path / "r.html"
    code = run(detector, twin, "--seconds", "2", "--json", target, "--html", page, "--fail-if-slower", "900%")
    assert code in {0, 3}
    out = capsys.readouterr().out
    assert f"colors-detect ({detector}) on ort" in out
    assert f"colors-detect ({twin}) on ort" in out
    data = json.loads(target.read_text())
    (found,) = data["comparison"]["differences"]
    assert found["low"] <= found["ratio"] <= found["high"]
    assert "interleaved at random" in data["comparison"]["remark"]
    other = data["comparison"]["with"]
    assert [one["context"]["bundle"]["path"] for one in (other, data)] == [str(detector), str(twin)]
    spans = [one["samples"]["single-stream"]["start_s"] for one in (other, data)]
    assert len(spans[0]) > rivals.TURNS
    # each began before the other ended
    assert spans[0][0] < spans[1][-1]
    assert spans[1][0] < spans[0][-1]
    assert str(twin) in page.read_text()
    assert str(detector) in page.read_text()


def test_a_bundle_that_does_not_load_is_one_error(detector, twin):
    (twin / "model.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match="sha256"):
        rivals.versus(detector, twin, "ort", seconds=1)


def test_a_process_that_dies_is_one_error(detector, twin, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(EngineError, match="ended with code 1"):
        rivals.versus(detector, twin, seconds=1)


@pytest.mark.parametrize("scenario", ["server", "cold"])
def test_some_scenarios_have_no_turns(detector, twin, scenario):
    with pytest.raises(UsageError, match="compared in single-stream"):
        rivals.versus(detector, twin, scenario=scenario)


def test_three_bundles_or_two_scenarios_are_wrong_usage(detector, capsys):
    assert run(detector, detector, detector) == 2
    assert run(detector, detector, "--scenario", "paced,offline") == 2
    assert run(detector, detector, "--layers") == 2
