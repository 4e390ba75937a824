"""`edgeinfer run`: lines, records, annotated files, and what happens to bad sources."""

import itertools
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
import time
import types
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer import cli, sources
from edgeinfer.cli import _watch, _window
from edgeinfer.cli._tally import Tally
from edgeinfer.results import Detections
from edgeinfer.spec import Size
from edgeinfer.streams import Freshness, Seen, Stream
from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S, said


@pytest.fixture
def photos(tmp_path):
    """A folder with a red and a blue picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in ("red", "blue"):
        cv2.imwrite(str(folder / f"{color}.png"), bundles.picture(color))
    return folder


@pytest.fixture
def clip(tmp_path):
    """A video of three green frames."""
    return bundles.video(tmp_path / "clip.avi", [bundles.picture("green", 48, 64)] * 3)


def run(*args):
    return cli.main(["run", *map(str, args)])


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_picture_gives_a_line_and_a_summary(detector, photos, capsys):
    assert run(detector, photos / "red.png") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{photos}/red.png 32x32: 1 red  ")
    assert "1 picture, 0 errors; ran on ort model.fp32.onnx" in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["preprocess", "infer", "postprocess", "total"]
    assert err == ""


@pytest.mark.parametrize(("label", "shown"), [("\x1b[31mred", "1 [31mred  "), ("red\nerror: x", "1 red error: x  ")])
def test_labels_cannot_steer_the_terminal(detector, photos, capsys, label, shown):
    spec = json.loads((detector / "model.json").read_text(encoding="utf-8"))
    spec["labels"] = [label, *spec["labels"][1:]]
    (detector / "model.json").write_text(json.dumps(spec), encoding="utf-8")
    assert run(detector, photos / "red.png") == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{photos}/red.png 32x32: {shown}")
    assert cli.main(["info", str(detector)]) == 0
    assert "\x1b" not in capsys.readouterr().out


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


def test_a_bad_picture_in_a_folder_is_a_warning_and_the_run_fails_at_its_end(detector, photos, capsys):
    photos.joinpath("broken.png").write_bytes(b"")
    assert run(detector, photos) == 1
    out, err = capsys.readouterr()
    assert "2 pictures, 1 error" in out
    assert err.splitlines() == [
        f"warning: {photos}/broken.png is empty",
        "error: 1 source could not be read",
        "hint: copy the file again",
    ]


@pytest.mark.parametrize(
    ("source", "found", "remedy"),
    [("empty", "empty has no pictures in it", "pictures end in "), ("*.png", "*.png matches no file", "quote ")],
)
def test_where_there_is_no_picture_the_hint_says_what_would_be_one(
    detector, tmp_path, monkeypatch, capsys, source, found, remedy
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(detector, source) == 1
    told, error, hint = capsys.readouterr().err.splitlines()
    assert (told, error) == (f"warning: {found}", "error: 1 source could not be read")
    assert hint.startswith(f"hint: {remedy}")


def test_one_missing_source_of_two_is_a_warning(detector, photos, capsys):
    assert run(detector, photos / "nothing.png", photos / "red.png") == 1
    out, err = capsys.readouterr()
    assert "1 picture, 1 error" in out
    assert err.startswith(f"warning: {photos}/nothing.png does not exist\n")


def test_a_single_bad_source_is_the_error(detector, photos, capsys):
    assert run(detector, photos / "nothing.png") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {photos}/nothing.png does not exist\nhint: ")


def test_annotated_pictures_keep_their_names_and_sizes(detector, photos, tmp_path):
    assert run(detector, photos, "--save", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["blue.png", "red.png"]
    drawn = cv2.imread(str(tmp_path / "out/red.png"))
    assert drawn.shape == (32, 32, 3)
    assert not np.array_equal(drawn, bundles.picture("red"))


@pytest.mark.parametrize("name", ["red.png", "clip.mp4"])
def test_a_pipe_in_the_place_of_a_saved_file_is_an_error_and_not_waited_for(
    detector, photos, clip, tmp_path, name, capsys
):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    assert run(detector, photos, clip, "--save", tmp_path / "out") == 1
    assert f"error: {tmp_path}/out/{name} cannot be written: it is not a regular file" in capsys.readouterr().err


def test_two_sources_of_one_name_are_both_kept(detector, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "red.png").write_bytes((photos / "red.png").read_bytes())
    run(detector, photos / "red.png", other / "red.png", "--save", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["red-2.png", "red.png"]


def test_a_video_that_is_given_twice_is_kept_once(detector, clip, tmp_path):
    assert run(detector, clip, clip, "--save", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
    assert len(list(sources.frames(tmp_path / "out/clip.mp4"))) == 3


def test_an_annotated_video_has_all_its_frames(detector, clip, tmp_path, capsys):
    assert run(detector, clip, "--save", tmp_path / "out", "--conf", 0.1) == 0
    frames = list(sources.frames(tmp_path / "out/clip.mp4"))
    assert len(frames) == 3
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].fps == 10
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
    assert f"{clip} #2 48x64: 1 green" in capsys.readouterr().out


def test_a_run_can_stop_early(detector, clip, capsys):
    assert run(detector, clip, "--max-frames", 2) == 0
    assert "2 pictures, 0 errors" in capsys.readouterr().out


@pytest.mark.parametrize("source", [".", "red.png", "*.png"])
def test_a_source_is_never_overwritten(detector, photos, source, capsys):
    assert run(detector, photos / source, "--save", photos) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert np.array_equal(cv2.imread(str(photos / "red.png")), bundles.picture("red"))


def test_a_folder_that_cannot_be_made_is_an_error(detector, photos, capsys):
    assert run(detector, photos, "--save", photos / "red.png") == 1
    assert capsys.readouterr().err.startswith(f"error: {photos}/red.png cannot be written")


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


WRONG = [
    ["--conf", "1.5"],
    ["--conf", "nan"],
    ["--conf", "high"],
    ["--iou", "-0.1"],
    ["--top", "0"],
    ["--threads", "-1"],
    ["--max-frames", "1.5"],
    ["--precision", "fp8"],
    ["--backend", "nothing"],
]


@pytest.mark.parametrize("option", WRONG)
def test_wrong_numbers_are_wrong_usage(detector, photos, option, capsys):
    assert run(detector, photos, *option) == 2
    assert f"error: argument {option[0]}: " in capsys.readouterr().err


def test_a_threshold_for_boxes_does_not_go_with_a_classifier(classifier, photos):
    assert run(classifier, photos, "--conf", 0.5) == 2


def test_a_threshold_above_every_score_leaves_nothing(detector, clip, capsys):
    # letterboxing dilutes the clip's green with grey
    assert run(detector, clip, "--conf", 0.99) == 0
    assert "48x64: nothing found" in capsys.readouterr().out


def test_the_backend_asked_for_runs(detector, photos, capsys):
    assert run(detector, photos, "--backend", "null") == 0
    assert "ran on null" in capsys.readouterr().out


def test_a_folder_that_is_no_bundle_is_an_error(photos, capsys):
    assert run(photos, photos) == 1
    assert "model.json" in capsys.readouterr().err


def test_a_window_needs_a_display(detector, photos, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI: QT5")
    assert run(detector, photos, "--show") == 1
    assert capsys.readouterr().err == (
        "error: --show needs a display, and there is none here\nhint: save pictures instead: --save DIR\n"
    )


def test_a_headless_opencv_has_no_windows(detector, photos, monkeypatch, capsys):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                NONE")
    assert run(detector, photos, "--show") == 1
    assert "this one is headless" in capsys.readouterr().err


def test_a_display_that_ends_who_asks_for_a_window_is_an_error(detector, photos, monkeypatch, capsys):
    monkeypatch.setenv("DISPLAY", "nowhere:0")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI: QT5")
    monkeypatch.setattr(_window, "OPENING", "import os; os.abort()")
    assert run(detector, photos, "--show") == 1
    assert capsys.readouterr().err == (
        "error: --show needs a display, and the one here opens no window\nhint: save pictures instead: --save DIR\n"
    )


@pytest.fixture
def screen(monkeypatch):
    """What OpenCV is asked to show, in place of a display: sizes by title; the user presses `key`, or sees nothing."""
    opened = types.SimpleNamespace(sizes={}, shown=[], key=-1, visible=1.0)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(_window, "OPENING", "print([])")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI: QT5")
    monkeypatch.setattr(cv2, "namedWindow", lambda title, _: opened.sizes.setdefault(title, None))
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, *size: opened.sizes.update({title: size}))
    monkeypatch.setattr(cv2, "imshow", lambda title, _: opened.shown.append(title))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: opened.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: opened.visible)
    return opened


@pytest.mark.parametrize("what", [{"key": ord("q")}, {"key": 27}, {"visible": 0.0}], ids=["q", "escape", "closed"])
def test_the_user_ends_the_run_in_the_window(detector, clip, screen, what, capsys):
    vars(screen).update(what)
    assert run(detector, clip, "--show") == 0
    assert "1 picture, 0 errors" in capsys.readouterr().out


def test_files_share_a_window_that_shows_large_pictures_whole(detector, photos, clip, screen, capsys):
    cv2.imwrite(str(photos / "a.png"), bundles.picture("green", 1000, 4000))
    assert run(detector, photos, clip, "--show") == 0
    assert screen.sizes == {_window.TITLE: (_window.SIDE, _window.SIDE // 4)}
    assert screen.shown == [_window.TITLE] * 6


def test_a_window_that_is_closed_while_another_camera_has_its_turn_ends_the_run(screen, monkeypatch):
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, int), (), Size(48, 64))
    gone = []
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, _: float(title not in gone))
    with _window.window() as opened:
        for source in ("camera:0", "camera:1"):
            frame = sources.Frame(bundles.picture(height=48, width=64), source, 0, 0, 10.0)
            assert not opened.closed
            gone += [title for title in screen.sizes if source not in title]  # while the other one is shown
            opened.add(Seen(frame, nothing, Freshness(0, 0, 0, 0, 0), live=True))
        assert opened.closed


def test_each_camera_has_a_window_of_its_own(screen):
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, int), (), Size(48, 64))
    with _window.window() as opened:
        for source in ("camera:0", "camera:1", "camera:0"):
            frame = sources.Frame(bundles.picture(height=48, width=64), source, 0, 0, 10.0)
            opened.add(Seen(frame, nothing, Freshness(0, 0, 0, 0, 0), live=True))
    assert screen.sizes == {f"camera:{number} - {_window.TITLE}": (64, 48) for number in (0, 1)}
    assert screen.shown == [f"camera:{number} - {_window.TITLE}" for number in (0, 1, 0)]


def interrupt_after_one(monkeypatch, source):
    """Frames of `source` without end, and Ctrl-C while the first result is told."""

    def frames(*_, **__):
        for index in itertools.count():
            yield sources.Frame(bundles.picture(("red", "blue")[index % 2]), source, index, time.monotonic_ns(), 10.0)

    def told(*_):
        raise KeyboardInterrupt

    add = Tally.add
    monkeypatch.setattr(sources, "frames", frames)
    monkeypatch.setattr(Tally, "add", lambda tally, seen: (add(tally, seen), told()))


def test_ctrl_c_ends_a_camera_and_keeps_what_there_is(detector, tmp_path, monkeypatch, capsys):
    interrupt_after_one(monkeypatch, "camera:0")
    out = tmp_path / "out"
    assert run(detector, "camera:0", "--json", tmp_path / "r.jsonl", "--save", out) == 130
    assert "1 picture" in capsys.readouterr().out
    assert len(records((tmp_path / "r.jsonl").read_text())) == 1
    assert [path.name for path in out.iterdir()] == ["camera-0.mp4"]


def test_ctrl_c_in_a_video_leaves_nothing_half_done(detector, clip, tmp_path, monkeypatch, capsys):
    interrupt_after_one(monkeypatch, str(clip))
    out = tmp_path / "out"
    assert run(detector, clip, "--json", tmp_path / "r.jsonl", "--save", out) == 130
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "r.jsonl").exists()
    assert list(out.iterdir()) == []


def test_a_cascade_tells_the_classes_of_each_box(detector, classifier, photos, capsys):
    assert run(detector, photos / "red.png", "--classify", classifier, "--top", 1, "--json", "-") == 0
    (record,) = records(capsys.readouterr().out)
    (found,) = record["detections"]
    assert [one["label"] for one in found["classes"]] == ["red"]
    assert list(record["timings_ms"]) == ["preprocess", "infer", "postprocess", "classify"]


def test_a_line_of_a_cascade_has_the_classifiers_words(detector, classifier, photos, capsys):
    assert run(detector, photos / "red.png", "--classify", classifier) == 0
    assert " 32x32: 1 red (red)  " in capsys.readouterr().out


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


@pytest.mark.parametrize("flags", [("--tile", "2by2"), ("--max-age", "soon")])
def test_wrong_words_for_tiles_and_ages_are_wrong_usage(detector, photos, flags, capsys):
    assert run(detector, photos, *flags) == 2
    assert "hint: " in capsys.readouterr().err


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


def test_a_full_disk_ends_a_video_with_a_clear_error(detector, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert run(detector, clip, "--save", tmp_path / "out") == 1
    assert "the disk is full (0.0 MB left)\nhint: " in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_on_a_terminal_is_one_line_that_changes(detector, clip):
    reader, writer = pty.openpty()
    line = [sys.executable, "-m", "edgeinfer", "run", detector, clip]
    with subprocess.Popen(line, stdout=writer, stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        told = said(reader)
    os.close(reader)
    assert process.returncode == 0
    first, *_ = told.split("\r\n")
    assert [part[:5] for part in first.split("\r")[1:]] == [" 33 %", " 66 %", "100 %"]


def test_a_video_runs_in_several_contexts_and_stays_in_order(detector, clip, capsys):
    assert run(detector, clip, "--contexts", 3, "--threads", 1, "--json", "-") == 0
    assert [record["index"] for record in records(capsys.readouterr().out)] == [0, 1, 2]
