"""How many may be connected at the same time, whether they speak or not."""

import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest

from edgeinfer.serve.connections import CROWD
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import service

TLS = Path(__file__).parent / "data" / "tls"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings


@pytest.fixture(scope="module")
def namer(tmp_path_factory):
    return bundles.classify_bundle(tmp_path_factory.mktemp("models") / "namer")


def connected(address):
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=LONG_S)


def heard(opened):
    """The first thing that comes over a connection; empty if it is closed."""
    try:
        return opened.recv(9)
    except ConnectionError:
        return b""


def live(url, context=None):
    try:
        with urllib.request.urlopen(f"{url}/v2/health/live", timeout=LONG_S, context=context) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


@pytest.mark.parametrize("tls", [False, True])
def test_who_says_nothing_takes_a_place_too_and_beyond_the_crowd_nobody_is_let_in(namer, tls):
    words = ["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "key.pem"] if tls else []
    trusted = ssl.create_default_context(cafile=str(TLS / "cert.pem")) if tls else None
    with service(namer, "--connections", 2, "--slow", LONG_S, *words) as running, contextlib.ExitStack() as silent:
        for _ in range(2 + CROWD):
            silent.enter_context(connected(running.address))
        with connected(running.address) as late:
            assert heard(late) == b""
        assert live(running.url, trusted) == 0
        silent.close()
        assert until(lambda: live(running.url, trusted)) == 200


def test_grpc_lets_no_more_in_than_are_allowed_and_more_once_there_is_room(namer):
    def let_in():
        opened = connected(running.grpc)
        opened.sendall(PREFACE)
        if heard(opened):
            return opened
        opened.close()
        return None

    with service(namer, "--connections", 3) as running:
        inside = [let_in() for _ in range(3)]
        assert all(inside)
        assert let_in() is None
        inside.pop().close()
        inside.append(until(let_in))
        for opened in inside:
            opened.close()
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert call(b"", timeout=LONG_S, wait_for_ready=True) == b"\x08\x01"


# a service that gives up idle connections of gRPC sooner
HASTY = """\
import sys
from edgeinfer.cli import main
from edgeinfer.serve import rpc
rpc.IDLE_S = 0.2
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_grpc_connection_without_a_call_is_given_up_and_its_client_does_not_notice(namer):
    with service(namer, start=["-c", HASTY]) as running:
        with connected(running.grpc) as idle:
            idle.sendall(PREFACE)
            while heard(idle):
                continue
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert call(b"", timeout=LONG_S) == b"\x08\x01"
            states = []
            channel.subscribe(states.append)
            until(lambda: states and states[-1] is grpc.ChannelConnectivity.IDLE)
            assert call(b"", timeout=LONG_S) == b"\x08\x01"


# a client with two streams on one connection
WATCHER = """\
import sys, time, grpc
watch = grpc.insecure_channel(sys.argv[1]).unary_stream("/grpc.health.v1.Health/Watch")
streams = [watch(b""), watch(b"")]
print(*map(next, streams), flush=True)
time.sleep(3600)
"""


def test_a_client_that_stands_still_in_its_streams_does_not_keep_their_places(namer):
    line = [sys.executable, "-c", WATCHER]
    with (
        service(namer, "--connections", 2, "--slow", 2) as running,
        subprocess.Popen([*line, running.grpc], stdout=subprocess.PIPE, text=True) as watcher,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")

        def answered():
            with contextlib.suppress(grpc.RpcError):
                return call(b"", timeout=LONG_S)

        try:
            assert watcher.stdout.readline()
            assert answered() is None
            watcher.send_signal(signal.SIGSTOP)
            assert until(answered)
        finally:
            watcher.kill()


# a service that may have few files open
POOR = """\
import resource, sys
from edgeinfer.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_service_without_files_to_spare_hangs_up_and_says_so_once(namer):
    words = ["--connections", 500, "--slow", LONG_S]
    with service(namer, *words, start=["-c", POOR]) as running, contextlib.ExitStack() as many:
        late = [many.enter_context(connected(running.address)) for _ in range(200)][-1]
        assert heard(late) == b""
        until(lambda: "ulimit -n" in running.log())
        assert running.log().count("ulimit -n") == 1
        assert "Traceback" not in running.log()
        many.close()
        assert until(lambda: live(running.url)) == 200
