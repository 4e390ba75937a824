"""What the service adds to its pipeline, and what it bears.

Throughput and latency take turns with the bare pipeline in this process; ratios of one run are what counts. Clients and
pipeline keep freed memory as the service does: fresh pages for tensors of megabytes cost more than moving them.
Usage: python benchmarks/serve.py [--seconds S] [--rounds N] [--requests N] [--json FILE]
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import shared_memory

import edgeinfer
from edgeinfer.serve.heap import Heap
from edgeinfer_export import graphs
from edgeinfer_export.export import Options, export, write_bundle

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cpu import context

from helpers import bundles
from helpers.fullsize import resnet50
from helpers.service import service

CLIENTS = 8


def tensor_for(spec):
    shape = spec.inputs[0].at(1)
    return np.random.default_rng(0).random(shape, np.float32)


def asked(module, spec, array):
    given = module.InferInput(spec.inputs[0].name, list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    outputs = [module.InferRequestedOutput(spec.outputs[0].name)]
    return [given], outputs


def shared(running, name, spec, array):
    """Makes callers that pass their tensors in shared memory, each in a region of its own."""
    size = array.nbytes + 4 * int(np.prod(spec.outputs[0].at(1)))

    def make():
        region = uuid.uuid4().hex
        handle = shared_memory.create_shared_memory_region(region, region, size, create_only=True)
        atexit.register(shared_memory.destroy_shared_memory_region, handle)
        shared_memory.set_shared_memory_region(handle, [array])
        client = grpc_client.InferenceServerClient(running.grpc)
        client.register_system_shared_memory(region, region, size)
        given = grpc_client.InferInput(spec.inputs[0].name, list(array.shape), "FP32")
        given.set_shared_memory(region, array.nbytes)
        output = grpc_client.InferRequestedOutput(spec.outputs[0].name)
        output.set_shared_memory(region, size - array.nbytes, array.nbytes)
        return lambda: client.infer(name, [given], outputs=[output])

    return make


def rate(call, seconds, clients=1):
    """Calls a second by so many threads, each with what `call()` gives it to call."""
    counts, over = [], threading.Event()

    def work():
        one, count = call(), 0
        while not over.is_set():
            one()
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def grpc_caller(running, name, spec, array):
    def make():
        client = grpc_client.InferenceServerClient(running.grpc)
        inputs, outputs = asked(grpc_client, spec, array)
        return lambda: client.infer(name, inputs, outputs=outputs)

    return make


def throughput(bundle, seconds, rounds, contexts=1, threads=0):
    """Raw tensors over gRPC from eight clients, beside the same pipeline alone, called by a thread a context."""
    words = [
        "--backend",
        "ort",
        "--shared-memory",
        "--contexts",
        contexts,
        *(["--threads", threads] if threads else []),
    ]
    own = edgeinfer.load(bundle, "ort", contexts=contexts, threads=threads)
    with own as model, service(bundle, *words) as running:
        array = tensor_for(model.spec)
        name = model.spec.inputs[0].name
        rates = {"pipeline": [], "service": [], "shared_memory": []}
        for _ in range(rounds):
            rates["pipeline"].append(rate(lambda: lambda: model.infer({name: array}), seconds, contexts))
            caller = grpc_caller(running, bundle.name, model.spec, array)
            rates["service"].append(rate(caller, seconds, CLIENTS))
            caller = shared(running, bundle.name, model.spec, array)
            rates["shared_memory"].append(rate(caller, seconds, CLIENTS))
    found = {f"{key}_per_s": median(values) for key, values in rates.items()}
    for key, label in (("service", "ratio"), ("shared_memory", "shared_memory_ratio")):
        found[label] = median(ours / bare for ours, bare in zip(rates[key], rates["pipeline"], strict=True))
    return found


@contextlib.contextmanager
def transport(size):
    """Addresses of a service that only answers with so many bytes: what the protocols cost by themselves."""
    line = [sys.executable, Path(__file__).parent / "transport.py", str(size)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        http, rpc = (f"127.0.0.1:{port}" for port in process.stdout.readline().split())
        try:
            yield SimpleNamespace(address=http, grpc=rpc)
        finally:
            process.kill()


def latency(bundle, rounds):
    """Median milliseconds of one client; blocks take turns.

    `added` is over the pipeline alone; `own` over the pipeline and the protocol, its client, and the tensors' bytes.
    The protocol alone is called after a run of the model too, which leaves the caches as cold as a service finds them.
    """
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(edgeinfer.load(bundle, "ort"))
        run = partial(model.infer, {model.spec.inputs[0].name: tensor_for(model.spec)})
        running = stack.enter_context(service(bundle, "--backend", "ort", "--shared-memory"))
        array, spec = tensor_for(model.spec), model.spec
        bare = stack.enter_context(transport(run()[spec.outputs[0].name].nbytes))
        inputs, outputs = asked(http_client, spec, array)
        callers = {"pipeline": run}
        callers["shared_memory"] = shared(running, bundle.name, spec, array)()
        for name, where in (("", running), ("bare_", bare)):
            http = stack.enter_context(http_client.InferenceServerClient(where.address))
            callers[f"{name}grpc"] = grpc_caller(where, bundle.name, spec, array)()
            callers[f"{name}rest_binary"] = partial(http.infer, bundle.name, inputs, outputs=outputs)
        spans = {name: [] for name in callers}
        for _ in range(rounds):
            for name in random.sample(sorted(callers), len(callers)):
                for place in range(12):
                    if name.startswith("bare_"):
                        run()
                    start = time.perf_counter()
                    callers[name]()
                    if place >= 3:
                        spans[name].append((time.perf_counter() - start) * 1e3)
    figures = {f"{name}_ms": median(values) for name, values in spans.items()}
    figures["shared_memory_added_ms"] = figures["shared_memory_ms"] - figures["pipeline_ms"]
    for name in ("grpc", "rest_binary"):
        figures[f"{name}_added_ms"] = figures[f"{name}_ms"] - figures["pipeline_ms"]
        figures[f"{name}_own_ms"] = figures[f"{name}_added_ms"] - figures[f"bare_{name}_ms"]
    return figures


def resident_mb(running):
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def hostile(folder, requests):
    """Valid and hostile requests in turns: crashes, wrong answers, and memory before and after."""
    bundle, chance = bundles.detect_bundle(folder / "finder"), random.Random(1)
    pictures = {color: bundles_file(color) for color in bundles.COLORS}
    with service(bundle) as running:
        wrong, path = 0, "/v1/models/finder/predict"

        def one(place):
            nonlocal wrong
            kind = place % 5
            if kind < 2:
                color = chance.choice(bundles.COLORS)
                body = json.loads(running.request(path, pictures[color])[2])
                wrong += [found["label"] for found in body["detections"]] != [color]
            elif kind == 2:
                junk = bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
                wrong += running.request("/v2/models/finder/infer", junk)[0] not in (400, 415)
            elif kind == 3:
                data = bytearray(pictures["red"])
                data[chance.randrange(len(data))] ^= 255
                wrong += running.request(path, bytes(data))[0] not in (200, 400)
            else:
                host, port = running.address.split(":")
                with socket.create_connection((host, int(port))) as opened:
                    opened.sendall(b"POST /v2/models/finder/infer HTTP/1.1\r\nContent-Length: 9999\r\n\r\n" + b"x" * 99)

        for place in range(500):
            one(place)
        before = resident_mb(running)
        for place in range(requests):
            one(place)
        after = resident_mb(running)
        alive = running.request("/v2/health/ready")[0] == 200
    return {"requests": requests, "wrong": wrong, "alive": alive, "mb_before": before, "mb_after": after}


def bundles_file(color):
    import cv2

    return cv2.imencode(".png", bundles.picture(color, 48, 64))[1].tobytes()


def swaps(folder, seconds):
    """A new version every second under load: failed requests."""
    bundle = bundles.detect_bundle(folder / "swapped")
    with service(bundle) as running:
        failed, count, over = [], [0], threading.Event()

        def ask():
            while not over.is_set():
                status, _, body = running.request("/v1/models/swapped/predict", bundles_file("red"))
                count[0] += 1
                if status != 200:
                    failed.append(body)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(seconds):
            record = json.loads((bundle / "model.json").read_text())
            record["provenance"]["license"] = f"version {number}"
            (bundle / "model.json").write_text(json.dumps(record))
            running.send("SIGHUP")
            time.sleep(1)
        over.set()
        for thread in threads:
            thread.join()
        version = json.loads(running.request("/v1/models")[2])["models"][0]["version"]
    return {"seconds": seconds, "requests": count[0], "failed": len(failed), "last_version": version}


def crowd(folder, seconds):
    """Thirty-two clients on three models: answers of the wrong model or picture."""
    for name in ("one", "two"):
        bundles.detect_bundle(folder / "crowd" / name)
    bundles.classify_bundle(folder / "crowd" / "three")
    with service(folder / "crowd") as running:
        mixed, count, over = [], [0], threading.Event()

        def ask(place):
            name, color = ("one", "two", "three")[place % 3], bundles.COLORS[place // 3 % 3]
            while not over.is_set():
                body = json.loads(running.request(f"/v1/models/{name}/predict", bundles_file(color))[2])
                rows = body.get("detections") or body.get("classes") or [{"label": body}]
                count[0] += 1
                if rows[0]["label"] != color or body["model"] != name:
                    mixed.append(body)

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(32)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        over.set()
        for thread in threads:
            thread.join()
    return {"seconds": seconds, "requests": count[0], "mixed": len(mixed)}


def start(bundle):
    """Seconds to the line that says it serves, and resident memory then."""
    begin = time.perf_counter()
    with service(bundle, "--backend", "ort") as running:
        return {"ready_s": time.perf_counter() - begin, "resident_mb": resident_mb(running)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each throughput block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=60, help="seconds of swapping")
    parser.add_argument("--crowd", type=float, default=300, help="seconds of the crowd")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    source = resources.files("edgeinfer_export") / "assets" / "pictograms.pt"
    Heap()
    about, cores = context(), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = export(str(source), folder / "yolov5n", Options())
        built = graphs.build(resnet50(), name="resnet50")
        classifier = write_bundle(built.model, built.spec, folder / "resnet50")
        results = {
            "start": start(detector),
            "throughput yolov5n": throughput(detector, args.seconds, args.rounds),
            "throughput resnet50": throughput(classifier, args.seconds, args.rounds),
            "throughput yolov5n, a thread a context": throughput(detector, args.seconds, args.rounds, cores, 1),
            "throughput resnet50, a thread a context": throughput(classifier, args.seconds, args.rounds, cores, 1),
            "latency yolov5n": latency(detector, args.rounds),
            "latency resnet50": latency(classifier, args.rounds),
            "hostile": hostile(folder, args.requests),
            "swaps": swaps(folder, args.swaps),
            "crowd": crowd(folder, args.crowd),
        }
    print(json.dumps(results, indent=1))
    if args.json:
        args.json.write_text(json.dumps({"context": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
