"""A report as a trace."""

import json

import pytest

import edgeinfer
from edgeinfer import cli
from edgeinfer.profiling import trace
from helpers import bundles


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    detector, path = bundles.detect_bundle(folder / "detector"), folder / "t.json"
    arguments = ["--backend", "null", "--scenario", "single-stream,paced", "--seconds", "0.3", "--fps", "40"]
    cli.main(["profile", str(detector), *arguments, "--trace", str(path)])
    return json.loads(path.read_text())["traceEvents"]


def of(events, phase, track):
    return [event for event in events if event["ph"] == phase and event.get("tid") == track]


def test_tracks_are_named_and_frames_open_and_close(events):
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {0: "edgeinfer: colors-detect", 1: "single-stream", 2: "paced"}
    for track in (1, 2):
        opened, closed = of(events, "b", track), of(events, "e", track)
        assert [event["id"] for event in opened] == [event["id"] for event in closed]
        assert 0 < len(opened) <= trace.FRAMES


def test_stages_follow_each_other_inside_their_frame(events):
    opened, closed, stages = (of(events, phase, 2) for phase in "beX")
    assert [stage["name"] for stage in stages[:3]] == ["preprocess", "infer", "postprocess"]
    for place, (start, end) in enumerate(zip(opened, closed, strict=True)):
        three = stages[3 * place : 3 * place + 3]
        assert start["ts"] <= three[0]["ts"]
        assert three[2]["ts"] + three[2]["dur"] == pytest.approx(end["ts"], abs=0.1)
        assert three[0]["ts"] + three[0]["dur"] == pytest.approx(three[1]["ts"], abs=0.1)


def test_sensors_are_counters(events):
    assert "process.memory_mb" in {event["name"] for event in events if event["ph"] == "C"}


@pytest.mark.usefixtures("ticking")
def test_a_trace_is_of_the_first_frames_only(detector, monkeypatch):
    monkeypatch.setattr(trace, "FRAMES", 5)
    report = edgeinfer.profile(detector, "null", seconds=0.5)
    assert len(report.data["samples"]["single-stream"]["start_s"]) > 5
    assert len(of(trace.events(report.data)["traceEvents"], "b", 1)) == 5
