"""`edgeinfer.profile` from end to end, with tiny bundles."""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

import edgeinfer
from edgeinfer.backends import Layer
from edgeinfer.bundle import Bundle
from edgeinfer.errors import SourceError, UsageError
from edgeinfer.pipeline import Pipeline
from edgeinfer.profiling import layers, loop, scenarios
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.statistics import distribution
from edgeinfer.profiling.subject import picture_set
from helpers import bundles
from helpers.patience import until

pytestmark = pytest.mark.usefixtures("brief_warm_up")

SCENARIOS = ["single-stream", "multi-stream", "server", "offline", "paced"]


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


def test_an_engine_that_knows_names_and_times_only_is_enough():
    class Engine:
        def profile_layers(self, inputs):
            return [Layer("conv", 1.0), Layer("softmax", 3.0)]

    found = layers.record(Engine(), {})
    assert [(layer["name"], layer["share"], layer["kind"]) for layer in found["layers"]] == [
        ("softmax", 0.75, ""),
        ("conv", 0.25, ""),
    ]


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


def test_python_is_told_of_wrong_usage_too(detector):
    for wrong in ({"scenario": "x"}, {"scenario": []}, {"boundary": "x"}, {"seconds": -1}, {"fps": float("inf")}):
        with pytest.raises(UsageError):
            edgeinfer.profile(detector, "null", **{"seconds": 0.05, **wrong})


def test_numbers_of_numpy_are_in_the_report_as_json_has_them(detector):
    asked = {
        "seconds": np.float32(0.05),
        "fps": np.int64(50),
        "latency_bound_ms": np.float32(9),
        "threads": np.int64(1),
    }
    report = edgeinfer.profile(detector, "null", scenario=["paced", "server"], **asked)
    found = json.loads(report.json())
    assert (found["scenarios"]["paced"]["fps"], found["scenarios"]["server"]["latency_bound_ms"]) == (50, 9)
    assert found["context"]["threads"] == 1


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_picture_need_not_be_in_a_list(detector, kind):
    source = kind(detector / "golden" / "0.png")
    assert edgeinfer.profile(detector, "null", source=source, seconds=0.05).data["context"]["pictures"] == "1 given"


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


def test_an_engine_replaced_meanwhile_makes_it_invalid(detector, monkeypatch):
    issue = loop.issue

    def replacing(load, work):
        samples = issue(load, work)
        work._model.artifact = "better.plan"
        return samples

    monkeypatch.setattr(loop, "issue", replacing)
    report = edgeinfer.profile(detector, scenario="paced", seconds=0.05, fps=100)
    assert "paced: ort model.fp32.onnx was replaced by ort better.plan meanwhile" in report.reasons


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
