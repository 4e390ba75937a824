"""What keeps a service safe that runs for months: its limits, who may come in, and how it ends."""

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from edgeinfer.serve import running
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import connected, service

ROOT = Path(__file__).parent.parent
TLS = Path(__file__).parent / "data" / "tls"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    bundles.classify_bundle(path / "namer")
    bundles.classify_bundle(path / "patient")
    return path


@pytest.fixture(scope="module")
def served(folder):
    with service(folder, "--max-body-mb", 0.1, "--max-pixels", 10_000, "--slow", 60) as running:
        yield running


def test_it_is_there_for_this_machine_only_unless_asked(served):
    assert served.url.startswith("http://127.0.0.1:")
    assert served.grpc.startswith("127.0.0.1:")


def test_small_answers_are_sent_at_once():
    async def delayed():
        """Whether the system waits for more to send on a connection that the service accepts."""
        accepted = asyncio.get_running_loop().create_future()
        with running._listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listening):
                _, mine = await asyncio.open_connection(*listening.getsockname())
                theirs = await accepted
                at_once = theirs.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                for writer in (mine, theirs):
                    writer.close()
                    await writer.wait_closed()
        return not at_once

    assert not asyncio.run(delayed())


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(served):
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
        opened.sendall(b"POST /v1/models/namer/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 104858\r\n\r\n")
        assert b"413" in opened.recv(100)


def test_a_body_of_unknown_length_is_cut_off_where_it_gets_too_large(served):
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
        opened.sendall(b"POST /v1/models/namer/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(30):
                opened.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
        assert b"413" in opened.recv(100)


def test_a_message_that_is_too_large_is_refused(served):
    item = grpc_client.InferInput("images", [120, 3, 32, 32], "FP32")
    item.set_data_from_numpy(np.zeros((120, 3, 32, 32), np.float32))
    with grpc_client.InferenceServerClient(served.grpc) as client:
        with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
            client.infer("namer", [item])
        assert client.is_server_ready()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_message_that_is_too_large_once_it_is_unpacked_fills_no_memory(served):
    def peak_mb():
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{served.process.pid}/status").read_text())[1]) >> 10

    before = peak_mb()
    with grpc.insecure_channel(served.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as told:
            infer(bytes(200 << 20), compression=grpc.Compression.Gzip, timeout=LONG_S)
    assert told.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED)
    assert peak_mb() - before < 100


@pytest.mark.parametrize("way", ["predict", "image", "frame", "nv12"])
def test_a_picture_of_too_many_pixels_is_refused_whichever_way_it_comes(served, way):
    if way == "predict":
        status, _, body = served.request("/v1/models/namer/predict", bundles.png("red", 101, 100))
        assert (status, "pixels" in json.loads(body)["error"]) == (400, True)
        return
    array = np.array([bundles.png("red", 101, 100)], np.object_) if way == "image" else bundles.picture("red", 101, 100)
    array = np.zeros((153, 100), np.uint8) if way == "nv12" else array
    item = http_client.InferInput(
        "image" if way == "image" else "frame", list(array.shape), "BYTES" if way == "image" else "UINT8"
    )
    item.set_data_from_numpy(array)
    with (
        http_client.InferenceServerClient(served.address) as client,
        pytest.raises(InferenceServerException, match="pixels"),
    ):
        client.infer("namer.image", [item], parameters={"pixels": "nv12"} if way == "nv12" else None)


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_requests_change_no_models_unless_that_was_asked_for(served, way):
    module, address = (http_client, served.address) if way == "http" else (grpc_client, served.grpc)
    with module.InferenceServerClient(address) as client:
        for call in (
            client.get_model_repository_index,
            lambda: client.load_model("namer"),
            lambda: client.unload_model("namer"),
        ):
            with pytest.raises(InferenceServerException, match="--manage"):
                call()
    assert served.request("/v1/models/namer/rollback", b"")[0] == 403
    assert served.request("/v2/models/namer/ready")[0] == 200


NAMES = ["../outside", "../../outside", "/etc", "..", ".", "", "namer/../../outside", "namer\0", "{folder}/../outside"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_reaches_the_file_system(managed, name):
    name = name.format(folder=managed.folder)
    quoted = urllib.parse.quote(name, safe="")
    for path in (f"/v2/repository/models/{quoted}/load", f"/v1/models/{quoted}/predict", f"/v2/models/{quoted}/infer"):
        status, _, body = managed.request(path, b"{}")
        assert status in (400, 404, 405)
        assert json.loads(body)["error"]
    with grpc_client.InferenceServerClient(managed.grpc) as client:
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.load_model(name)
        assert {row.name for row in client.get_model_repository_index().models} == {"namer", "namer.image"}


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    """A service that loads models when asked, with a bundle outside of what it serves."""
    folder = tmp_path_factory.mktemp("managed")
    bundles.classify_bundle(folder / "models" / "namer")
    bundles.classify_bundle(folder / "outside")
    with service(folder / "models", "--manage") as running:
        running.folder = folder / "models"
        yield running


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/nowhere", "GET", 404), ("/v2/models/namer/infer", "GET", 405), ("/v2", "DELETE", 405)],
)
def test_paths_and_methods_there_are_not_have_an_error_in_json(served, path, method, status):
    found, _, body = served.request(path, method=method)
    assert found == status
    assert path in json.loads(body)["error"]


POST = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 16_384,
        POST % b"v2/models/namer/infer" + b"no length\r\n",
    ],
    ids=["line", "header", "head", "chunk"],
)
def test_what_is_no_http_is_told_so_in_json(served, sent):
    with connected(served.address) as opened:
        opened.sendall(sent)
        answer = HTTPResponse(opened)
        answer.begin()
        assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
        assert "no HTTP/1.1, or its head is more than the 16384 bytes" in json.loads(answer.read())["error"]
        assert closed(opened)


def test_what_is_no_http_after_an_answer_closes_the_connection_and_is_no_news(served):
    with connected(served.address) as opened:
        opened.sendall(POST % b"nowhere")
        answer = HTTPResponse(opened)
        answer.begin()
        assert (answer.status, answer.read()[:1]) == (404, b"{")
        opened.sendall(b"no length\r\n")
        assert closed(opened)
    assert served.request("/v2/health/ready")[0] == 200
    assert "Traceback" not in served.log()


def closed(opened):
    try:
        return opened.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("path", ["/v2/", "/v2/models/namer/", "//elsewhere.example/v2/"])
def test_no_answer_sends_anybody_to_where_a_header_says(served, path):
    status, headers, body = served.request(path, headers={"Host": "elsewhere.example"})
    assert (status, headers["location"]) == (404, None)
    assert "elsewhere" not in body.decode().replace(path, "")


def test_connections_beyond_the_limit_are_told_to_come_again(folder):
    with service(folder / "namer", "--connections", 3) as running, contextlib.ExitStack() as stack:
        host, port = running.address.split(":")
        for _ in range(3):
            opened = stack.enter_context(socket.create_connection((host, int(port)), timeout=LONG_S))
            opened.sendall(b"POST /v1/models/namer/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        status, headers, body = running.request("/v2/models/namer")
        assert (status, headers["retry-after"], json.loads(body)) == (503, "1", {"error": "too many connections"})
        stack.close()
        until(lambda: running.request("/v2/health/ready")[0] == 200)


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


def test_a_request_that_takes_too_long_is_answered_so_and_leaves_the_queue(folder, gate):
    with service(folder / "patient", gate=gate) as running:
        asking, answers = busy(running, gate)
        with pytest.raises(InferenceServerException, match=r"no answer within 0\.2 s"):
            infer(running, timeout=200_000)
        assert asking.is_alive()
        assert running.gauge("queue_depth", "patient") == 0
        gate.unlink()
        asking.join()
        assert len(answers) == 1


def test_requests_share_the_memory_they_may_fill_whichever_way_they_come(folder, gate):
    frame = bundles.picture("red", 400, 500)  # 600 kB
    words = folder / "patient", "--max-memory-mb", 1
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


def test_pictures_count_by_their_pixels(folder, gate):
    file = bundles.png("red", 1000, 1000)  # 3 MB
    with service(folder / "patient", "--max-memory-mb", 8, gate=gate) as running:
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


def test_nobody_waits_longer_than_the_service_allows(folder, gate):
    with service(folder / "patient", "--timeout", 0.3, gate=gate) as running:
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


def test_a_client_that_hangs_up_leaves_the_queue(folder, gate):
    with service(folder / "patient", gate=gate) as running:
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


@pytest.mark.parametrize(("name", "way"), [("SIGTERM", "http"), ("SIGTERM", "grpc"), ("SIGINT", "http")])
def test_what_is_under_way_is_finished_before_the_end(folder, gate, name, way):
    with service(folder / "patient", gate=gate) as running:
        asking, answers = busy(running, gate, way)
        running.send(name)
        until(lambda: refuses(running.address))
        assert asking.is_alive()
        gate.unlink()
        asking.join()
        assert len(answers) == 1
        assert running.process.wait(LONG_S) == 0


STOPPED = """
import os, signal, sys
from edgeinfer.cli import main
from edgeinfer.serve import {module}

async def stopped(*words, before={module}.{name}, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    return await before(*words, **more)

{module}.{name} = stopped
sys.exit(main(["serve", *sys.argv[1:], "--port", "0", "--grpc-port", "0"]))
"""


@pytest.mark.parametrize(("module", "name"), [("rpc", "start"), ("repository", "Repository.load")])
def test_a_service_told_to_stop_while_it_starts_stops_well_and_never_says_that_it_serves(folder, module, name):
    line = [sys.executable, "-c", STOPPED.format(module=module, name=name), folder / "namer"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def refuses(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=LONG_S).close()
    except ConnectionError:
        return True
    return False


def test_tls_and_a_token_guard_both_protocols(folder, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    words = ["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "key.pem", "--token-file", tmp_path / "token"]
    trusted = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    with service(folder / "namer", *words) as running:
        assert running.url.startswith("https://127.0.0.1:")
        asked = urllib.request.Request(running.url + "/v2", headers={"Authorization": "Bearer secret"})
        with urllib.request.urlopen(asked, timeout=LONG_S, context=trusted) as answer:
            assert json.loads(answer.read())["name"] == "edgeinfer"
        with pytest.raises(OSError, match="certificate verify failed"):
            urllib.request.urlopen(running.url + "/v2", timeout=LONG_S, context=ssl.create_default_context())
        host, port = running.address.split(":")
        opened = socket.create_connection((host, int(port)), timeout=LONG_S)
        with opened, contextlib.suppress(ConnectionError):
            opened.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"edgeinfer" not in opened.recv(1000)
        with grpc_client.InferenceServerClient(
            running.grpc, ssl=True, root_certificates=str(TLS / "cert.pem")
        ) as client:
            assert client.is_server_ready()
            item = grpc_client.InferInput("images", [1, 3, 32, 32], "FP32")
            item.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.float32))
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("namer", [item])
            assert (
                client.infer("namer", [item], headers={"authorization": "Bearer secret"}).as_numpy("logits").any() == 0
            )
        with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=LONG_S)


def test_who_does_not_come_to_the_end_of_a_handshake_is_hung_up_on(folder):
    words = ["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "key.pem", "--slow", "0.5"]
    trusted = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    with service(folder / "namer", *words) as running:
        host, port = running.address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as silent:  # asyncio itself waits for 60 s
            assert silent.recv(1) == b""

        def answered():
            """The status that comes back; this process may itself be too slow."""
            address = f"{running.url}/v2/health/live"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=LONG_S, context=trusted) as told:
                return told.status

        assert until(answered) == 200


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--tls-cert", "{tmp}/none.pem", "--tls-key", TLS / "key.pem"], 2, "none.pem cannot be used"),
        (["--tls-cert", TLS / "cert.pem", "--tls-key", "{tmp}/none.pem"], 2, "none.pem cannot be used"),
        (["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "cert.pem"], 2, "cert.pem cannot be used with the key"),
        (["--tls-cert", TLS / "cert.pem"], 2, "go together"),
        (["--token-file", "{tmp}"], 2, "cannot be read"),
        (["--token-file", "{tmp}/empty"], 2, "holds no token"),
        (["--token-file", "{tmp}/two"], 2, "holds no token"),
        (["--port", "70000"], 2, "port '70000'"),
        (["--max-body-mb", "0"], 2, "0"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1"),
        (["--host", "[::1]"], 1, "choose another with --host"),
        (["--host", 70 * "a"], 1, "choose another with --host"),
    ],
)
def test_what_it_is_started_with_is_checked_first(folder, tmp_path, unserved, words, code, told):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("one two\n")
    ended, _, said = unserved(folder / "namer", *(str(word).replace("{tmp}", str(tmp_path)) for word in words))
    assert (ended, said.count("error: "), "Traceback" in said) == (code, 1, False)
    assert told in said


def linked():
    """A link-local address of this machine, with its interface."""
    facts = Path("/proc/net/if_inet6")
    rows = [line.split() for line in facts.read_text().splitlines()] if facts.exists() else []
    for digits, *_, name in rows:
        if digits.startswith("fe80"):
            return f"{ipaddress.ip_address(int(digits, 16))}%{name}"
    return pytest.skip("no interface has a link-local address here")


def test_it_listens_on_a_link_local_address(folder):
    host = linked()
    with service(folder / "namer", "--host", host) as running:
        port = int(running.address.rpartition(":")[2])
        with socket.create_connection((host, port), timeout=LONG_S) as opened:
            opened.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            assert opened.recv(100).startswith(b"HTTP/1.1 200")
        with grpc.insecure_channel(f"[{host}]:{running.grpc.rpartition(':')[2]}") as channel:
            assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=LONG_S)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here is full")
def test_a_full_disk_under_its_words_does_not_keep_it_from_serving(folder, tmp_path):
    line = [sys.executable, "-m", "edgeinfer", "serve", folder / "namer", "--port", "0", "--no-grpc"]
    env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, Path("/dev/full").open("w") as full:
        told.bind(env["NOTIFY_SOCKET"])
        told.settimeout(1)
        with subprocess.Popen(line, env=env, stdout=full, stderr=full) as serving:
            try:
                assert until(lambda: serving.poll() is not None or heard(told)) == b"READY=1"
            finally:
                serving.terminate()
            assert serving.wait(LONG_S) == 0


def heard(told):
    """What systemd is told next; nothing, if that takes long."""
    with contextlib.suppress(TimeoutError):
        return told.recv(100)


def test_the_wheel_holds_the_page(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    page = {str(file.relative_to(ROOT)) for file in (ROOT / "edgeinfer" / "serve" / "page").iterdir()}
    assert {Path(file).name for file in page} >= {"index.html", "page.js", "page.css", "mark.svg"}
    assert page <= held
