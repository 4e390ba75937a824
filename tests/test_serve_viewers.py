"""Who watches a camera of the service gets the present, holds nobody back, and has a place for as long as they read."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

from edgeinfer.serve.limits import Limits
from helpers.camera import camera
from helpers.patience import LONG_S, until
from helpers.service import service
from helpers.watching import color, parts, state, watched


@pytest.fixture
def shown():
    with camera() as opened:
        yield opened


def test_who_watches_gets_new_pictures_only(detector, shown):
    with service(detector, "--camera", f"door={shown.address}") as running:
        until(lambda: color(running) == "green")
        with watched(running) as opened:
            numbers = [int(part["x-picture"]) for part in parts(opened, 8)]
    assert numbers == sorted(set(numbers))


def test_a_slow_viewer_gets_the_newest_picture_and_holds_nobody_back(detector):
    patient = ("--slow", LONG_S)  # else whoever reads nothing for ten seconds is hung up on
    with (
        camera(height=480, width=640) as large,
        service(detector, "--camera", f"door={large.address}", *patient) as running,
    ):
        until(lambda: color(running) == "green")
        with watched(running, size=4096) as slow:
            parts(slow, 1)
            results = state(running)["results"]
            until(lambda: state(running)["results"] > results + 120)
            numbers = [int(part["x-picture"].partition("-")[0]) for part in parts(slow, 20)]
    steps = np.diff(numbers)
    # what lay in sockets is a second of pictures at most, then comes the present
    assert steps.max() > 50


def test_nothing_is_drawn_while_nobody_looks(detector, shown, tmp_path):
    code = f"""
import sys
from edgeinfer import drawing
from edgeinfer.cli import main
stamped = drawing.stamped
def counted(*words):
    open({str(tmp_path / "drawn")!r}, "a").write("x")
    return stamped(*words)
drawing.stamped = counted
sys.exit(main(sys.argv[1:]))
"""
    line = [sys.executable, "-c", code, "serve", str(detector), "--port", "0", "--no-grpc", "--camera"]
    process = subprocess.Popen([*line, f"door={shown.address}"], stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://(\S+)", process.stdout.readline())[1]
        started = type("Started", (), {"address": address})

        def results():
            with urllib.request.urlopen(f"http://{address}/v1/cameras/door", timeout=LONG_S) as answer:
                return json.loads(answer.read())["results"]

        def drawn():
            return (tmp_path / "drawn").stat().st_size

        def is_still():
            before, passed = drawn(), results()
            until(lambda: results() > passed + 10)
            return drawn() == before

        until(lambda: results() > 20)
        assert not (tmp_path / "drawn").exists()
        before = results()
        with watched(started) as one, watched(started) as two:
            threads = [threading.Thread(target=parts, args=(opened, 10)) for opened in (one, two)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        until(is_still)
        # however many look, a result is drawn once; and somebody who came later is shown what is there
        assert 10 <= drawn() <= results() - before + 1
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


def test_places_for_viewers_are_limited(detector, shown):
    with service(detector, "--camera", f"door={shown.address}", "--viewers", 1) as running:
        until(lambda: color(running) == "green")
        with watched(running) as opened:
            parts(opened, 1)
            status, headers, body = running.request("/v1/cameras/door/live")
            assert (status, headers["retry-after"]) == (503, "1")
            assert b"watch already" in body
        # whoever leaves makes room
        with until(lambda: _watching(running)):
            pass


def _watching(running):
    """A connection that was let in, or None."""
    opened = socket.create_connection(running.address.split(":"), timeout=LONG_S)
    with contextlib.suppress(ConnectionError):  # this process may be too slow to ask
        opened.sendall(b"GET /v1/cameras/door/live HTTP/1.1\r\nHost: x\r\n\r\n")
        if b" 200 " in opened.recv(100):
            return opened
    opened.close()
    return None


def test_a_viewer_that_stops_reading_loses_its_place(detector, shown):
    with service(detector, "--camera", f"door={shown.address}", "--viewers", 1, "--slow", 3) as running:
        until(lambda: color(running) == "green")
        shown.height, shown.width = 480, 640
        with watched(running, size=4096) as stuck:
            parts(stuck, 1)
            with until(lambda: _watching(running)):
                pass


def test_it_ends_at_once_though_somebody_watches_and_a_camera_hangs(detector):
    with (
        camera() as moving,
        camera() as silent,
        service(detector, "--camera", f"door={moving.address}", "--camera", f"yard={silent.address}") as running,
    ):
        until(lambda: color(running) == "green" == color(running, "yard"))
        silent.mode = "silent"
        with watched(running) as opened:
            parts(opened, 2)
            start = time.monotonic()
            running.send("SIGTERM")
            running.process.wait(LONG_S)
            assert time.monotonic() - start < Limits().drain
