"""`edgeinfer run --save`: annotated pictures and videos, whole or not at all."""

import itertools
import os
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from edgeinfer import sources
from edgeinfer.cli._tally import Tally
from helpers import bundles
from helpers.patience import LONG_S
from helpers.running import records, run


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


@pytest.mark.parametrize("source", [".", "red.png", "*.png"])
def test_a_source_is_never_overwritten(detector, photos, source, capsys):
    assert run(detector, photos / source, "--save", photos) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert np.array_equal(cv2.imread(str(photos / "red.png")), bundles.picture("red"))


def test_a_folder_that_cannot_be_made_is_an_error(detector, photos, capsys):
    assert run(detector, photos, "--save", photos / "red.png") == 1
    assert capsys.readouterr().err.startswith(f"error: {photos}/red.png cannot be written")


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


def test_a_full_disk_ends_a_video_with_a_clear_error(detector, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert run(detector, clip, "--save", tmp_path / "out") == 1
    assert "the disk is full (0.0 MB left)\nhint: " in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_that_is_not_all_written_is_an_error_and_the_old_one_stays(detector, tmp_path):
    """In a process of its own: a limit on the size of files is like a quota, of which OpenCV says nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8)
    clip, out = bundles.video(tmp_path / "clip.avi", list(noise)), tmp_path / "out"
    out.mkdir()
    (out / "clip.mp4").write_text("old")
    line = ["/bin/sh", "-c", 'ulimit -f 16; exec "$@"', "sh", sys.executable, "-m", "edgeinfer", "run", detector, clip]
    done = subprocess.run([*line, "--save", out], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == f"error: {out}/clip.mp4 cannot be written: what OpenCV wrote of the video is not all on the disk"
    assert hint.startswith("hint: check the path, free space")
    assert [path.read_text() for path in out.iterdir()] == ["old"]
