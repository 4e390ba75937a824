"""Who may come in, and who is hung up on: tokens, TLS, and senders that are slow."""

import contextlib
import json
import select
import socket
import ssl
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from helpers.patience import LONG_S, until
from helpers.service import service

TLS = Path(__file__).parent / "data" / "tls"


def test_a_token_is_asked_for_everywhere_but_at_the_health_checks(classifier, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with service(classifier, "--token-file", tmp_path / "token") as running:
        assert running.request("/v2/health/ready")[0] == 200
        assert running.request("/v2")[0] == 401
        said = {"Bearer secret": 200, "bearer secret": 200, "Bearer Secret": 401, "Basic secret": 401, "secret": 401}
        for words, status in said.items():
            assert running.request("/v2", headers={"Authorization": words})[0] == status
        with grpc_client.InferenceServerClient(running.grpc) as opened:
            assert opened.is_server_ready()
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                opened.get_server_metadata()
            assert opened.get_server_metadata(headers={"authorization": "Bearer secret"}).name == "edgeinfer"


def test_tls_and_a_token_guard_both_protocols(classifier, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    words = ["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "key.pem", "--token-file", tmp_path / "token"]
    trusted = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    with service(classifier, *words) as running:
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
                client.infer("classifier", [item])
            assert (
                client.infer("classifier", [item], headers={"authorization": "Bearer secret"}).as_numpy("logits").any()
                == 0
            )
        with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=LONG_S)


def test_who_does_not_come_to_the_end_of_a_handshake_is_hung_up_on(classifier):
    words = ["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "key.pem", "--slow", "0.5"]
    trusted = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    with service(classifier, *words) as running:
        host, port = running.address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as silent:  # asyncio itself waits for 60 s
            assert silent.recv(1) == b""

        def answered():
            """The status that comes back; this process may itself be too slow."""
            address = f"{running.url}/v2/health/live"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=LONG_S, context=trusted) as told:
                return told.status

        assert until(answered) == 200


def test_slow_senders_are_hung_up_on(classifier):
    with service(classifier, "--slow", 0.5) as running:
        host, port = running.address.split(":")
        kept = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"

        def heard(sent):
            """What is answered until it hangs up; this process may itself be too slow to begin with."""
            with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
                received = b""
                with contextlib.suppress(ConnectionError):
                    opened.sendall(sent)
                    while b"408" not in received and (part := opened.recv(4096)):
                        received += part
                return received

        heard(b"GET /v2 HTTP/1.1\r\nX-Slow: ")
        until(lambda: b"200 OK" in heard(kept + b"GET /v2 HTTP/1.1\r\nX-Slow: "))
        post = b"POST /v2/models/classifier/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf"
        until(lambda: b"408" in heard(post))
        until(lambda: b"200 OK" in heard(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"))


def test_a_sender_that_drips_is_told_so(classifier):
    with service(classifier, "--slow", 0.5) as running:
        host, port = running.address.split(":")

        def told():
            """What is answered to a body that comes byte by byte."""
            with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
                opened.sendall(b"POST /v2/models/classifier/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
                while not select.select([opened], [], [], 0.05)[0]:
                    with contextlib.suppress(ConnectionError):  # it has hung up since, and what it said is there
                        opened.sendall(b"x")
                with contextlib.suppress(ConnectionError):
                    return opened.recv(100)

        until(lambda: b"408" in (told() or b""))
