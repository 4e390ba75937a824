"""What the service does beside its event loop."""

import asyncio
import gc
import gzip
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from edgeinfer.cli import main
from edgeinfer.errors import ServiceError
from edgeinfer.serve.daemons import DaemonThreads
from edgeinfer.serve.faces import Work
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.refusals import Refusal
from edgeinfer.serve.running import DECODERS
from edgeinfer.serve.service import Service
from helpers import bundles
from helpers.patience import until
from helpers.service import service

# a service that can start no thread for as long as a file stands, and says so on stderr
THREADLESS = """\
import sys, threading
from pathlib import Path
from edgeinfer.cli import main
from edgeinfer.errors import ServiceError
gate, start = Path(sys.argv[1]), threading.Thread.start
def refused(thread):
    if gate.exists():
        print("no thread for", thread.name, file=sys.stderr)
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refused
sys.exit(main(["serve", *sys.argv[2:]]))
"""


def test_work_that_no_thread_could_be_started_for_is_not_waited_for(monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    async def tried():
        threads = DaemonThreads()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(Refusal, match="no more threads"):
                await threads.run(int)
        await threads.settle(None)  # until all is done

    asyncio.run(tried())


def test_a_service_that_can_start_no_thread_answers_all_the_same_and_ends_well(detector, tmp_path):
    gate = tmp_path / "gate"
    picture, packed = (detector / "golden" / "0.png").read_bytes(), {"content-encoding": "gzip"}
    with service(detector, "--camera", "door=rtsp://127.0.0.1:9/none", start=("-c", THREADLESS, gate)) as running:
        gate.touch()
        path = "/v1/models/detector/predict"
        asked = [(path, picture), (f"{path}?annotate=1", picture), (path, gzip.compress(picture), packed)]
        assert [running.request(*one)[0] for one in asked] == [200, 200, 200]
        status, headers, body = running.request("/metrics")
        assert (status, headers["Retry-After"], "threads" in json.loads(body)["error"]) == (503, "1", True)
        running.send("SIGHUP")
        until(lambda: "folders cannot be looked at" in running.log())
    assert "Traceback" not in running.log()


def test_an_engine_is_not_to_blame_where_no_thread_could_be_started_to_test_it(tmp_path):
    gate, blue = tmp_path / "gate", np.zeros((1, 3, 32, 32))
    blue[0, 2] = 1  # gives NaN
    item = {"name": "images", "shape": blue.shape, "datatype": "FP32", "data": blue.ravel().tolist()}
    with service(bundles.root_bundle(tmp_path / "root"), start=("-c", THREADLESS, gate)) as running:
        gate.touch()
        assert running.request("/v2/models/root/infer", json.dumps({"inputs": [item]}).encode())[0] == 200
        until(lambda: "no thread for daemon" in running.log())
        assert running.request("/v2/health/ready")[0] == 200
        gate.unlink()
        until(lambda: "suspect and passes its self-test" in running.log())


@pytest.fixture
def decoders():
    """The threads that decode pictures for services which this test has begun."""
    others = set(threading.enumerate())
    return lambda: [one for one in {*threading.enumerate()} - others if one.name.startswith("decode_")]


def test_a_start_without_threads_enough_is_one_clear_error(classifier, monkeypatch, capsys, decoders):
    start = threading.Thread.start

    def refused(thread):
        if thread.name == "decode_2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert main(["serve", str(classifier), "--port=0", "--grpc-port=0"]) == 1
    assert capsys.readouterr().err.startswith("error: no more threads can be started\nhint: ")
    until(lambda: not decoders())


def test_a_start_that_fails_ends_its_threads(classifier, monkeypatch, capsys, decoders):
    def fail(*_):
        raise ServiceError(f"{len(decoders())} threads are there")

    monkeypatch.setattr("edgeinfer.serve.running._listen", fail)
    gc.disable()  # which ends them too, sometime
    try:
        assert main(["serve", str(classifier), "--port=0", "--grpc-port=0"]) == 1
        until(lambda: not decoders())
    finally:
        gc.enable()
    assert f"error: {DECODERS} threads are there" in capsys.readouterr().err


@pytest.mark.parametrize("steps", range(8))
def test_a_request_cancelled_at_any_moment_about_the_end_of_its_decoding_is_over(steps):
    station = SimpleNamespace(check_room=list, submit=id, withdraw=id)
    found = SimpleNamespace(name="namer.image", asked="", version=SimpleNamespace(station=station))
    repository = SimpleNamespace(find=lambda *_: found)
    metrics = SimpleNamespace(noting=id, answered=lambda *_: None)

    async def cancelled():
        asked, decoded = Service(repository, Limits(), metrics, None), asyncio.get_running_loop().create_future()
        asked.off_loop = lambda _: decoded
        request = asyncio.ensure_future(asked.see("namer.image", list))
        await asyncio.sleep(0.01)
        decoded.set_result(Work("image bgr", np.zeros((1, 1, 3), np.uint8)))
        for _ in range(steps):
            await asyncio.sleep(0)
        assert request.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        return request.cancelled()

    assert asyncio.run(cancelled())
