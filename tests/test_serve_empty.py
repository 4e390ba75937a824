"""Services that start before their bundles: ready once there is one, and alive until then."""

import contextlib
import json
import socket

import cv2
import grpc
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S, until
from helpers.service import service

SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def put(folder):
    """A bundle, there at once and whole."""
    bundles.classify_bundle(folder.parent.parent / "made").rename(folder)


def ready(running):
    """Status and body."""
    status, _, body = running.request("/v2/health/ready")
    return status, json.loads(body)


def health(running):
    with grpc.insecure_channel(running.grpc) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(pb.HealthCheckRequest(), timeout=LONG_S).status


def test_an_empty_folder_that_is_watched_is_alive_and_ready_with_its_first_bundle(shelf):
    with service(shelf, "--watch", 0.1) as running:
        assert running.told.startswith(f"serving nothing yet, watching {shelf} on http://")
        assert running.request("/v2/health/live")[0] == 200
        assert ready(running) == (503, {"ready": False, "reason": "no model is loaded"})
        assert health(running) == NOT_SERVING
        assert json.loads(running.request("/v1/models")[2])["models"] == []
        assert json.loads(running.request("/v2/models/stats")[2]) == {"model_stats": []}
        assert b"edgeinfer_model_version" in running.request("/metrics")[2]
        assert running.request("/v1/models/namer/predict", b"a picture")[0] == 404
        put(shelf / "namer")
        until(lambda: ready(running) == (200, {"ready": True}))
        assert health(running) == SERVING


def test_a_request_loads_what_has_come_to_an_empty_folder(shelf):
    with service(shelf, "--manage") as running, grpc_client.InferenceServerClient(running.grpc) as client:
        assert running.told.startswith(f"serving nothing yet, loading from {shelf} what requests ask for on http://")
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.get_model_repository_index().models
        assert running.request("/v2/repository/models/namer/load", b"{}")[0] == 404
        put(shelf / "namer")
        client.load_model("namer")
        assert client.is_server_ready()
        client.unload_model("namer")
        assert ready(running) == (503, {"ready": False, "reason": "no model is loaded"})


def test_the_index_tells_what_could_be_loaded_now(shelf, tmp_path):
    """As Triton's does in explicit mode; what is ready, it tells alone where it is asked for that."""
    bundles.classify_bundle(shelf / "first")

    def told():
        found = client.get_model_repository_index()
        rows = http.get_model_repository_index()
        assert sorted(rows, key=str) == sorted(
            (
                {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason}
                for one in found.models
            ),
            key=str,
        )
        return {
            row["name"]: (row["version"], row["state"], row["reason"]) for row in rows if "image" not in row["name"]
        }

    with (
        service(shelf, "--manage") as running,
        grpc_client.InferenceServerClient(running.grpc) as client,
        http_client.InferenceServerClient(running.address) as http,
    ):
        ours = {"first": ("1", "READY", "")}
        assert told() == ours
        put(shelf / "namer")
        bundles.classify_bundle(tmp_path / "elsewhere")
        assert told() == {**ours, "namer": ("", "UNAVAILABLE", "not loaded yet")}
        assert [one.name for one in client.get_model_repository_index().models].count("namer.image") == 1
        assert ready(running)[0] == 200
        (shelf / "namer").rename(shelf / "renamed")
        assert told() == {**ours, "renamed": ("", "UNAVAILABLE", "not loaded yet")}
        client.load_model("renamed")
        assert told() == {**ours, "renamed": ("1", "READY", "")}
        client.unload_model("renamed")
        assert told() == {**ours, "renamed": ("", "UNAVAILABLE", "unloaded")}
        asked = running.request("/v2/repository/index", b'{"ready": true}')
        assert [row["name"] for row in json.loads(asked[2])] == ["first", "first.image"]


def test_sighup_loads_what_has_come_to_an_empty_folder(shelf):
    with service(shelf, "--manage") as running:
        put(shelf / "namer")
        running.send("SIGHUP")
        until(lambda: ready(running)[0] == 200)


def test_an_empty_folder_may_become_a_bundle_itself(tmp_path, shelf):
    made = bundles.classify_bundle(tmp_path / "made")
    with service(shelf, "--watch", 0.1) as running:
        for part in sorted(made.iterdir(), key=lambda one: one.name == "model.json"):
            part.rename(shelf / part.name)
        until(lambda: running.request("/v2/models/shelf/ready")[0] == 200)


def test_a_folder_whose_every_bundle_is_refused_is_served_once_one_is_mended(tmp_path, shelf):
    put(shelf / "namer")
    golden = shelf / "namer" / "golden" / "0.png"
    right = golden.read_bytes()
    cv2.imwrite(str(golden), bundles.picture("blue"))
    with service(shelf, "--watch", 0.1) as running:
        assert running.told.startswith("serving nothing yet")
        assert ready(running)[0] == 503
        (one,) = json.loads(running.request("/v1/models")[2])["models"]
        assert (one["state"], "golden" in one["reason"]) == ("UNAVAILABLE", True)
        (tmp_path / "right.png").write_bytes(right)
        (tmp_path / "right.png").replace(golden)
        until(lambda: ready(running)[0] == 200)


def test_systemd_hears_that_a_service_without_models_has_started(tmp_path, shelf):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(LONG_S)
        with service(shelf, "--watch", 60, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}):
            assert systemd.recv(1000) == b"READY=1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shelf"], "shelf holds no bundle"),
        (["nowhere"], "nowhere does not exist"),
        (["nowhere", "--watch=5"], "nowhere does not exist"),
    ],
)
def test_nothing_to_serve_and_nothing_to_wait_for_is_an_error(shelf, unserved, monkeypatch, words, told):
    monkeypatch.chdir(shelf.parent)
    code, out, said = unserved(*words)
    assert (code, out) == (1, "")
    error, hint = said.splitlines()[-2:]
    assert error.startswith("error: no model can be served: ")
    assert told in error
    assert hint.startswith("hint: ")


def test_what_would_help_a_model_that_cannot_be_opened_is_told(classifier, unserved):
    code, _, said = unserved(classifier, "--backend=ort", "--precision=fp16")
    assert code == 1
    info = f"edgeinfer info {classifier} lists what would run, and why not"
    assert said.splitlines()[-1] == f"hint: export it again with --precision fp32,fp16; {info}"


def test_an_empty_folder_beside_a_bundle_is_told_and_no_model(tmp_path, shelf):
    with service(shelf, bundles.classify_bundle(tmp_path / "namer")) as running:
        assert running.told.startswith("serving namer on ")
        assert f"{shelf} holds no bundle" in running.log()
        assert [one["name"] for one in json.loads(running.request("/v1/models")[2])["models"]] == ["namer"]


def test_a_camera_waits_for_the_model_it_names(shelf):
    with camera() as opened, service(shelf, "--watch", 0.1, "--camera", f"door@namer={opened.address}") as running:
        until(lambda: b"'namer.image' is not served here" in running.request("/v1/cameras/door/health")[2])
        put(shelf / "namer")
        until(lambda: running.request("/v1/cameras/door/health")[0] == 200)


def test_a_camera_that_names_no_model_is_refused_where_there_is_none_yet(shelf, unserved):
    code, out, said = unserved(shelf, "--watch=5", "--camera=door=camera:0")
    assert (code, out) == (2, "")
    assert said.splitlines()[-2:] == [
        "error: camera door: which model shall look?",
        "hint: --camera door@MODEL=...",
    ]


def test_the_page_says_that_no_model_is_loaded(shelf, tmp_path, browser):
    cv2.imwrite(str(tmp_path / "green.png"), bundles.picture("green"))
    with service(shelf, "--watch", 0.1) as running, contextlib.closing(browser.open(running.url)) as page:
        page.until("document.getElementById('models').textContent == 'none yet'")
        assert page.evaluate("document.getElementById('health').textContent") == "not ready"
        page.choose("#file", tmp_path / "green.png")
        page.until("document.getElementById('said').textContent == 'no model is loaded'")
        put(shelf / "namer")
        page.until("document.getElementById('model').value == 'namer'")
