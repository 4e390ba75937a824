"""Freed memory that stays for the next request, and goes back to the system when none comes."""

import http.client
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.grpc import service_pb2 as pb

from edgeinfer.serve import heap, refusals
from edgeinfer.serve.heap import IDLE_S, Heap
from helpers import bundles
from helpers.patience import LONG_S
from helpers.service import service

glibc = pytest.mark.skipif(not heap._glibc(), reason="this C library's heap has no settings")

# page faults of taking, filling and freeing 16 MiB: at first, once they were freed, and after so many idle seconds
FAULTS = """
import ctypes, json, resource, sys
from edgeinfer.serve.heap import Heap
library, now, size = ctypes.CDLL(None), [0.0], 16 << 20
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(size)
    library.memset(block, 1, size)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
heap = Heap(clock=lambda: now[0])
first, kept = faults(), faults()
heap.look(2)
now[0] = float(sys.argv[1])
heap.look(2)
print(json.dumps([first, kept, faults()]))
"""
PAGES = (16 << 20) // os.sysconf("SC_PAGESIZE")


def faults(idle_s, **environment):
    line = [sys.executable, "-c", FAULTS, str(idle_s)]
    done = subprocess.run(line, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return json.loads(done.stdout)


@glibc
def test_freed_blocks_are_kept_until_the_heap_was_idle():
    first, kept, soon = faults(IDLE_S - 0.5)
    assert first > 0.9 * PAGES
    assert max(kept, soon) < 0.1 * PAGES
    _, kept, late = faults(IDLE_S)
    assert kept < 0.1 * PAGES
    assert late > 0.9 * PAGES


@glibc
def test_who_set_the_heap_for_themselves_is_heeded():
    _, freed, _ = faults(0, MALLOC_MMAP_THRESHOLD_="65536")
    assert freed > 0.9 * PAGES


# resident megabytes that four threads leave behind which took and freed 32 of them each at the same time
THREADS = """
import ctypes, sys, threading
from edgeinfer.serve.heap import Heap
library, now, together = ctypes.CDLL(None), [0.0], threading.Barrier(4)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096 >> 20
def work():
    together.wait()
    blocks = [library.malloc(1 << 20) for _ in range(32)]
    for block in blocks:
        library.memset(block, 1, 1 << 20)
    together.wait()
    for block in blocks:
        library.free(block)
heap, before = Heap(clock=lambda: now[0]), resident()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
heap.look(2)
now[0] = float(sys.argv[1])
heap.look(2)
print(resident() - before)
"""


@glibc
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is told by Linux's /proc")
def test_what_threads_freed_goes_back_too():
    line = [sys.executable, "-c", THREADS, str(IDLE_S)]
    left_mb = int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    assert left_mb < 32


def test_memory_is_given_back_once_after_each_time_of_use():
    now, given = [0.0], []
    one = Heap(clock=lambda: now[0])
    one._library = type("Library", (), {"malloc_trim": lambda _, pad: given.append((now[0], pad))})()
    for now[0], uses in ((0, 0), (50, 0), (51, 1), (60, 2), (69, 2), (71, 2), (90, 2), (91, 3), (99, 3), (110, 3)):
        one.look(uses)
    assert given == [(71, 0), (110, 0)]


@glibc
def test_requests_of_megabytes_take_no_new_memory_from_the_system(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "wide", side=640)
    array = np.zeros((1, 3, 640, 640), np.float32)
    given = grpc_client.InferInput("images", list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    with service(bundle) as running, grpc_client.InferenceServerClient(running.grpc) as client:

        def faults():
            fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[7])

        for _ in range(40):
            client.infer("wide", [given])
        before = faults()
        for _ in range(20):
            client.infer("wide", [given])
        # fewer pages than the requests fill when they are written once, and they are copied on their way
        assert faults() - before < 20 * array.nbytes / os.sysconf("SC_PAGESIZE")


# a service that never looks for circles of objects
UNSWEPT = """
import gc, sys
from edgeinfer.cli import main
gc.disable()
sys.exit(main(["serve", *sys.argv[1:]]))
"""
LARGE = 16 << 20


def large_request():
    request = pb.ModelInferRequest(model_name="namer", raw_input_contents=[bytes(LARGE)])
    request.inputs.add(name="images", datatype="FP32", shape=[1, 3, 32, 32])
    return request.SerializeToString()


def opened(running):
    return grpc.insecure_channel(running.grpc, [("grpc.max_send_message_length", -1)])


def resident(running):
    """Bytes of the service that are in memory."""
    pages = Path(f"/proc/{running.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def refused_by_grpc(running):
    with opened(running) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="its data is"):
            infer(large_request())


def too_large(running):
    connection = http.client.HTTPConnection(running.address, timeout=LONG_S)
    pieces = (bytes(1 << 20) for _ in range((LARGE >> 20) + 1))
    connection.request("POST", "/v2/models/namer/infer", pieces, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def no_picture(running):
    assert running.request("/v1/models/namer/predict", bytes(LARGE))[0] == 400


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is told by Linux's /proc")
@pytest.mark.parametrize("refuse", [refused_by_grpc, too_large, no_picture])
def test_a_request_that_was_refused_is_kept_by_nothing(tmp_path, refuse):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    with service(bundle, "--max-body-mb", LARGE >> 20, start=["-c", UNSWEPT]) as running:
        refuse(running)
        before = resident(running)
        for _ in range(30):
            refuse(running)
        assert resident(running) - before < 15 * LARGE


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is told by Linux's /proc")
def test_a_stream_that_waits_keeps_nothing_of_its_last_request(tmp_path):
    over = threading.Event()

    def messages():
        yield large_request()
        over.wait(10 * LONG_S)

    with (
        service(bundles.classify_bundle(tmp_path / "namer"), start=["-c", UNSWEPT]) as running,
        opened(running) as channel,
    ):
        streams, before = [], resident(running)
        for _ in range(30):
            streams.append(channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(messages()))
            assert b"its data is" in next(streams[-1])
        assert resident(running) - before < 15 * LARGE
        over.set()


def test_an_error_whose_causes_go_in_a_circle_is_told():
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first
    assert refusals.logged(first, "it").kind == refusals.INTERNAL
