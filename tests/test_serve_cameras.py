"""Cameras of the service: pictures, results and metrics that never show the past as the present."""

import json
import re
import threading
import time

import cv2
import numpy as np
import pytest

from edgeinfer.spec import Batch
from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S, until
from helpers.service import service
from helpers.watching import asked, color, metric, parts, state, watched


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
            bundles.new_version(folder, f"version {version}")
            assert running.request("/v2/repository/models/finder/load", b"", method="POST")[0] == 200
            until(lambda version=version: state(running)["model_version"] == version)
            until(lambda: color(running) == "green")
        assert running.request("/v2/repository/models/finder/unload", b"", method="POST")[0] == 200
        until(lambda: "not ready: unloaded" in state(running)["health"]["reason"])
        assert color(running) == "red"
        assert running.request("/v2/repository/models/finder/load", b"", method="POST")[0] == 200
        until(lambda: color(running) == "green")
        assert metric(running, "edgeinfer_camera_dropped_total", camera="door", cause="failed") > 0


def test_the_token_guards_cameras_too(finder, shown, tmp_path):
    (tmp_path / "token").write_text("secret")
    with service(finder, "--camera", f"door={shown.address}", "--token-file", tmp_path / "token") as running:
        for path in ("", "/door", "/door/live", "/door/latest", "/door/picture"):
            assert running.request(f"/v1/cameras{path}")[0] == 401
        assert running.request("/v1/cameras", headers={"Authorization": "Bearer secret"})[0] == 200


def test_a_cascade_looks_at_cameras_too(finder, shown, tmp_path):
    namer = bundles.classify_bundle(tmp_path / "namer")
    with service(finder, "--classify", namer, "--camera", f"door={shown.address}") as running:
        until(lambda: color(running) == "green")
        (found,) = asked(running, "/v1/cameras/door/latest")[1]["detections"]
        assert {one["label"] for one in found["classes"]} <= {"red", "green", "blue"}
        assert found["classes"]
