"""What waits for an engine: how much of it, how long, who shares its batches, and how it ends."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import service


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return bundles.classify_bundle(tmp_path_factory.mktemp("models") / "patient")


@pytest.fixture
def gate(tmp_path):
    """While this file stands, what an engine works on takes as long as it does."""
    path = tmp_path / "gate"
    yield path
    path.unlink(missing_ok=True)


def infer(running, way="http", **how):
    module = http_client if way == "http" else grpc_client
    item = module.InferInput("images", [1, 3, 32, 32], "FP32")
    item.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.float32))
    made = {"url": running.address, "network_timeout": LONG_S} if way == "http" else {"url": running.grpc}
    with module.InferenceServerClient(**made) as client:
        return client.infer("patient", [item], **how).as_numpy("logits")


def busy(running, gate, way="http"):
    """A request that is answered when the gate is taken away."""
    gate.touch()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(infer(running, way)))
    asking.start()
    until(lambda: running.gauge("busy_seconds", "patient") > 0)
    return asking, answers


def test_a_request_that_takes_too_long_is_answered_so_and_leaves_the_queue(patient, gate):
    with service(patient, gate=gate) as running:
        asking, answers = busy(running, gate)
        with pytest.raises(InferenceServerException, match=r"no answer within 0\.2 s"):
            infer(running, timeout=200_000)
        assert asking.is_alive()
        assert running.gauge("queue_depth", "patient") == 0
        gate.unlink()
        asking.join()
        assert len(answers) == 1


def test_requests_share_the_memory_they_may_fill_whichever_way_they_come(patient, gate):
    frame = bundles.picture("red", 400, 500)  # 600 kB
    words = patient, "--max-memory-mb", 1
    with service(*words, gate=gate) as running, grpc_client.InferenceServerClient(running.grpc) as client:
        item = grpc_client.InferInput("frame", list(frame.shape), "UINT8")
        item.set_data_from_numpy(frame)
        asking, _ = busy(running, gate)
        held = []
        client.async_infer("patient.image", [item], lambda result, error: held.append(error or result))
        until(lambda: running.gauge("queue_depth", "patient") == 1)
        with pytest.raises(InferenceServerException, match=r"RESOURCE_EXHAUSTED.*too many large requests"):
            client.infer("patient.image", [item])
        status, headers, body = running.request("/v1/models/patient/predict", bytes(frame))
        assert (status, headers["retry-after"]) == (503, "1")
        assert "too many large requests" in json.loads(body)["error"]
        gate.unlink()
        until(lambda: held)
        asking.join()
        # there is room again
        assert client.infer("patient.image", [item]).as_numpy("labels")[0] == b"red"
        assert held[0].as_numpy("labels")[0] == b"red"


def test_pictures_count_by_their_pixels(patient, gate):
    file = bundles.png("red", 1000, 1000)  # 3 MB
    with service(patient, "--max-memory-mb", 8, gate=gate) as running:
        asking, _ = busy(running, gate)
        with ThreadPoolExecutor() as threads:
            held = [threads.submit(running.request, "/v1/models/patient/predict", file) for _ in range(2)]
            until(lambda: running.gauge("queue_depth", "patient") == 2)
            status, _, body = running.request("/v1/models/patient/predict", file)
            gate.unlink()
            assert (status, "too many large requests" in json.loads(body)["error"]) == (503, True)
            assert [one.result()[0] for one in held] == [200, 200]
        asking.join()
        assert running.request("/v1/models/patient/predict", file)[0] == 200


def test_nobody_waits_longer_than_the_service_allows(patient, gate):
    with service(patient, "--timeout", 0.3, gate=gate) as running:
        gate.touch()
        item = np.zeros((1, 3, 32, 32), np.float32).tolist()
        body = json.dumps(
            {
                "inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": item}],
                "parameters": {"timeout": 9_000_000},
            }
        )
        status, _, answer = running.request("/v2/models/patient/infer", body.encode())
        gate.unlink()
        assert (status, json.loads(answer)["error"]) == (504, "no answer within 0.3 s")


def test_a_client_that_hangs_up_leaves_the_queue(patient, gate):
    with service(patient, gate=gate) as running:
        asking, _ = busy(running, gate)
        host, port = running.address.split(":")
        body = bundles.png()
        with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
            opened.sendall(
                b"POST /v1/models/patient/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            until(lambda: running.gauge("queue_depth", "patient") == 1)
        until(lambda: running.gauge("queue_depth", "patient") == 0)
        assert asking.is_alive()
        gate.unlink()
        asking.join()


def test_a_full_queue_is_told_at_once(patient, gate):
    found = []
    with service(patient, "--queue", 1, "--connections", 200, gate=gate) as running:
        gate.touch()

        def ask():
            status, headers, _ = running.request("/v1/models/patient/predict", bundles.png())
            found.append((status, headers.get("retry-after")))

        askers = [threading.Thread(target=ask) for _ in range(16)]
        for asker in askers:
            asker.start()
        # one is at work and one waits
        until(lambda: len(found) == 14)
        gate.unlink()
        for asker in askers:
            asker.join()
        assert found == [(503, "1")] * 14 + [(200, None)] * 2
        assert running.request("/v1/models/patient/predict", bundles.png())[0] == 200


def test_requests_share_batches_and_results_never_mix(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    with service(bundle, "--delay-ms", 5) as running:
        wrong = []

        def ask(color):
            for _ in range(20):
                body = running.request("/v1/models/namer/predict", bundles.png(color))[2]
                if json.loads(body)["classes"][0]["label"] != color:
                    wrong.append(body)

        askers = [threading.Thread(target=ask, args=(bundles.COLORS[place % 3],)) for place in range(9)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert wrong == []


def refuses(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=LONG_S).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(("name", "way"), [("SIGTERM", "http"), ("SIGTERM", "grpc"), ("SIGINT", "http")])
def test_what_is_under_way_is_finished_before_the_end(patient, gate, name, way):
    with service(patient, gate=gate) as running:
        asking, answers = busy(running, gate, way)
        running.send(name)
        until(lambda: refuses(running.address))
        assert asking.is_alive()
        gate.unlink()
        asking.join()
        assert len(answers) == 1
        assert running.process.wait(LONG_S) == 0
