"""Cameras and streams that cannot be used: one clear error, within seconds, and never a hang."""

import itertools
import os
import socket
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

import edgeinfer
from edgeinfer import sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import answers, opencv, remote
from edgeinfer.streams import stream
from edgeinfer.streams.capture import Capture
from helpers import bundles
from helpers.camera import answering, camera
from helpers.patience import LONG_S, until


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Opening gives up after a second; then it is asked why, and the answer is what is told, however late it is."""
    monkeypatch.setattr(opencv, "OPEN_MS", 1000)
    monkeypatch.setattr(answers, "PATIENCE_S", LONG_S)


def refused(source):
    """The error that a source ends in."""
    with pytest.raises(SourceError) as caught:
        next(iter(sources.frames(source)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "user", "told"),
    [
        ("RTSP/1.0 401 Unauthorized", "", "asks for a user and a password"),
        ("RTSP/1.0 401 Unauthorized", "me:secret@", "refuses the user or the password"),
        ("RTSP/1.0 404 Not Found", "", "says 404 Not Found"),
        ("", "", "hangs up"),
        ("220 mail ready", "", "speaks another protocol"),
    ],
)
def test_an_rtsp_camera_that_refuses_is_told_with_its_reason(line, user, told):
    with answering(line) as address:
        assert refused(f"rtsp://{user}{address}/main") == (f"rtsp://{address}/main cannot be opened: 127.0.0.1 {told}")


@pytest.mark.parametrize("own", [None, "rtsp_transport;udp"])
def test_the_rate_of_an_rtsp_camera_is_told_by_two_frames_unless_the_user_says_otherwise(own, monkeypatch):
    name, usual = opencv.OPTIONS
    monkeypatch.setenv(name, own or "")
    if not own:
        monkeypatch.delenv(name)
    with answering("RTSP/1.0 404 Not Found") as host, pytest.raises(SourceError):
        list(sources.frames(f"rtsp://{host}/main"))
    assert os.environ[name] == (own or usual)


def test_an_rtsp_camera_that_says_nothing_is_told_so(monkeypatch):
    monkeypatch.setattr(answers, "PATIENCE_S", 1.0)
    with answering(None) as address:
        assert refused(f"rtsp://{address}/main").endswith("cannot be opened: 127.0.0.1 does not answer")


def test_an_http_camera_that_refuses_is_told_with_its_reason():
    with answering("HTTP/1.0 403 Forbidden") as address:
        assert refused(f"http://{address}/x.mjpg").endswith("127.0.0.1 asks for a user and a password")


def test_nobody_at_the_address_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(f"rtsp://{address}/main").endswith(f"{address}: Connection refused")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("rtsp://no-such-host.invalid/x", "no host is called 'no-such-host.invalid'"),
        ("rtsp://127.0.0.1:99999/x", "it is not an address"),
        ("ftp://127.0.0.1/x", "it is not an address"),
        ("http://[::1/x", "it is not an address"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(address, told):
    assert answers.why(address) == told


def test_a_web_server_that_does_not_answer_is_asked_once_a_try_and_nothing_else(detector, monkeypatch):
    tries, read = [], Capture._read
    monkeypatch.setattr(Capture, "_read", lambda capture: (tries.append(capture), read(capture)))
    monkeypatch.setattr(remote, "PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening, edgeinfer.load(detector) as model:
        address = f"http://me:secret@127.0.0.1:{listening.getsockname()[1]}/camera"
        with stream(address, model, patient=True) as seen:
            reason = until(lambda: len(tries) > 2 and seen.health()[address].reason)
        tries[0].join()
        listening.setblocking(False)
        for _ in tries:
            listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.accept()
    shown = address.replace("me:secret@", "")
    assert reason == f"{shown} cannot be opened: 127.0.0.1 does not answer; trying again"


def test_an_http_camera_that_is_not_there_is_told_like_one_of_rtsp():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(f"http://{place}/x") == f"http://{place}/x cannot be opened: {place}: Connection refused"


def test_the_password_is_not_sent_to_ask_why():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LONG_S)
        address = f"rtsp://me:secret@127.0.0.1:{listening.getsockname()[1]}/x?a=b"
        thread = threading.Thread(target=answers.why, args=(address,))
        thread.start()
        opened, _ = listening.accept()
        with opened:
            asked = opened.recv(1000)
        thread.join()
    assert b"/x?a=b RTSP/1.0" in asked
    assert b"secret" not in asked


def test_a_camera_that_never_gives_a_picture_is_an_error_not_a_hang():
    with camera() as opened:
        opened.mode = "silent"
        assert "gives no video" in refused(opened.address)


def test_pictures_that_are_none_are_an_error_not_a_hang(monkeypatch):
    with camera() as opened:
        monkeypatch.setattr(opened, "picture", lambda: np.zeros((8, 8, 3), np.uint8))
        monkeypatch.setattr(cv2, "imencode", lambda *_: (True, np.frombuffer(b"\xff\xd8 no picture " * 9, np.uint8)))
        assert "127.0.0.1" in refused(opened.address)


@pytest.fixture
def clip(tmp_path):
    """A video whose frames are in a codec that nobody knows."""
    path = bundles.video(tmp_path / "clip.avi", [np.full((48, 64, 3), place * 40, np.uint8) for place in range(5)])
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZQ9"))
    return path


def test_an_unknown_codec_is_an_error(clip):
    with pytest.raises(SourceError, match=r"cannot be opened by OpenCV|no frames that OpenCV can decode") as caught:
        list(sources.frames(clip))
    assert "convert it to H.264" in caught.value.hint


def test_a_stream_of_a_camera_that_refuses_ends_with_its_error(detector):
    with (
        answering("RTSP/1.0 401 Unauthorized") as address,
        edgeinfer.load(detector) as model,
        stream(f"rtsp://{address}/main", model) as seen,
        pytest.raises(SourceError, match="asks for a user and a password"),
    ):
        list(seen)


def test_the_command_says_it_in_two_lines_and_leaves_nothing(detector, tmp_path):
    with answering("RTSP/1.0 401 Unauthorized") as address:
        words = ("run", detector, f"rtsp://me:secret@{address}/main", "--json", tmp_path / "r.jsonl")
        done = subprocess.run(
            [sys.executable, "-m", "edgeinfer", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
            env={**os.environ, "OPENCV_LOG_LEVEL": "OFF"},
        )
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()[-2:]
    assert error == f"error: rtsp://{address}/main cannot be opened: 127.0.0.1 refuses the user or the password"
    assert hint.startswith("hint: check the address, the user and password")
    assert list(tmp_path.glob("*.jsonl*")) == []


def test_a_camera_that_changes_its_size_is_drawn_and_saved_to_the_end(detector, tmp_path):
    with camera(fps=20, height=96, width=128) as opened:
        words = ("run", detector, opened.address, "--save", tmp_path / "out", "--max-frames", "40")
        line = [sys.executable, "-m", "edgeinfer", *map(str, words)]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        told = list(itertools.islice(process.stdout, 10))
        opened.height, opened.width = 48, 64
        # not communicate(): it does not have what was read ahead of the ten lines
        out, err = process.stdout.read(), process.stderr.read()
        process.stdout.close()
        process.stderr.close()
    assert process.wait(LONG_S) == 0, err
    assert "error" not in err  # that it was late for a moment may be told
    assert "96x128" in told[0] or "128x96" in told[0]
    assert "40 pictures, 0 errors" in out
    (video,) = (tmp_path / "out").iterdir()
    capture = cv2.VideoCapture(str(video))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) >= 40  # a frame stays where others were left out
    capture.release()


def test_a_full_disk_ends_a_camera_with_a_clear_error(detector):
    with camera() as opened:
        line = [sys.executable, "-m", "edgeinfer", "run", str(detector), opened.address, "--json", "/dev/full"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "\nhint: " in f"\n{done.stderr}"


def test_a_library_that_a_source_needs_and_is_not_here_is_its_error(detector, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "red.png"), bundles.picture())
    with edgeinfer.load(detector) as model:
        monkeypatch.setitem(sys.modules, "cv2", None)
        with stream(tmp_path / "red.png", model) as sights, pytest.raises(SourceError, match="not installed") as caught:
            next(iter(sights))
    assert 'pip install "edgeinfer[cpu]"' in caught.value.hint
