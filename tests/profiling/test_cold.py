"""Cold starts: processes from their birth to their first result."""

import cv2
import pytest

import edgeinfer
from edgeinfer import pictures
from edgeinfer.errors import EngineError
from edgeinfer.profiling import _cold_start, cold
from helpers import bundles

pytestmark = pytest.mark.usefixtures("brief_warm_up")


def test_a_cold_start_decodes_the_one_picture_that_its_first_result_is_of(detector, photo, monkeypatch):
    monkeypatch.setattr(_cold_start, "_call", lambda *_: 0.0)
    cv2.imwrite(str(photo.with_name("z.png")), bundles.picture("red"))
    read, decode = [], pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda *given: read.append(given[1]) or decode(*given))
    asked = {"backend": "null", "precision": "auto", "plan": False, "device": "auto", "threads": 0}
    for source in ([str(photo), str(photo)], [str(photo.parent)], []):
        _cold_start.main({**asked, "bundle": str(detector), "started": 0.0, "idle_s": 0.0, "source": source})
        assert len(read) == 1
        read.clear()


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
