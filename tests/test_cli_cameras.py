"""`edgeinfer run` on cameras: several at once, what is kept of each, and how it ends."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import edgeinfer
from edgeinfer import cli, sources
from edgeinfer.cli import _album, _ending, _records
from edgeinfer.cli import run as verb
from edgeinfer.cli._album import AHEAD_S, STAY_S, STILL_S, Album
from edgeinfer.cli._faults import Faults
from edgeinfer.cli._tally import Tally
from edgeinfer.cli._watch import Watch
from edgeinfer.errors import EdgeInferError
from edgeinfer.results import Detections
from edgeinfer.sources import opencv
from edgeinfer.spec import Size
from edgeinfer.streams import Freshness, Seen, Stream
from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S, until
from helpers.running import run

SMALL_DISK = """
import resource, signal, sys
sys.dont_write_bytecode = True
from edgeinfer.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.exit(main(["run", *sys.argv[1:3], "--json", sys.argv[3]]))
"""


def seen(source, captured_s, value=0, size=(48, 64), place=0):
    """A camera's frame of one grey, captured so many seconds after the first moment, in which nothing was found."""
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), (), Size(*size))
    image = np.full((*size, 3), value, np.uint8)
    frame = sources.Frame(image, source, 0, int((1 + captured_s) * 1e9), 10.0)
    return Seen(frame, nothing, Freshness(0, 0.0, 0.0, 0, 0), live=True, place=place)


def greys(path):
    """The grey of every frame of a video."""
    return [round(float(frame.image.mean())) for frame in sources.frames(path)]


def kept(folder, frames):
    """What an album in this folder has of these frames, by file."""
    with _album.album(folder, []) as album:
        for one in frames:
            album.add(one)
    return {path.name: greys(path) for path in folder.iterdir()}


def test_each_camera_has_a_video_of_its_own_however_their_frames_alternate(tmp_path):
    address = "rtsp://10.0.0.{}:8554/main"
    frames = [seen(address.format(cam), when / 10, 90 * cam, place=cam) for when in range(5) for cam in (1, 2)]
    videos = kept(tmp_path, frames)
    assert sorted(videos) == ["rtsp-10.0.0.1-8554-main.mp4", "rtsp-10.0.0.2-8554-main.mp4"]
    assert [grey // 50 for found in sorted(videos.values()) for grey in found] == [1] * 5 + [3] * 5


def test_a_camera_that_is_given_twice_has_two_videos(tmp_path):
    frames = [seen("rtsp://10.0.0.1/main", when / 10, 90 * place, place=place) for when in range(5) for place in (1, 2)]
    videos = kept(tmp_path, frames)
    assert sorted(videos) == ["rtsp-10.0.0.1-main-2.mp4", "rtsp-10.0.0.1-main.mp4"]
    assert [len(found) for found in videos.values()] == [5, 5]


def test_files_beside_a_camera_cut_no_video_short(tmp_path):
    camera = [seen("camera:0", when / 10) for when in range(4)]
    frame = camera[0].frame
    files = [
        dataclasses.replace(
            camera[0], frame=dataclasses.replace(frame, source=f"{name}.avi", index=index), live=False, place=place
        )
        for index in range(4)
        for place, name in ((1, "a"), (2, "b"))
    ]
    videos = kept(tmp_path, [one for pair in zip(camera * 2, files, strict=True) for one in pair])
    assert {name: len(found) for name, found in videos.items()} == {"camera-0.mp4": 8, "a.mp4": 4, "b.mp4": 4}


def test_what_a_pipeline_reads_is_not_written_over(tmp_path):
    tmp_path.joinpath("clip.mp4").write_bytes(b"the source")
    one = seen("gst:filesrc location=clip.mp4 ! decodebin", 0)
    with _album.album(tmp_path, [one.frame.source]) as album:
        album.add(dataclasses.replace(one, live=False))
    assert tmp_path.joinpath("clip.mp4").read_bytes() == b"the source"
    assert tmp_path.joinpath("gst-filesrc-location-clip.mp4-decodebin.mp4").exists()


def test_a_cameras_video_lasts_as_long_as_it_was_looked_at(tmp_path):
    slow = [seen("camera:0", place * 0.15, 50 + place) for place in range(41)]  # ten frames a second, it says
    ((_, found),) = kept(tmp_path, slow).items()
    assert len(found) == pytest.approx(61, abs=1)


def test_the_frames_of_a_video_stay_as_long_as_in_it_and_none_is_left_out(tmp_path):
    shown_s = [*np.arange(10) / 10, *range(1, 6), 5.01, 5.02, 5.03, 9999]
    frames = []
    for place, when in enumerate(shown_s):
        one = seen("x.avi", 0, 10 * place)
        frame = dataclasses.replace(one.frame, index=place, shown_ns=int(1e9 * when))
        frames.append(dataclasses.replace(one, frame=frame, live=False))
    ((_, found),) = kept(tmp_path, frames).items()
    assert len(found) == pytest.approx(10 * (5.3 + STILL_S), abs=2)
    assert len({round(grey / 10) for grey in found}) == len(frames)


def test_a_camera_that_gives_more_frames_than_it_tells_is_not_slowed_down(tmp_path):
    quick = [seen("camera:0", place / 60, place // 2) for place in range(300)]  # ten frames a second, it says
    ((_, found),) = kept(tmp_path, quick).items()
    assert len(found) == pytest.approx(10 * (5 + AHEAD_S), abs=1)
    assert found[-1] > 140


def test_a_camera_that_was_away_leaves_a_short_gap_and_hurries_nobody(tmp_path):
    quick = [place * 0.099 for place in range(20)]
    back = [600 + when for when in quick]
    ((_, found),) = kept(tmp_path, [seen("camera:0", when) for when in quick + back]).items()
    assert len(found) == pytest.approx(40 + 10 * STAY_S, abs=2)


def test_the_size_of_a_video_is_that_of_the_picture_whatever_the_pixels_are(tmp_path):
    one = seen("gst:pipeline", 0)
    nv12 = np.full((72, 64), 128, np.uint8)
    frame = sources.Frame(nv12, "gst:pipeline", 0, 10**9, 10.0, "nv12")
    with _album.album(tmp_path, []) as album:
        album.add(Seen(frame, one.result, one.freshness, live=True))
    (path,) = tmp_path.iterdir()
    assert next(sources.frames(path)).image.shape == (48, 64, 3)


@pytest.mark.parametrize("path", ["x.mjpg", "x"])  # the server of the second is asked what it is
def test_a_camera_that_is_not_there_is_told_and_counted_beside_one_that_is(
    detector, tmp_path, capsys, monkeypatch, path
):
    told, add, refuse = threading.Event(), Tally.add, Faults.add
    # however late it is told, there are pictures left to count
    monkeypatch.setattr(Tally, "add", lambda tally, one: (told.wait(LONG_S), add(tally, one)))
    monkeypatch.setattr(Faults, "add", lambda faults, error: (refuse(faults, error), told.set()))
    with camera() as opened, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        there = f"127.0.0.1:{taken.getsockname()[1]}"
        away = f"http://me:p@ss@{there}/{path}"
        assert run(detector, away, opened.address, "--max-frames", 30, "--json", tmp_path / "r.jsonl") == 1
    out, err = capsys.readouterr()
    assert "30 pictures, 1 error" in out
    assert f"warning: http://{there}/{path} cannot be opened: {there}: Connection refused" in err.splitlines()
    assert err.endswith(f"error: 1 source could not be read\nhint: {opencv.ADDRESS}\n")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 30


def test_what_is_told_of_a_camera_names_it_without_its_password(detector, capsys, monkeypatch):
    monkeypatch.setattr(opencv, "OPEN_MS", 1000 * LONG_S)
    err = []

    def told(words):
        """The line on stderr that holds these words, once there is one."""
        err.append(capsys.readouterr().err)
        return next((line for line in "".join(err).splitlines() if words in line), "")

    with camera() as opened, edgeinfer.load(detector) as model:
        opened.mode = "silent"
        address = opened.address.replace("//", "//me:secret@")
        with Stream([address], model) as stream, Watch(stream):
            threading.Thread(target=list, args=(stream,), daemon=True).start()
            assert until(lambda: told("no picture yet, ")).startswith(f"warning: {opened.address}: ")
            opened.mode = "moving"
            assert until(lambda: told("well again")) == f"{opened.address}: well again"
            opened.mode = "black"
            assert until(lambda: told("black pictures for ")).startswith(f"warning: {opened.address}: ")
    assert "secret" not in "".join(err)


def test_what_a_camera_showed_before_the_disk_was_full_is_kept(detector, tmp_path, monkeypatch, capsys):
    room = iter([10**9] * 5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, next(room, 1000)))
    with camera() as opened:
        assert run(detector, opened.address, "--save", tmp_path / "out", "--json", tmp_path / "r.jsonl") == 1
    assert "the disk is full (0.0 MB left)\nhint: " in capsys.readouterr().err
    (video,) = (tmp_path / "out").iterdir()
    assert len(greys(video)) >= 5
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 5


def test_lines_of_a_camera_that_the_disk_had_room_for_are_kept_whole(tmp_path):
    """In a process of its own: a limit on the size of files is like a disk that is full, but for the signal."""
    path = tmp_path / "r.jsonl"
    with camera() as opened:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                SMALL_DISK,
                str(bundles.detect_bundle(tmp_path / "bundle")),
                opened.address,
                str(path),
            ],
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert f"error: {path} cannot be written: File too large\nhint: " in done.stderr
    *lines, end = path.read_text().split("\n")
    assert end == ""
    assert [json.loads(line)["index"] for line in lines] == sorted({json.loads(line)["index"] for line in lines})
    assert 1000 < path.stat().st_size < 3000


def test_what_a_run_that_was_killed_left_is_removed_by_the_next(detector, tmp_path):
    out, line = tmp_path / "out", [sys.executable, "-m", "edgeinfer", "run", detector]
    with camera() as opened:
        with subprocess.Popen([*line, opened.address, "--save", out], stdout=subprocess.PIPE, text=True) as process:
            assert opened.address in process.stdout.readline()
            process.kill()
        (left,) = out.iterdir()
        assert left.name.startswith(".")
        with _album.album(out, []):
            assert not left.exists()
    assert list(out.iterdir()) == []


def test_a_disk_that_has_no_room_for_a_single_line_leaves_the_old_records(tmp_path, monkeypatch):
    def refuse(*_):
        raise EdgeInferError("full")

    monkeypatch.setattr(_records, "_append", refuse)
    (tmp_path / "r.jsonl").write_text("old")
    with pytest.raises(EdgeInferError, match="full"), _records.records(str(tmp_path / "r.jsonl")) as opened:
        opened.add(seen("camera:0", 0))
    assert (tmp_path / "r.jsonl").read_text() == "old"


def test_a_disk_that_has_no_room_for_a_single_picture_leaves_the_old_video(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 1000))
    (tmp_path / "camera-0.mp4").write_text("old")
    with pytest.raises(EdgeInferError, match="the disk is full"), _album.album(tmp_path, []) as opened:
        opened.add(seen("camera:0", 0))
    assert (tmp_path / "camera-0.mp4").read_text() == "old"


def test_a_second_ctrl_c_keeps_what_cameras_showed(tmp_path):
    with pytest.raises(KeyboardInterrupt), _records.records(str(tmp_path / "r.jsonl")) as opened:
        opened.add(seen("camera:0", 0))
        raise KeyboardInterrupt
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_ctrl_c_beside_a_camera_keeps_what_that_showed_and_no_part_of_a_video(detector, tmp_path, monkeypatch, capsys):
    def sights(*_):
        yield seen("camera:0", 0)
        yield dataclasses.replace(seen("a.avi", 1, place=1), live=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "_sights", sights)
    out, lines = tmp_path / "out", tmp_path / "r.jsonl"
    assert run(detector, "camera:0", "a.avi", "--save", out, "--json", lines) == 130
    assert "2 pictures, 0 errors" in capsys.readouterr().out
    assert [path.name for path in out.iterdir()] == ["camera-0.mp4"]
    assert len(lines.read_text().splitlines()) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_camera_and_keeps_what_there_is(detector, tmp_path, number, code):
    out, lines = tmp_path / "out", tmp_path / "r.jsonl"
    with camera(fps=20) as opened:  # fewer than are told: none is left out of the video
        words = ("run", detector, opened.address, "--save", out, "--json", lines)
        line = [sys.executable, "-m", "edgeinfer", *map(str, words)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert opened.address in process.stdout.readline()
            process.send_signal(number)
            told = process.stderr.read()
            assert process.wait(LONG_S) == code
    # a camera is watched, and may have been late here
    assert [line for line in told.splitlines() if not line.removeprefix("warning: ").startswith(opened.address)] == []
    (video,) = out.iterdir()
    count = len([json.loads(one) for one in lines.read_text().splitlines()])
    assert 1 <= count <= len(greys(video))
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []


def test_a_picture_that_has_its_line_is_in_the_video(detector, tmp_path, monkeypatch):
    def add(self, seen):
        if self._videos:
            signal.raise_signal(signal.SIGINT)
        before(self, seen)

    before = Album.add
    monkeypatch.setattr(Album, "add", add)
    with camera() as opened:
        assert run(detector, opened.address, "--save", tmp_path / "out", "--json", tmp_path / "r.jsonl") == 130
    (video,) = (tmp_path / "out").iterdir()
    assert len(greys(video)) == len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


IMPORTS = """
import os, signal, time
os.kill(os.getpid(), {number})
time.sleep(0.2)
finished = True
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_an_import_is_over(tmp_path, monkeypatch, number):
    (tmp_path / f"slow_{int(number)}.py").write_text(IMPORTS.format(number=int(number)))
    monkeypatch.syspath_prepend(tmp_path)
    with _ending.orderly() as ending, pytest.raises(KeyboardInterrupt):
        module = __import__(f"slow_{int(number)}")
        assert module.finished
        time.sleep(LONG_S)
    assert sys.modules[f"slow_{int(number)}"].finished
    assert ending.asked == (0 if number == signal.SIGINT else number)


def test_a_command_line_run_by_an_import_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_dispatch", lambda _: signal.raise_signal(signal.SIGTERM))
    (tmp_path / "launcher.py").write_text("from edgeinfer import cli\ncode = cli.main([])\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert __import__("launcher").code == 143


def test_a_second_sigterm_does_not_disturb_the_tidying_up():
    with _ending.orderly():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
