"""How many may be connected at the same time, whether they speak or not."""

import asyncio
import contextlib
import errno
import gc
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from edgeinfer.serve.callers import Callers
from edgeinfer.serve.connections import BEYOND
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.refusals import Refusal
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import connected, service

TLS = Path(__file__).parent / "data" / "tls"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings


@pytest.fixture(scope="module")
def namer(tmp_path_factory):
    return bundles.classify_bundle(tmp_path_factory.mktemp("models") / "namer")


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
        for _ in range(2 + BEYOND):
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


def calls(channel):
    """What opens a call of this name, for messages that may be long in coming."""
    return lambda name, messages: channel.stream_stream(f"/inference.GRPCInferenceService/{name}")(messages)


@pytest.fixture
def silence():
    """Messages, and then none that come, but no end of them before the test's own."""
    over = threading.Event()

    def said(*messages):
        yield from messages
        over.wait(10 * LONG_S)

    yield said
    over.set()


def ended(call):
    """How a call without another answer ended."""
    with pytest.raises(grpc.RpcError) as told:
        next(call)
    return told.value.code(), told.value.details()


def infer_request():
    made = pb.ModelInferRequest(model_name="namer", raw_input_contents=[bytes(4 * 3 * bundles.SIDE**2)])
    made.inputs.add(name="images", datatype="FP32", shape=[1, 3, bundles.SIDE, bundles.SIDE])
    return made.SerializeToString()


@pytest.mark.parametrize("name", ["ModelInfer", "ModelStreamInfer"])
def test_a_call_that_is_silent_for_long_gives_its_place_to_one_that_needs_it(namer, silence, name):
    with service(namer, "--connections", 1, "--slow", 2) as running, grpc.insecure_channel(running.grpc) as channel:
        call, silent = calls(channel), []

        def gave_way():
            if not silent or silent[-1].done():
                silent.append(call(name, silence()))
            with contextlib.suppress(grpc.RpcError):
                assert next(call("ModelInfer", iter([infer_request()])))
            return silent[-1].done() and "its place was needed" in silent[-1].details()

        assert until(gave_way)
        told = "no message came in 2 s, and its place was needed"
        assert ended(silent[-1]) == (grpc.StatusCode.DEADLINE_EXCEEDED, told)


def test_a_call_at_work_keeps_its_place_the_next_is_told_when_to_come_again_and_health_is_answered(namer, tmp_path):
    gate = tmp_path / "gate"
    with (
        service(namer, "--connections", 1, "--slow", 2, gate=gate) as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        call = calls(channel)
        gate.touch()
        working = call("ModelInfer", iter([infer_request()]))
        # before another call wants its place, which it would lose if its message took 2 s on the way
        assert until(lambda: re.search(rb"busy_seconds{[^}]*} [1-9]", running.request("/metrics")[2]))
        time.sleep(2)
        late = refused(call("ModelMetadata", iter([b""])))
        assert late.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("grpc-retry-pushback-ms", "1000") in late.trailing_metadata()
        assert next(call("ServerReady", iter([b""]))) == b"\x08\x01"
        gate.unlink()
        assert next(working)


def refused(call):
    """The error of a call that found no place; None if it had one."""
    with pytest.raises(grpc.RpcError) as told:
        next(call)
    return told.value if "1 calls are under way" in told.value.details() else None


def test_a_stream_that_waits_does_not_hold_up_the_end(namer, silence):
    with service(namer) as running, grpc.insecure_channel(running.grpc) as channel:
        waiting = calls(channel)("ModelStreamInfer", silence(infer_request()))
        assert next(waiting)
        running.send("SIGTERM")
        assert ended(waiting) == (grpc.StatusCode.UNAVAILABLE, "the service is ending")


def test_without_the_token_no_message_is_waited_for_and_with_it_there_must_be_one(namer, silence, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with (
        service(namer, "--token-file", tmp_path / "token") as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        assert ended(calls(channel)("ModelInfer", silence()))[0] == grpc.StatusCode.UNAUTHENTICATED
        infer = channel.stream_stream("/inference.GRPCInferenceService/ModelInfer")
        code, told = ended(infer(iter([]), metadata=[("authorization", "Bearer secret")]))
        assert (code, told) == (grpc.StatusCode.INVALID_ARGUMENT, "the call came without its message")


# a client with two calls on one connection, asked again where a busy machine let that down: it must have both places
# at the moment when it is made to stand still
ASKER = """\
import sys, time, grpc
infer = grpc.insecure_channel(sys.argv[1]).unary_unary("/inference.GRPCInferenceService/ModelInfer")
asked = []
while True:
    asked = [one for one in asked if not one.done()]
    asked += [infer.future(bytes.fromhex(sys.argv[2])) for _ in range(2 - len(asked))]
    time.sleep(0.1)
"""


def test_a_client_that_stands_still_does_not_keep_the_places_of_its_calls(namer, tmp_path):
    gate = tmp_path / "gate"
    with (
        service(namer, "--connections", 2, "--slow", 2, "--timeout", 10 * LONG_S, gate=gate) as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")

        def answered():
            with contextlib.suppress(grpc.RpcError):
                return call(b"", timeout=LONG_S)

        gate.touch()
        asker = subprocess.Popen([sys.executable, "-c", ASKER, running.grpc, infer_request().hex()])
        try:
            assert until(lambda: not answered())
            asker.send_signal(signal.SIGSTOP)
            assert until(answered)
        finally:
            gate.unlink()
            asker.kill()
            asker.wait()


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


# a service that is refused so many connections by the system at first
LACKING = """\
import os, socket, sys
from edgeinfer.cli import main
accept, (number, times) = socket.socket.accept, map(int, sys.argv[1:3])
def poor(self):
    global times
    if times:
        times -= 1
        raise OSError(number, os.strerror(number))
    return accept(self)
socket.socket.accept = poor
sys.exit(main(["serve", *sys.argv[3:]]))
"""


# without files the one that is kept for that is tried too
@pytest.mark.parametrize(("number", "times", "told"), [(errno.ENOMEM, 1, "wait: the"), (errno.ENFILE, 2, "ulimit -n")])
def test_a_service_that_the_system_gives_no_connection_says_so_once_and_asks_again(namer, number, times, told):
    with service(namer, start=["-c", LACKING, str(number), str(times)]) as running:
        assert live(running.url) == 200
        assert until(lambda: told in running.log())
        assert running.log().count(told) == 1
        assert "Traceback" not in running.log()


@pytest.mark.parametrize("later", range(6))
def test_a_place_is_taken_from_a_call_whose_message_comes_at_that_moment_or_it_is_not(later):
    async def outcome():
        callers, message = Callers(Limits(connections=1, slow=0)), asyncio.get_running_loop().create_future()
        context, heard = SimpleNamespace(read=lambda: message), []

        async def call():
            with callers.place():
                try:
                    heard.append(await callers.message(context))
                except Refusal:
                    heard.append("sent away")
                await asyncio.sleep(3600)

        task = asyncio.ensure_future(call())
        for _ in range(6):
            await asyncio.sleep(0)
        message.set_result("its message")
        for _ in range(later):
            await asyncio.sleep(0)
        try:
            with callers.place():
                given = "its place is given"
        except Refusal:
            given = "it stays"
        for _ in range(6):
            await asyncio.sleep(0)
        task.cancel()
        return given, *heard

    found = asyncio.run(outcome())
    assert found in (("its place is given", "sent away"), ("it stays", "its message"))


def test_a_call_that_breaks_off_as_it_is_sent_away_leaves_no_line_in_the_log():
    async def logged():
        callers, told = Callers(Limits()), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        with contextlib.suppress(ConnectionError), callers.wait(stream=True):
            callers.end()
            raise ConnectionError
        gc.collect()
        return told

    assert asyncio.run(logged()) == []
