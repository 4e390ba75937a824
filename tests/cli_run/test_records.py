"""`edgeinfer run --json`: a record for each picture."""

import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.cli import _watch
from edgeinfer.cli._tally import Tally
from edgeinfer.streams import Stream
from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S
from helpers.running import records, run


def test_records_of_a_detector_are_as_documented(detector, photos, capsys):
    assert run(detector, photos / "red.png", "--json", "-") == 0
    (record,) = records(capsys.readouterr().out)
    timings = record.pop("timings_ms")
    assert list(timings) == ["preprocess", "infer", "postprocess"]
    (found,) = record.pop("detections")
    assert record == {"source": f"{photos}/red.png", "index": 0, "height": 32, "width": 32, "task": "detect"}
    assert found == {"class_id": 0, "label": "red", "score": 1.0, "box": [8.0, 8.0, 24.0, 24.0]}


def test_records_of_a_classifier_are_as_documented(classifier, photos, capsys):
    assert run(classifier, photos / "blue.png", "--json", "-", "--top", 1) == 0
    (record,) = records(capsys.readouterr().out)
    assert record["classes"] == [{"class_id": 2, "label": "blue", "score": 0.9999}]


def test_stdout_of_the_program_is_pure_json(detector, photos):
    photos.joinpath("bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    line = [sys.executable, "-m", "edgeinfer", "run", detector, photos, "--json", "-"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert [record["index"] for record in records(done.stdout)] == [1, 2]
    assert done.returncode == 1
    assert f"{photos}/blue.png 32x32: 1 blue" in done.stderr


def test_a_file_of_records_appears_whole(detector, photos, tmp_path):
    assert run(detector, photos, "--json", tmp_path / "r.jsonl") == 0
    assert [record["index"] for record in records((tmp_path / "r.jsonl").read_text())] == [0, 1]
    assert not list(tmp_path.glob(".r*"))


@pytest.mark.parametrize("name", ["red.png", "clip.MP4"])
def test_a_source_behind_json_is_not_written_over_as_if_it_were_the_file_of_the_records(detector, photos, capsys, name):
    (photos / name).write_bytes(b"precious")
    assert run(detector, "--json", photos / name, photos / "blue.png") == 2
    told = (
        f"a report would be written over {photos / name}\nhint: name its file, such as results.json or results.html\n"
    )
    assert told in capsys.readouterr().err
    assert (photos / name).read_bytes() == b"precious"


def test_records_may_lie_in_the_folder_that_is_made_for_the_pictures(detector, photos, tmp_path):
    kept = tmp_path / "kept"
    assert run(detector, photos, "--save", kept, "--json", kept / "r.jsonl") == 0
    assert len(records((kept / "r.jsonl").read_text())) == 2


def test_records_that_a_killed_run_left_go_with_the_next(detector, photos, tmp_path):
    killed = "import os; from edgeinfer.cli import _records as it\nwith it.records('r.jsonl'): os._exit(9)"
    subprocess.run([sys.executable, "-c", killed], cwd=tmp_path, check=False)
    assert list(tmp_path.glob(".r*"))
    assert run(detector, photos, "--json", tmp_path / "r.jsonl") == 0
    assert not list(tmp_path.glob(".r*"))


def test_records_are_written_to_where_a_link_leads(detector, photos, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "r.jsonl").symlink_to("kept/today.jsonl")
    assert run(detector, photos, "--json", tmp_path / "r.jsonl") == 0
    assert (tmp_path / "r.jsonl").is_symlink()
    assert len(records((tmp_path / "kept" / "today.jsonl").read_text())) == 2


def test_records_go_down_the_pipe_that_dev_stdout_is(detector, photos, tmp_path):
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    command = [sys.executable, "-m", "edgeinfer", "run", detector, photos, "--json", tmp_path / "stdout"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=True)
    assert len(records("\n".join(line for line in done.stdout.splitlines() if line.startswith("{")))) == 2
    assert (tmp_path / "stdout").is_symlink()


def test_a_run_that_fails_leaves_the_old_records(detector, tmp_path):
    (tmp_path / "r.jsonl").write_text("old")
    assert run(detector, tmp_path / "nothing.png", "--json", tmp_path / "r.jsonl") == 1
    assert (tmp_path / "r.jsonl").read_text() == "old"
    assert not list(tmp_path.glob(".r*"))


def test_records_where_nothing_can_be_made_are_an_error_that_names_them(detector, photos, capsys):
    """Its part cannot be removed there either."""
    assert run(detector, photos, "--json", photos / "red.png" / "r.jsonl") == 1
    assert capsys.readouterr().err.startswith(f"error: {photos}/red.png/r.jsonl cannot be written: Not a directory")


def test_a_full_disk_is_an_error(detector, photos, capsys):
    assert run(detector, photos, "--json", "/dev/full") == 1
    assert "error: /dev/full cannot be written: No space left on device" in capsys.readouterr().err


def test_a_full_disk_under_the_lines_is_not_taken_for_one_under_the_records(detector, photos, tmp_path):
    line = [sys.executable, "-u", "-m", "edgeinfer", "run", detector, photos, "--json", tmp_path / "r.jsonl"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "error: standard output cannot be written: No space left on device\nhint: " in done.stderr


def test_records_in_a_folder_that_is_not_there_fail_before_anything_runs(detector, photos, capsys):
    assert run(detector, photos, "--json", photos / "no/r.jsonl") == 1
    assert capsys.readouterr().out == ""


def test_a_cascade_tells_the_classes_of_each_box(detector, classifier, photos, capsys):
    assert run(detector, photos / "red.png", "--classify", classifier, "--top", 1, "--json", "-") == 0
    (record,) = records(capsys.readouterr().out)
    (found,) = record["detections"]
    assert [one["label"] for one in found["classes"]] == ["red"]
    assert list(record["timings_ms"]) == ["preprocess", "infer", "postprocess", "classify"]


def test_tiles_find_something_in_each_and_in_the_whole(detector, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "wide.png"), bundles.picture("green", 64, 64))
    assert run(detector, tmp_path / "wide.png", "--tile", "2x2:0", "--iou", 1, "--json", "-") == 0
    (record,) = records(capsys.readouterr().out)
    assert sorted(one["box"] for one in record["detections"]) == [
        [8, 8, 24, 24],
        [8, 40, 24, 56],
        [16, 16, 48, 48],
        [40, 8, 56, 24],
        [40, 40, 56, 56],
    ]


def test_a_cascade_on_tiles_names_what_is_in_each(detector, classifier, tmp_path, capsys):
    wide = np.concatenate([bundles.picture("red", 64, 32), bundles.picture("blue", 64, 32)], axis=1)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    words = ("--tile", "1x2:0", "--classify", classifier, "--top", 1, "--json", "-")
    assert run(detector, tmp_path / "wide.png", *words) == 0
    (record,) = records(capsys.readouterr().out)
    said = {one["box"][0]: one["classes"][0]["label"] for one in record["detections"] if one["box"][1] == 16}
    assert (said[0], said[32]) == ("red", "blue")


def test_a_camera_that_falls_silent_is_told_once(detector, monkeypatch, capsys):
    add, tell, look = Tally.add, _watch._told, Stream.health

    def counted(tally, seen):
        """The first picture is the last for a while; once all is told, the run is ended as by Ctrl-C."""
        add(tally, seen)
        if tally.pictures == 1:
            opened.mode = "silent"
        if over.is_set():
            raise KeyboardInterrupt

    def looked(stream):
        """It stays ill for three looks more than it took to tell."""
        looks.append(bool(lines))
        if sum(looks) == 3:
            opened.mode = "moving"
        return look(stream)

    def told(name, health):
        if health.well:
            over.set()
        lines.append(tell(name, health))
        return lines[-1]

    over, lines, looks = threading.Event(), [], []
    monkeypatch.setattr(Tally, "add", counted)
    monkeypatch.setattr(_watch, "_told", told)
    monkeypatch.setattr(Stream, "health", looked)
    with camera() as opened:
        assert run(detector, opened.address, "--json", "-") == 130
    out, err = capsys.readouterr()
    found = records(out)
    assert [record["index"] for record in found] == sorted({record["index"] for record in found})
    told_of_each = {"captured", "age_ms", "queue_ms", "sequence", "dropped"}
    assert all(set(record["freshness"]) == told_of_each for record in found)
    captured = datetime.fromisoformat(found[-1]["freshness"]["captured"].replace("Z", "+00:00"))
    assert abs(captured.timestamp() - time.time()) < LONG_S
    assert set(lines) <= set(err.splitlines())
    # it may have been late once more, but is told so once each time
    well = [line == f"{opened.address}: well again" for line in lines]
    assert well == [place % 2 == 1 for place in range(len(well))]


def test_a_video_runs_in_several_contexts_and_stays_in_order(detector, clip, capsys):
    assert run(detector, clip, "--contexts", 3, "--threads", 1, "--json", "-") == 0
    assert [record["index"] for record in records(capsys.readouterr().out)] == [0, 1, 2]
