"""Cameras of the service: pictures, results and metrics that never show the past as the present."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edgeinfer.errors import UsageError
from edgeinfer.serve.cameras import Cameras, Mount
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.refusals import NOT_FOUND, UNAVAILABLE, Refusal
from edgeinfer.serve.watching import Watching
from edgeinfer.spec import Batch
from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S, until
from helpers.service import service


def asked(running, path):
    status, _, body = running.request(path)
    return status, json.loads(body)


def state(running, name="door"):
    return asked(running, f"/v1/cameras/{name}")[1]


def color(running, name="door"):
    return state(running, name)["health"]["color"]


def metric(running, name, **labels):
    """A sample's value; labels are written in the order of their names."""
    shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    text = running.request("/metrics")[2].decode()
    return float(re.search(rf"^{name}\{{{shown}\}} (\S+)$", text, re.MULTILINE)[1])


def picture(running, after="", name="door"):
    """The camera's picture as pixels, and the headers that came with it."""
    status, headers, body = running.request(f"/v1/cameras/{name}/picture?after={after}")
    assert status == 200, body
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), headers


def is_marked(image):
    """Whether it is grey but for a red bar across it."""
    height, width = image.shape[:2]
    middle, corner = image[height // 2, width - 5].astype(int), image[5, 5].astype(int)
    return middle[2] > middle[:2].max() + 60 and np.ptp(corner) < 20


@contextlib.contextmanager
def watched(running, name="door", size=0):
    """A connection that asked for motion JPEG; `size` is that of its receive buffer."""
    host, port = running.address.split(":")
    with socket.socket() as opened:
        if size:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        opened.settimeout(LONG_S)
        opened.connect((host, int(port)))
        opened.sendall(f"GET /v1/cameras/{name}/live HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield opened


def parts(opened, count):
    """The headers of so many parts, in lower case."""
    data, found = b"", []
    while len(found) < count:
        came = opened.recv(1 << 16)
        assert came, data[-300:]
        data += came
        found = re.findall(rb"--edgeinfer\r\n(.*?)\r\n\r\n", data, re.DOTALL)
    return [dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")) for head in found[:count]]


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    return bundles.detect_bundle(tmp_path_factory.mktemp("models") / "finder")


@pytest.fixture(scope="module")
def shown():
    with camera() as opened:
        yield opened


@pytest.fixture(scope="module")
def running(finder, shown):
    with service(finder, "--camera", f"door={shown.address}") as started:
        yield started


@pytest.fixture(autouse=True)
def _moving(shown, request):
    """Each test begins with a camera that is well."""
    shown.mode = "moving"
    if "running" in request.fixturenames:
        started = request.getfixturevalue("running")
        until(lambda: color(started) == "green")


def test_the_state_tells_how_fresh_the_newest_result_is(running, shown):
    first = state(running)
    assert (first["name"], first["model"], first["model_version"]) == ("door", "finder", 1)
    assert first["source"] == shown.address
    fresh = first["freshness"]
    assert 0 < fresh["age_ms"] < 1e3 * LONG_S
    assert 0 <= fresh["queue_ms"] <= fresh["latency_ms"]
    assert fresh["captured"].endswith("Z")
    later = until(lambda: (now := state(running))["freshness"]["sequence"] > fresh["sequence"] + 5 and now)
    assert later["freshness"]["captured"] > fresh["captured"]
    assert later["results"] > first["results"]
    assert asked(running, "/v1/cameras")[1]["cameras"][0]["name"] == "door"
    until(lambda: asked(running, "/v1/cameras/door/health") == (200, {"color": "green", "reason": ""}))


def test_the_latest_result_is_what_run_writes_with_its_age(running, shown):
    until(lambda: asked(running, "/v1/cameras/door/latest")[1]["health"]["color"] == "green")
    status, record = asked(running, "/v1/cameras/door/latest")
    assert (status, record["task"], record["height"], record["width"]) == (200, "detect", shown.height, shown.width)
    assert len(record["detections"][0]["box"]) == 4
    assert 0 < record["freshness"]["age_ms"] < 1e3 * LONG_S


def shown_as(running, wanted, reason=""):
    """A picture and its headers once the camera's health is of this color, for this reason."""

    def shot():
        image, headers = picture(running, after="x")
        told = headers["X-Health-Reason"] or ""
        return headers["X-Health"] == wanted and re.match(reason, told) and (image, headers)

    return until(shot)


# a camera that stays silent is connected to anew
@pytest.mark.parametrize(
    ("mode", "reason"),
    [("frozen", "the same picture"), ("black", "black pictures"), ("silent", "no picture|.*trying again")],
)
def test_an_ill_camera_is_told_everywhere(running, shown, mode, reason):
    assert not is_marked(shown_as(running, "green")[0])
    shown.mode = mode
    until(lambda: color(running) == "red")
    until(lambda: metric(running, "edgeinfer_camera_well", camera="door") == 0)
    until(lambda: asked(running, "/v1/cameras/door/latest")[1]["health"]["color"] == "red")
    assert is_marked(shown_as(running, "red", reason)[0])
    until(lambda: re.match(reason, asked(running, "/v1/cameras/door/health")[1]["reason"]))
    assert asked(running, "/v1/cameras/door/health")[0] == 503
    assert running.request("/v2/health/ready")[0] == 200
    shown.mode = "moving"
    assert not is_marked(shown_as(running, "green")[0])


def test_a_frozen_camera_ages_and_its_picture_is_never_called_new(running, shown):
    shown.mode = "frozen"
    until(lambda: color(running) == "red")

    def rested():
        """How fresh it is at two moments, between which nothing new came: what moved may have been on its way."""
        first = state(running)["freshness"]
        time.sleep(0.5)
        later = state(running)["freshness"]
        return later["sequence"] == first["sequence"] and (first, later)

    first, later = until(rested)
    assert later["age_ms"] >= first["age_ms"] + 400
    assert metric(running, "edgeinfer_camera_newest_result_age_seconds", camera="door") > 1
    until(lambda: metric(running, "edgeinfer_camera_dropped_total", camera="door", cause="repeated") > 10)
    # whoever watches sees the mark go on with every second of the illness, and the age in it
    with watched(running) as opened:
        marks = parts(opened, 3)
    assert {mark["x-health"] for mark in marks} == {"red"}
    ages_ms = [float(mark["x-age-ms"]) for mark in marks]
    assert ages_ms == sorted(set(ages_ms))
    assert ages_ms[-1] > ages_ms[0] + 900


def test_metrics_count_what_came_and_what_was_left(running):
    names = ("pictures_total", "results_total", "age_seconds_count")
    before = [metric(running, f"edgeinfer_camera_{name}", camera="door") for name in names]
    until(lambda: metric(running, "edgeinfer_camera_results_total", camera="door") > before[1] + 10)
    after = [metric(running, f"edgeinfer_camera_{name}", camera="door") for name in names]
    assert all(later > sooner for sooner, later in zip(before, after, strict=True))
    assert metric(running, "edgeinfer_camera_well", camera="door") == 1
    requests = [line for line in running.request("/metrics")[2].decode().splitlines() if "requests_total{" in line]
    assert requests == []  # frames of cameras are no requests


def test_who_watches_gets_new_pictures_only(running):
    with watched(running) as opened:
        numbers = [int(part["x-picture"]) for part in parts(opened, 8)]
    assert numbers == sorted(set(numbers))


def test_a_slow_viewer_gets_the_newest_picture_and_holds_nobody_back(finder):
    patient = ("--slow", LONG_S)  # else whoever reads nothing for ten seconds is hung up on
    with (
        camera(height=480, width=640) as large,
        service(finder, "--camera", f"door={large.address}", *patient) as running,
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


def test_nothing_is_drawn_while_nobody_looks(finder, shown, tmp_path):
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
    line = [sys.executable, "-c", code, "serve", str(finder), "--port", "0", "--no-grpc", "--camera"]
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


def test_a_camera_that_comes_back_is_green_again_and_counted(finder):
    with camera() as opened, service(finder, "--camera", f"door={opened.address}") as running:
        until(lambda: color(running) == "green")
        opened.stop()
        until(lambda: color(running) == "red")
        assert "trying again" in until(lambda: (now := state(running)["health"]["reason"]).endswith("again") and now)
        until(lambda: "WARNING camera door: " in running.log())
        opened.start()
        until(lambda: color(running) == "green")
        reconnects = state(running)["reconnects"]
        assert reconnects >= 1
        assert metric(running, "edgeinfer_camera_reconnects_total", camera="door") >= reconnects
        until(lambda: "camera door: well again" in running.log())


def test_a_camera_that_is_not_there_leaves_the_service_ready(finder):
    with service(finder, "--camera", "door=camera:97", "--camera", "yard=http://127.0.0.1:9/x") as running:
        assert running.request("/v2/health/ready")[0] == 200
        assert "/dev/video97" in until(lambda: (now := state(running)["health"]["reason"]).endswith("again") and now)
        assert color(running, "yard") == "red"
        assert state(running)["freshness"] is None
        assert asked(running, "/v1/cameras/door/latest")[0] == 503
        image, headers = picture(running)
        assert is_marked(image)
        assert headers["X-Health"] == "red"
        assert running.request("/v1/cameras/hall")[0] == 404


def test_several_cameras_share_batches_and_leave_room_for_requests(tmp_path):
    folder = bundles.classify_bundle(tmp_path / "namer", Batch(1, 4))
    with camera(fps=60) as one, camera(fps=60) as two, camera(fps=60) as three:
        words = [f"--camera=c{place}={cam.address}" for place, cam in enumerate((one, two, three))]
        # batches wait a little, so that they meet
        with service(folder, *words, "--delay-ms", 20) as running:
            for place in range(3):
                until(lambda place=place: color(running, f"c{place}") == "green")
            file = bundles.png("red")
            before = [state(running, f"c{place}")["results"] for place in range(3)]
            answers = [running.request("/v1/models/namer/predict", file) for _ in range(20)]
            until(lambda: state(running, "c0")["results"] > before[0] + 60)
            after = [state(running, f"c{place}")["results"] for place in range(3)]
            results = [later - sooner for sooner, later in zip(before, after, strict=True)]
            text = running.request("/metrics")[2].decode()
    assert [status for status, _, _ in answers] == [200] * 20
    assert all(json.loads(body)["classes"][0]["label"] == "red" for _, _, body in answers)
    assert min(results) > 0.3 * max(results)  # they take turns, as far as their pictures come equally
    alone = float(re.search(r'edgeinfer_batch_rows_bucket\{le="1.0",model="namer.image"\} (\S+)', text)[1])
    batches = float(re.search(r'edgeinfer_batch_rows_count\{model="namer.image"\} (\S+)', text)[1])
    assert batches > alone


def test_neither_requests_nor_cameras_crowd_the_others_out(tmp_path):
    folder = bundles.classify_bundle(tmp_path / "namer")
    file = bundles.png("red")
    with camera(fps=60) as one, camera(fps=60) as two:
        words = ["--queue", 1, f"--camera=a={one.address}", f"--camera=b={two.address}"]
        with service(folder, *words) as running:
            until(lambda: color(running, "a") == "green" == color(running, "b"))
            # as many requests at a time as the queue has room for are never refused
            assert {running.request("/v1/models/namer/predict", file)[0] for _ in range(100)} == {200}
            over = threading.Event()

            def flood():
                while not over.is_set():
                    running.request("/v1/models/namer/predict", file)

            threads = [threading.Thread(target=flood) for _ in range(6)]
            for thread in threads:
                thread.start()
            before = state(running, "a")["results"]
            until(lambda: state(running, "a")["results"] > before + 30)
            until(lambda: color(running, "a") == "green")
            until(lambda: b'outcome="overload"' in running.request("/metrics")[2])  # the flood is one
            over.set()
            for thread in threads:
                thread.join()
            text = running.request("/metrics")[2].decode()
    assert re.findall(r'camera_dropped_total\{camera="\w",cause="failed"\} (\S+)', text) == ["0.0", "0.0"]


def test_a_new_version_takes_over_under_a_camera(tmp_path):
    folder = bundles.detect_bundle(tmp_path / "finder")
    with camera() as opened, service(folder, "--camera", f"door={opened.address}", "--manage") as running:
        until(lambda: color(running) == "green")
        for version in (2, 3):
            assert running.request("/v2/repository/models/finder/load", b"", method="POST")[0] == 200
            until(lambda version=version: state(running)["model_version"] == version)
            until(lambda: color(running) == "green")
        assert running.request("/v2/repository/models/finder/unload", b"", method="POST")[0] == 200
        until(lambda: "not ready: unloaded" in state(running)["health"]["reason"])
        assert color(running) == "red"
        assert running.request("/v2/repository/models/finder/load", b"", method="POST")[0] == 200
        until(lambda: color(running) == "green")
        assert metric(running, "edgeinfer_camera_dropped_total", camera="door", cause="failed") > 0


def test_it_ends_at_once_though_somebody_watches_and_a_camera_hangs(finder):
    with (
        camera() as moving,
        camera() as silent,
        service(finder, "--camera", f"door={moving.address}", "--camera", f"yard={silent.address}") as running,
    ):
        until(lambda: color(running) == "green" == color(running, "yard"))
        silent.mode = "silent"
        with watched(running) as opened:
            parts(opened, 2)
            start = time.monotonic()
            running.send("SIGTERM")
            running.process.wait(LONG_S)
            assert time.monotonic() - start < Limits().drain


def test_places_for_viewers_are_limited(finder, shown):
    with service(finder, "--camera", f"door={shown.address}", "--viewers", 1) as running:
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


def test_a_viewer_that_stops_reading_loses_its_place(finder, shown):
    with service(finder, "--camera", f"door={shown.address}", "--viewers", 1, "--slow", 3) as running:
        until(lambda: color(running) == "green")
        before = shown.height, shown.width
        shown.height, shown.width = 480, 640
        try:
            with watched(running, size=4096) as stuck:
                parts(stuck, 1)
                with until(lambda: _watching(running)):
                    pass
        finally:
            shown.height, shown.width = before


def test_the_token_guards_cameras_too(finder, shown, tmp_path):
    (tmp_path / "token").write_text("secret")
    with service(finder, "--camera", f"door={shown.address}", "--token-file", tmp_path / "token") as running:
        for path in ("", "/door", "/door/live", "/door/latest", "/door/picture"):
            assert running.request(f"/v1/cameras{path}")[0] == 401
        assert running.request("/v1/cameras", headers={"Authorization": "Bearer secret"})[0] == 200


def test_a_camera_is_named_with_its_source_and_perhaps_its_model():
    assert Mount.parse("door=rtsp://me:pass@10.0.0.5/a=b") == Mount("door", "rtsp://me:pass@10.0.0.5/a=b")
    assert Mount.parse("yard@yolov5s=camera:0") == Mount("yard", "camera:0", "yolov5s")


@pytest.mark.parametrize("text", ["camera:0", "=camera:0", "a b=camera:0", "door=", "../x=camera:0", "door=clip.mp4"])
def test_other_words_are_no_camera(text):
    with pytest.raises(UsageError, match="camera"):
        Mount.parse(text)


def test_words_that_are_no_camera_are_told_without_their_password():
    for text in (
        "rtsp://me:secret@10.0.0.5/x",
        "door@a b=rtsp://me:secret@10.0.0.5/x",
        "door=file://me:secret@10.0.0.5",
    ):
        with pytest.raises(UsageError) as told:
            Mount.parse(text)
        assert "secret" not in str(told.value)


def test_two_cameras_of_one_name_are_refused():
    with pytest.raises(UsageError, match="two cameras are called door"):
        Cameras([Mount("door", "camera:0"), Mount("door", "camera:1")])


@pytest.mark.parametrize("handler", ["one", "health", "latest", "picture", "live"])
def test_a_camera_is_not_there_yet_while_the_service_starts(handler):
    watching = Watching(Cameras([Mount("door", "camera:0")]))
    for name, kind in (("door", UNAVAILABLE), ("yard", NOT_FOUND)):
        with pytest.raises(Refusal) as told:
            asyncio.run(getattr(watching, handler)(SimpleNamespace(path_params={"name": name}, query_params={})))
        assert told.value.kind == kind


def test_a_file_of_cameras_that_is_not_there_is_told(finder, tmp_path, unserved):
    code, _, said = unserved(finder, "--camera-file", tmp_path / "none")
    assert code == 2
    assert "cannot be read" in said


@pytest.mark.parametrize(("word", "told"), [("door@other", "'other' is not served"), ("door", "which model")])
def test_a_camera_needs_a_model_that_is_served(finder, classifier, unserved, word, told):
    code, _, said = unserved(finder, classifier, "--camera", f"{word}=camera:0")
    assert code == 2
    assert told in said
    assert "hint: --camera door@finder=..." in said


def test_a_password_is_not_shown(finder, tmp_path):
    (tmp_path / "cameras").write_text("# the door\n\ndoor=rtsp://me:secret@127.0.0.1:9/x\n")
    with service(finder, "--camera-file", tmp_path / "cameras") as running:
        until(lambda: "trying again" in state(running)["health"]["reason"])
        assert state(running)["source"] == "rtsp://127.0.0.1:9/x"
        assert "secret" not in json.dumps(state(running))
    assert "secret" not in running.log()


def test_a_cascade_looks_at_cameras_too(finder, shown, tmp_path):
    namer = bundles.classify_bundle(tmp_path / "namer")
    with service(finder, "--classify", namer, "--camera", f"door={shown.address}") as running:
        until(lambda: color(running) == "green")
        (found,) = asked(running, "/v1/cameras/door/latest")[1]["detections"]
        assert {one["label"] for one in found["classes"]} <= {"red", "green", "blue"}
        assert found["classes"]
