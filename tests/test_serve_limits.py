"""What keeps a service safe that runs for months: what a request may be, and what it may reach."""

import asyncio
import contextlib
import json
import re
import socket
import urllib.parse
import urllib.request
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


def test_limits_beyond_what_grpc_can_count_are_the_most_that_it_can(folder):
    with (
        service(folder, "--max-body-mb", 2048, "--slow", 3_000_000) as running,
        grpc_client.InferenceServerClient(running.grpc) as client,
    ):
        assert client.is_server_ready()
