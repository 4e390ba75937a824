"""The service's log: whoever reads it, or does not, has no say in how requests are answered."""

import json
import logging
import os
import socket
import threading
from pathlib import Path

import pytest

from edgeinfer.cli import _log
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import service

TLS = Path(__file__).parent / "data" / "tls"
PIPE = 64 * 1024  # bytes that a pipe holds on Linux
REQUESTS = 40


def fill(running):
    """Have the service log more than its pipe takes: each request brings a traceback."""
    blue = bundles.png("blue")
    return [running.request("/v1/models/root/predict", blue)[0] for _ in range(REQUESTS)]


def test_a_log_that_nobody_reads_holds_up_no_request(tmp_path):
    with service(bundles.root_bundle(tmp_path / "root"), "--log-json") as running:
        with running.reading:
            assert set(fill(running)) == {500}
            assert running.request("/v2/health/ready")[0] == 200
        until(lambda: running.log().count("predict failed") == REQUESTS)
    assert len(running.log()) > 1.5 * PIPE
    assert all(json.loads(line)["message"] for line in running.lines)


def test_a_service_whose_log_nobody_reads_ends_well(tmp_path):
    with service(bundles.root_bundle(tmp_path / "root")) as running, running.reading:
        fill(running)
        running.send("SIGTERM")
        assert running.process.wait(LONG_S) == 0


def test_who_comes_to_grpc_without_tls_leaves_no_line_in_the_log(tmp_path):
    words = ["--tls-cert", TLS / "cert.pem", "--tls-key", TLS / "key.pem", "--log-json"]
    with service(bundles.classify_bundle(tmp_path / "namer"), *words) as running:
        host, port = running.grpc.split(":")
        with socket.create_connection((host, int(port)), timeout=LONG_S) as opened:
            opened.sendall(b"nonsense" * 100)
            assert opened.recv(1000) == b""
    assert [json.loads(line)["level"] for line in running.lines] == ["info"]


@pytest.fixture
def pipe(monkeypatch):
    """The ends of a pipe, as files; however slow the machine is, the end waits until it is read."""
    monkeypatch.setattr(_log, "PATIENCE_S", LONG_S)
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def said(pipe, count):
    """What is read of so many lines of the log, once all are handed over: their numbers, or their words."""
    (reader, writer), lines = pipe, []
    handler = _log.Background(writer.fileno())
    for number in range(count):
        handler.handle(logging.makeLogRecord({"msg": f"{number:099}"}))
    thread = threading.Thread(target=lambda: lines.extend(reader))
    thread.start()
    handler.finish()
    writer.close()
    thread.join(LONG_S)
    return [int(line) if line[:-1].isdecimal() else line[:-1] for line in lines]


def test_lines_of_the_log_beyond_those_that_may_wait_are_dropped_and_counted_in_their_place(pipe):
    count, place, counts = PIPE // 100 + 3 * _log.MOST, 0, []
    for one in said(pipe, count):
        if one == place:
            place += 1
        else:
            counts.append(int(one.removesuffix(" log lines were dropped: nobody read stderr")))
            place += counts[-1]
    assert (place, min(counts) > 0) == (count, True)


def test_the_end_of_the_service_waits_for_whoever_still_reads_its_log(pipe):
    assert said(pipe, _log.MOST) == list(range(_log.MOST))


def test_a_message_that_cannot_be_told_is_no_fault_of_who_logs_it(pipe):
    (reader, writer), handler = pipe, _log.Background(pipe[1].fileno())
    handler.handle(logging.makeLogRecord({"msg": "%d pictures", "args": ("many",)}))
    handler.finish()
    writer.close()
    assert reader.read().startswith("a log message cannot be told: %d format")


def test_a_caller_who_left_at_the_moment_of_the_answer_is_no_news(capfd):
    with _log.written(as_json=False):
        for name in ("ExecuteBatchError", "InternalError"):
            error = type(name, (Exception,), {})("in core")
            logging.getLogger("grpc._cython.cygrpc").error("%s raised", name, exc_info=error)
    told = capfd.readouterr().err
    assert ("InternalError" in told, "ExecuteBatchError" in told) == (True, False)
