"""The process of the service: what it is started with, what it tells systemd and its log, and how it stops."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import uvicorn

from edgeinfer.cli import main
from edgeinfer.errors import ServiceError
from edgeinfer.serve.connections import ListeningSocket, protocol, too_many
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.running import Running, _Server
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import service

TLS = Path(__file__).parent / "data" / "tls"


@pytest.mark.parametrize("name", ["WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"])
def test_variables_that_are_meant_for_other_services_are_not_heeded(detector, name):
    with service(detector, env={name: "many"}) as running:
        assert running.request("/v2/health/ready")[0] == 200


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--tls-cert", "{tmp}/none.pem", "--tls-key", TLS / "key.pem"], 2, "none.pem cannot be used"),
        (["--tls-cert", TLS / "cert.pem", "--tls-key", "{tmp}/none.pem"], 2, "none.pem cannot be used"),
        (["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "cert.pem"], 2, "cert.pem cannot be used with the key"),
        (["--tls-cert", TLS / "cert.pem"], 2, "go together"),
        (["--token-file", "{tmp}"], 2, "cannot be read: Is a directory\n"),
        (["--token-file", "{tmp}/empty"], 2, "holds no token"),
        (["--token-file", "{tmp}/two"], 2, "holds no token"),
        (["--port", "70000"], 2, "port '70000'"),
        (["--max-body-mb", "0"], 2, "0"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1"),
        (["--host", "[::1]"], 1, "choose another with --host"),
        (["--host", 70 * "a"], 1, "choose another with --host"),
    ],
)
def test_what_it_is_started_with_is_checked_first(classifier, tmp_path, unserved, words, code, told):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("one two\n")
    ended, _, said = unserved(classifier, *(str(word).replace("{tmp}", str(tmp_path)) for word in words))
    assert (ended, said.count("error: "), "Traceback" in said) == (code, 1, False)
    assert told in said


@pytest.mark.parametrize("word", ["--port", "--grpc-port"])
def test_a_port_that_is_taken_is_one_clear_error(classifier, unserved, word):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"error: cannot listen on 127.0.0.1:{port}: Address already in use\nhint: choose another with {word}\n"
        assert unserved(classifier, word, port) == (1, "", told)


def test_one_port_for_both_protocols_is_one_clear_error(classifier, unserved):
    with socket.socket() as kept:
        # so that nobody else gets the port; who listens at it may still share it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        code, _, told = unserved(classifier, "--port", port, "--grpc-port", port)
    assert (code, told.count("\n"), "choose another with --grpc-port" in told) == (1, 2, True)


def linked():
    """A link-local address of this machine, with its interface."""
    facts = Path("/proc/net/if_inet6")
    rows = [line.split() for line in facts.read_text().splitlines()] if facts.exists() else []
    for digits, *_, name in rows:
        if digits.startswith("fe80"):
            return f"{ipaddress.ip_address(int(digits, 16))}%{name}"
    return pytest.skip("no interface has a link-local address here")


def test_it_listens_on_a_link_local_address(classifier):
    host = linked()
    with service(classifier, "--host", host) as running:
        port = int(running.address.rpartition(":")[2])
        with socket.create_connection((host, port), timeout=LONG_S) as opened:
            opened.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            assert opened.recv(100).startswith(b"HTTP/1.1 200")
        with grpc.insecure_channel(f"[{host}]:{running.grpc.rpartition(':')[2]}") as channel:
            assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=LONG_S)


def test_a_start_that_fails_as_its_end_is_asked_for_is_told(classifier, unserved, monkeypatch):
    async def failing(starting):
        starting._stop.set()
        raise ServiceError("no model can be served")

    monkeypatch.setattr(Running, "_load", failing)
    assert unserved(classifier)[2].startswith("error: no model can be served\n")


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
def test_a_service_told_to_stop_while_it_starts_stops_well_and_never_says_that_it_serves(classifier, module, name):
    line = [sys.executable, "-c", STOPPED.format(module=module, name=name), classifier]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_systemd_is_told_and_its_watchdog_fed(classifier, tmp_path):
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(LONG_S)
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with service(classifier, env=env) as running:
        told = [listening.recv(100).decode() for _ in range(3)]
        assert told == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
        running.send("SIGHUP")
        while told[-1] in ("READY=1", "WATCHDOG=1"):
            told.append(listening.recv(100).decode())
        # systemd believes a reload only with the time it began
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", told[-1])
        while told[-1] != "READY=1":
            told.append(listening.recv(100).decode())
        running.send("SIGTERM")
        while told[-1] != "STOPPING=1":
            told.append(listening.recv(100).decode())
    listening.close()


# a service that is told to look at its folders again while it opens its first model
HASTY = """\
import os, signal, sys, threading
from edgeinfer.cli import main
from edgeinfer.serve import versions
from edgeinfer.serve.repository import Repository
looked, opened, reload = threading.Event(), versions.opened, Repository.reload
def held(*given):
    os.kill(os.getpid(), signal.SIGHUP)
    looked.wait()
    return opened(*given)
async def reloaded(repository):
    await reload(repository)
    looked.set()
versions.opened, Repository.reload = held, reloaded
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_systemd_hears_of_no_reload_before_the_start_is_over(classifier, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(LONG_S)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with service(classifier, env=env, start=("-c", HASTY)):
            assert listening.recv(100) == b"READY=1"
        assert listening.recv(100) == b"STOPPING=1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here is full")
def test_a_full_disk_under_its_words_does_not_keep_it_from_serving(classifier, tmp_path):
    line = [sys.executable, "-m", "edgeinfer", "serve", classifier, "--port", "0", "--no-grpc"]
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


def test_a_name_of_two_lines_forges_no_line_of_the_log(detector):
    odd = detector.rename(detector.with_name("a\n2026-01-01 00:00:00,000 ERROR forged"))
    with service(odd, "--no-grpc") as running:
        assert running.request("/v2/health/ready")[0] == 200
    assert running.told.startswith("serving a 2026-01-01 00:00:00,000 ERROR forged on http://")
    assert [line for line in running.lines if line.startswith("2026-01-01 00:00:00,000 ERROR")] == []


def test_the_log_can_be_json_and_holds_no_pictures(classifier):
    with service(classifier, "--log-json") as running:
        running.request("/v1/models/classifier/predict", bundles.png())
        host, port = running.address.split(":")
        upgrade = b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        for sent in (b"nonsense\r\n\r\n", upgrade):
            with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
                opened.sendall(sent)
                assert opened.recv(100)
    lines = [json.loads(line) for line in running.log().splitlines()]
    assert any("is served" in line["message"] for line in lines)
    assert all(set(line) >= {"time", "level", "message"} for line in lines)
    assert max(len(line["message"]) for line in lines) < 300


def test_a_program_that_serves_has_its_own_log_back(tmp_path, capsys):
    def states():
        loggers = [logging.getLogger(name) for name in (None, "edgeinfer", "uvicorn")]
        return [(one.handlers[:], one.level, one.propagate) for one in loggers]

    before = states()
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert states() == before


def test_the_port_is_closed_even_if_uvicorn_leaves_it_open(tmp_path, monkeypatch):
    async def shutdown(*_, **__):
        """As those releases that forget it when the end comes during the start."""

    monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0", "--no-grpc"]) == 1
    assert [one for one in gc.get_objects() if isinstance(one, ListeningSocket) and one.fileno() >= 0] == []


def http_server():
    """The service's, without a port yet."""
    limits = Limits()
    config = uvicorn.Config(too_many, log_config=None, lifespan="off", ws="none", http=protocol(limits))
    config.load()
    server = _Server(config, limits.slow)
    server.lifespan = config.lifespan_class(config)
    return server


def test_a_connection_that_is_only_just_let_in_as_it_ends_does_not_hold_it_up():
    async def ended():
        server = http_server()
        await server.startup(sockets=[])
        await server.shutdown()
        near, far = socket.socketpair()
        with near:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(server._connection, far)
            closing = transport.is_closing()
            transport.abort()
            await asyncio.sleep(0.01)
        return closing

    assert asyncio.run(ended())


def test_who_is_still_in_a_handshake_does_not_hold_up_the_end():
    class Listening:
        """As asyncio's, from Python 3.12 on, while somebody does not come to the end of a handshake."""

        closed = False

        def close(self):
            self.closed = True

        async def wait_closed(self):
            await asyncio.Event().wait()

    async def ended(listening):
        server = http_server()
        await server.startup(sockets=[])
        server.servers.append(listening)
        await asyncio.wait_for(server.shutdown(), LONG_S)
        return listening.closed

    assert asyncio.run(ended(Listening()))


def test_it_needs_none_of_the_heavy_libraries():
    heavy = "('torch', 'cv2', 'onnxruntime')"
    code = f"import sys; from edgeinfer.serve import running; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
