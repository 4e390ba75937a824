"""Health that means something: an engine that gives NaN or hangs turns it red, and starves systemd's watchdog."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from edgeinfer.serve import notify
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.metrics import Metrics
from edgeinfer.serve.repository import Repository
from edgeinfer.serve.running import DECODERS
from edgeinfer.serve.versions import Options
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import SPOILED, service


def ask(running, name, array):
    item = http_client.InferInput("images", list(array.shape), "FP32")
    item.set_data_from_numpy(array)
    with http_client.InferenceServerClient(running.address, network_timeout=LONG_S) as client:
        return client.infer(name, [item]).as_numpy("logits")


def health(running, *names):
    return [running.request(f"/v2/{name}")[0] for name in ("health/live", "health/ready", *names)]


BLUE = np.stack([np.zeros((32, 32)), np.zeros((32, 32)), np.ones((32, 32))])[None].astype(np.float32)


def test_outputs_that_are_nan_turn_health_red_if_the_engine_is_to_blame(tmp_path):
    bundle, gate = bundles.root_bundle(tmp_path / "root"), tmp_path / "gate"
    with service(bundle, start=("-c", SPOILED, gate)) as running:
        assert np.isnan(ask(running, "root", BLUE)).any()
        until(lambda: "suspect and passes its self-test" in running.log())
        assert health(running, "models/root/ready") == [200, 200, 200]
        gate.touch()  # from now on the engine gives NaN for its golden sample as well

        def red():
            """How health is after one more answer, of which one a second is looked at."""
            with contextlib.suppress(InferenceServerException):
                ask(running, "root", BLUE)
            return health(running, "models/root/ready") == [503, 503, 503]

        until(red)
        with grpc_client.InferenceServerClient(running.grpc) as client:
            assert not client.is_server_ready()
            assert not client.is_model_ready("root")
        (row,) = json.loads(running.request("/v1/models")[2])["models"]
        assert (row["state"], "NaN" in row["reason"]) == ("UNAVAILABLE", True)
        assert 'edgeinfer_model_sound{model="root"} 0.0' in running.request("/metrics")[2].decode()
        until(lambda: "fails its self-test" in running.log())


def test_a_picture_that_gives_nan_is_an_error_and_makes_the_engine_suspect(tmp_path):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    with service(bundle, start=("-c", SPOILED, gate)) as running:
        gate.touch()
        status, _, body = running.request("/v1/models/namer/predict", (bundle / "golden" / "0.png").read_bytes())
        assert (status, "NaN" in json.loads(body)["error"]) == (500, True)
        until(lambda: health(running) == [503, 503])


@pytest.mark.parametrize("folder", ["gone", "of another version, which is refused"])
def test_an_engine_is_judged_by_its_own_samples_whatever_is_in_its_folder_now(tmp_path, folder):
    bundle = bundles.root_bundle(tmp_path / "root")
    with service(bundle) as running:
        if folder == "gone":
            shutil.rmtree(bundle)
        else:
            cv2.imwrite(str(bundle / "golden" / "0.png"), bundles.picture("blue"))
            (bundle / "model.json").write_text((bundle / "model.json").read_text().replace("red", "scarlet"))
            running.send("SIGHUP")
            until(lambda: "version 1 stays" in running.log())
        assert np.isnan(ask(running, "root", BLUE)).any()
        until(lambda: "self-test" in running.log().rpartition("version 1")[2])
        assert "suspect and passes its self-test" in running.log()
        assert health(running, "models/root/ready") == [200, 200, 200]


# a service whose engines fail, as no library of theirs says, for as long as a file stands
BROKEN = """\
import sys
from pathlib import Path
from edgeinfer.backends import ort
from edgeinfer.cli import main
gate, run = Path(sys.argv[1]), ort.Engine.run
def broken(engine, inputs):
    if gate.exists():
        raise RuntimeError("broken")
    return run(engine, inputs)
ort.Engine.run = broken
sys.exit(main(["serve", *sys.argv[2:]]))
"""


def test_an_engine_that_fails_in_a_way_nobody_knows_turns_health_red(tmp_path):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    with service(bundle, start=["-c", BROKEN, str(gate)]) as running:
        gate.touch()
        with pytest.raises(InferenceServerException, match="the model failed: RuntimeError"):
            ask(running, "namer", BLUE)
        until(lambda: health(running, "models/namer/ready") == [503, 503, 503])


def test_a_bundle_whose_engine_fails_in_a_way_nobody_knows_stops_no_other(tmp_path):
    first, second = (bundles.classify_bundle(tmp_path / name) for name in ("first", "second"))
    gate = tmp_path / "gate"
    gate.touch()
    once = BROKEN.replace("        raise", "        gate.unlink()\n        raise")
    with service(first, second, start=["-c", once, str(gate)]) as running:
        rows = json.loads(running.request("/v1/models")[2])["models"]
        assert [(row["name"], row["state"]) for row in rows] == [("first", "UNAVAILABLE"), ("second", "READY")]
        assert rows[0]["reason"] == "RuntimeError: broken"
    assert "RuntimeError: broken" in running.log()


def test_a_bundle_whose_name_is_no_text_is_told_among_the_others(tmp_path):
    bundles.classify_bundle(tmp_path / "namer")
    bundles.classify_bundle(tmp_path / "odd").rename(tmp_path / os.fsdecode(b"odd\xff"))
    with service(tmp_path, "--manage") as running:
        rows = {row["name"]: row for row in json.loads(running.request("/v1/models")[2])["models"]}
        assert {name: row["state"] for name, row in rows.items()} == {"namer": "READY", r"odd\udcff": "UNAVAILABLE"}
        assert "is not UTF-8" in rows[r"odd\udcff"]["reason"]
        with grpc_client.InferenceServerClient(running.grpc) as client:
            assert len(client.get_model_repository_index().models) == 4


def test_a_stuck_worker_turns_health_red_and_starves_the_watchdog(tmp_path):
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(LONG_S)
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
    gate, bundle = tmp_path / "gate", bundles.classify_bundle(tmp_path / "patient")
    with listening, service(bundle, "--stuck", 0.3, env=env, gate=gate) as running:
        assert [listening.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        gate.touch()
        long = threading.Thread(target=ask, args=(running, "patient", BLUE))
        long.start()
        until(lambda: health(running, "models/patient/ready") == [503, 503, 503])
        drained(listening)
        time.sleep(0.5)  # ten times as long as a sign of life is due
        told = drained(listening)
        assert health(running) == [503, 503]
        assert len(told) <= 1  # one may have been on its way
        gate.unlink()
        long.join()
        until(lambda: health(running, "models/patient/ready") == [200, 200, 200])
        assert listening.recv(100) == b"WATCHDOG=1"


def test_words_to_a_systemd_that_stands_still_hold_up_nobody(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify.say("READY=1")
        thread = threading.Thread(target=lambda: until(lambda: not notify.say("WATCHDOG=1")), daemon=True)
        thread.start()
        thread.join(LONG_S)
        assert not thread.is_alive()


def drained(listening):
    """What has come so far."""
    told = []
    listening.setblocking(False)
    try:
        while True:
            told.append(listening.recv(100))
    except BlockingIOError:
        listening.settimeout(LONG_S)
        return told


class TemperatureOfGpu:
    """A sensor of the GPU it was asked for."""

    def __init__(self, gpu):
        self.degrees = {0: 40, 1: 51}[gpu]

    def read(self):
        return {"gpu.temperature_c": self.degrees}


@pytest.mark.parametrize(("device", "degrees"), [("auto", 40.0), ("gpu:1", 51.0)])
def test_the_gpu_whose_sensors_are_told_is_the_one_that_serves(monkeypatch, device, degrees):
    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda *, gpu: [TemperatureOfGpu(gpu)])
    told = Metrics(Repository([], Options(device=device), Limits())).text()
    assert f"edgeinfer_gpu_temperature_celsius {degrees}\n".encode() in told


# a service whose version of this number never comes to the end of its opening, and which waits little at its end
HANGING = """\
import sys, time
from dataclasses import replace
from edgeinfer.cli import main, serve
from edgeinfer.serve import versions
bounds, opened = serve._bounds, versions.opened
def hanging(number, *rest):
    while number == {number}:
        print("it hangs", file=sys.stderr, flush=True)
        time.sleep(1)
    return opened(number, *rest)
serve._bounds, versions.opened = lambda args: replace(bounds(args), drain=0.5), hanging
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_new_version_that_hangs_as_it_is_opened_holds_up_neither_requests_nor_the_end(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    with service(bundle, start=["-c", HANGING.format(number=2)]) as running:
        bundles.new_version(bundle)
        running.send("SIGHUP")
        until(lambda: "it hangs" in running.log())
        assert running.request("/v2/models/namer/ready")[0] == 200


def test_a_first_version_that_hangs_as_it_is_opened_does_not_hold_up_the_end(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    line = [sys.executable, "-c", HANGING.format(number=1), bundle, "--port", "0", "--no-grpc"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as starting:
        try:
            assert starting.stderr.readline() == "it hangs\n"
            starting.terminate()
            assert starting.wait(LONG_S) == 0
        finally:
            starting.kill()


# a service that, as long as a file stands, does not come beyond a function, and has another file say so
SLOW = """\
import sys, time
from pathlib import Path
from edgeinfer import pictures
from edgeinfer.cli import main
from edgeinfer.serve import reading, versions
gate, step = Path(sys.argv[1]), {step}
def slow(*given):
    while gate.exists():
        gate.with_name("there").touch()
        time.sleep(0.01)
    return step(*given)
{step} = slow
sys.exit(main(["serve", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(("version", "status"), [("", 200), ("/versions/1", 404)])
def test_a_picture_whose_version_is_replaced_while_it_is_decoded_goes_to_the_next_unless_it_asked(
    tmp_path, version, status
):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    picture = bundles.png("red")
    asked = f"/v2/models/namer.image{version}/infer", picture, {"Inference-Header-Content-Length": "0"}
    start = ["-c", SLOW.format(step="pictures.decode"), str(gate)]
    with service(bundle, "--manage", start=start) as running, ThreadPoolExecutor() as threads:
        gate.touch()
        answer = threads.submit(running.request, *asked)
        until((tmp_path / "there").exists)
        bundles.new_version(bundle)
        assert running.request("/v2/repository/models/namer/load", b"")[0] == 200
        gate.unlink()
        assert answer.result()[0] == status


def test_a_long_request_whose_version_is_closed_while_it_is_read_goes_to_the_next(tmp_path):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    item = {"name": "images", "datatype": "FP32", "shape": BLUE.shape, "data": (BLUE + 1 / 3).ravel().tolist()}
    asked = "/v2/models/namer/infer", json.dumps({"inputs": [item]}, indent=9).encode()
    start = ["-c", SLOW.format(step="reading.loads"), str(gate)]
    with service(bundle, "--manage", start=start) as running, ThreadPoolExecutor() as threads:
        gate.touch()
        answer = threads.submit(running.request, *asked)
        until((tmp_path / "there").exists)
        for told in ("another", "a third"):
            bundles.new_version(bundle, told)
            assert running.request("/v2/repository/models/namer/load", b"")[0] == 200
        gate.unlink()
        status, _, body = answer.result()
    assert (status, json.loads(body)["model_version"]) == (200, "3")


@pytest.mark.parametrize("step", ["versions.digest", "versions.opened"])
def test_a_load_holds_up_nobody_and_goes_on_when_its_client_has_gone(tmp_path, step):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    start = ["-c", SLOW.format(step=step), str(gate)]
    with service(bundle, "--manage", start=start) as running, grpc.insecure_channel(running.grpc) as channel:
        gate.touch()
        bundles.new_version(bundle)
        load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
        call = load.future(pb.RepositoryModelLoadRequest(model_name="namer").SerializeToString())
        until((tmp_path / "there").exists)
        call.cancel()
        assert health(running, "models/namer/ready") == [200, 200, 200]
        gate.unlink()
        until(lambda: b'edgeinfer_model_version{model="namer"} 2.0' in running.request("/metrics")[2])


# a service whose engines fail, and whose tests of them wait, for as long as a file stands; others say that one waits,
# and is through
DOUBTED = """\
import sys, time
from pathlib import Path
from edgeinfer import golden
from edgeinfer.backends import ort
from edgeinfer.cli import main
gate, run, check = Path(sys.argv[1]), ort.Engine.run, golden.check
def failing(engine, inputs):
    if gate.exists():
        raise RuntimeError("broken")
    return run(engine, inputs)
def waiting(*given):
    while gate.exists():
        gate.with_name("there").touch()
        time.sleep(0.01)
    try:
        return check(*given)
    finally:
        gate.with_name("through").touch()
ort.Engine.run, golden.check = failing, waiting
sys.exit(main(["serve", *sys.argv[2:]]))
"""


def test_of_a_version_that_is_closed_while_it_is_tested_no_failure_is_told(tmp_path):
    bundle, gate = bundles.classify_bundle(tmp_path / "namer"), tmp_path / "gate"
    with service(bundle, "--manage", start=["-c", DOUBTED, str(gate)]) as running:
        gate.touch()
        assert running.request("/v1/models/namer/predict", bundles.png("red"))[0] == 500
        until((tmp_path / "there").exists)
        assert running.request("/v2/repository/models/namer/unload", b"", method="POST")[0] == 200
        (tmp_path / "through").unlink()
        gate.unlink()
        until((tmp_path / "through").exists)
        assert running.request("/v2/health/live")[0] == 200
    assert "self-test" not in running.log()


# a service one of whose sensors never answers, and which is tired of it soon
SILENT = """\
import sys, time
from edgeinfer.cli import main
from edgeinfer.profiling import sensors
from edgeinfer.serve import service
class Silent:
    def read(self):
        time.sleep(3600)
sensors.here, service.SCRAPE_S = lambda **_: [Silent()], 0.1
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_sensor_that_hangs_holds_up_neither_pictures_nor_the_end(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    picture = bundles.png("red", 48, 64)
    with service(bundle, start=["-c", SILENT]) as running:
        scrapes = [running.request("/metrics") for _ in range(DECODERS + 1)]
        assert {status for status, _, _ in scrapes} == {503}
        assert b"sensor" in scrapes[0][2]
        assert running.request("/v1/models/namer/predict", picture)[0] == 200
