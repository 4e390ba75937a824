"""NVIDIA's own server with our model repositories, and its own perf_analyzer at our service."""

import base64
import http.client
import json
import re

import cv2
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import tritonclient.utils.shared_memory as shared_memory

import edgeinfer
from edgeinfer.bundle import Bundle
from edgeinfer.devices.cpu import Device
from edgeinfer.spec import Batch, Size
from edgeinfer_export import triton
from edgeinfer_export.export import Options, export
from edgeinfer_export.graphs import Variant
from helpers import bundles, tritonware
from helpers.scenery import SOURCE, TRUTH
from helpers.service import service

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(tritonware.missing()), reason=tritonware.missing())]
PICTURES = sorted(TRUTH.glob("*.jpg"))[:4]
SIZE = Size(256, 320)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return tritonware.Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The folder, and the bundles its models were made of."""
    folder = tmp_path_factory.mktemp("triton")

    def exported(name, **options):
        return Bundle.open(export(SOURCE, folder / "bundles" / name, Options(SIZE, **options)))

    made = {
        "fixed": exported("fixed"),
        "batches": exported("batches", batch=Batch(1, 4)),
        "whole": exported("whole", batch=Batch(1, 4), variant=Variant(frames="bgr", nms=True)),
        "namer": Bundle.open(bundles.classify_bundle(folder / "bundles" / "namer", Batch(1, 8))),
    }
    for name, bundle in made.items():
        triton.write(bundle, folder / "models", triton.Options(name=name, device="cpu"))
    triton.write(made["batches"], folder / "models", triton.Options(name="parts", ensemble=True, instances=2))
    return folder / "models", made


@pytest.fixture(scope="module")
def server(programs, repository):
    with programs.serving(repository[0]) as (client, address):
        client.address = address
        yield client


def asked(client, model, tensors):
    kinds = {"float32": "FP32", "uint8": "UINT8"}
    inputs = []
    for name, array in tensors.items():
        inputs.append(grpc_client.InferInput(name, list(array.shape), kinds[str(array.dtype)]))
        inputs[-1].set_data_from_numpy(array)
    answer = client.infer(model, inputs)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def prepared(spec, count):
    device = Device(spec)
    tensors, placements = device.preprocess([cv2.imread(str(path)) for path in PICTURES[:count]])
    return dict(tensors), placements, device


def test_every_model_is_loaded_as_its_configuration_says(server, repository):
    index = server.get_model_repository_index(as_json=True)["models"]
    assert {row["name"] for row in index} == {path.parent.name for path in repository[0].glob("*/config.pbtxt")}
    assert {row.get("state") for row in index} == {"READY"}
    for name, bundle in repository[1].items():
        told = server.get_model_metadata(name, as_json=True)
        for kind in ("inputs", "outputs"):
            assert {row["name"] for row in told[kind]} == {tensor.name for tensor in getattr(bundle.spec, kind)}


@pytest.mark.parametrize(("name", "count"), [("fixed", 1), ("batches", 1), ("batches", 3), ("namer", 4)])
def test_raw_tensors_give_what_the_runtime_gives(server, repository, name, count):
    bundle = repository[1][name]
    tensors, _, _ = prepared(bundle.spec, count)
    with edgeinfer.load(bundle.path, "ort") as model:
        expected = model.infer(tensors)
    found = asked(server, name, tensors)
    assert found.keys() == expected.keys()
    for output, array in expected.items():
        np.testing.assert_allclose(found[output], array, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "count"), [("parts", 1), ("parts", 4), ("whole", 4)])
def test_frames_give_the_boxes_that_the_runtime_gives(server, repository, name, count):
    whole = repository[1]["whole"]
    tensors, placements, device = prepared(whole.spec, count)
    (given,) = server.get_model_metadata(name, as_json=True)["inputs"]
    (frames,) = tensors.values()
    found = asked(server, name, {given["name"]: frames})
    answers = device.postprocess(found, placements)
    plain = repository[1]["batches"]
    with edgeinfer.load(plain.path, "ort") as model:
        expected = model.batch([cv2.imread(str(path)) for path in PICTURES[:count]])
    assert sum(map(len, expected)) > 0
    for one, other in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.5)
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-3)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    bundles.classify_bundle(folder / "namer", Batch(1, 8))
    with service(folder, "--shared-memory") as running:
        yield running


@pytest.mark.parametrize(
    "words",
    [
        ("namer", "-i", "grpc"),
        ("namer", "-i", "http"),
        ("namer", "-i", "grpc", "-b", 4, "--concurrency-range", 4),
        ("namer", "-i", "http", "--async", "--concurrency-range", 4),
        ("namer", "-i", "grpc", "--async", "--streaming", "--concurrency-range", 4),
        ("namer", "-i", "grpc", "--request-rate-range", 50),
        ("namer", "-i", "grpc", "--shared-memory", "system", "--output-shared-memory-size", 64),
        ("namer", "-i", "http", "--shared-memory", "system", "--output-shared-memory-size", 64),
        ("namer.image", "-i", "grpc", "--input-data", "picture"),
        ("namer.image", "-i", "http", "--input-data", "picture"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_perf_analyzer_measures_the_service(programs, served, tmp_path, words):
    picture = np.frombuffer(bundles.png("red"), np.uint8)
    if "picture" in words:
        # its way with BYTES: the element as it travels, behind its length
        data = len(picture).to_bytes(4, "little") + picture.tobytes()
        file = tmp_path / "picture.json"
        file.write_text(json.dumps({"data": [{"image": {"b64": base64.b64encode(data).decode()}}]}))
        words = tuple(file if word == "picture" else word for word in words)
    address = served.grpc if "grpc" in words else served.address
    told = programs.analyze("-m", *words, "-u", address)
    (count, *_) = re.findall(r"Successful request count: (\d+)", told)
    assert int(count) > 0
    assert not re.search(r"[Uu]nable|[Ff]ailed|rror", told), told


GREEN = np.zeros((1, 3, bundles.SIDE, bundles.SIDE), np.float32)
GREEN[:, 1] = 1
INPUT = {"name": "images", "shape": list(GREEN.shape), "datatype": "FP32"}
FULL = {**INPUT, "data": GREEN.reshape(-1).tolist()}
BINARY = {**INPUT, "parameters": {"binary_data_size": GREEN.nbytes}}
REQUESTS = {
    "numbers": {"inputs": [FULL], "id": "seven"},
    "nested numbers": {"inputs": [{**INPUT, "data": GREEN.tolist()}]},
    "binary both ways": {"inputs": [BINARY], "parameters": {"binary_data_output": True}},
    "binary in": {"inputs": [BINARY], "outputs": [{"name": "logits"}]},
    "binary out": {"inputs": [FULL], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
    "classes": {"inputs": [FULL], "outputs": [{"name": "logits", "parameters": {"classification": 2}}]},
    "binary too short": {"inputs": [{**INPUT, "parameters": {"binary_data_size": GREEN.nbytes - 4}}]},
    "no inputs": {"inputs": []},
    "another name": {"inputs": [{**FULL, "name": "picture"}]},
    "twice": {"inputs": [FULL, FULL]},
    "another output": {"inputs": [FULL], "outputs": [{"name": "scores"}]},
    "a region there is not": {
        "inputs": [{**INPUT, "parameters": {"shared_memory_region": "x", "shared_memory_byte_size": GREEN.nbytes}}]
    },
}


def answered(address, path, record=None, blob=b""):
    """(status, JSON, what follows it) of one request over HTTP."""
    connection = http.client.HTTPConnection(address, timeout=60)
    head = json.dumps(record).encode() if record is not None else None
    headers = {"Inference-Header-Content-Length": str(len(head))} if blob else {}
    connection.request("POST" if head else "GET", path, head + blob if head else None, headers)
    answer = connection.getresponse()
    body = answer.read()
    length = int(answer.getheader("Inference-Header-Content-Length") or len(body))
    connection.close()
    return answer.status, json.loads(body[:length] or "null"), body[length:]


@pytest.mark.parametrize("case", REQUESTS)
def test_the_service_answers_as_the_server_does(server, served, case):
    record = REQUESTS[case]
    size = sum(one.get("parameters", {}).get("binary_data_size", 0) for one in record["inputs"])
    path = "/v2/models/namer/infer"
    theirs, ours = (answered(one.address, path, record, GREEN.tobytes()[:size]) for one in (server, served))
    assert ours[0] == theirs[0]
    if ours[0] == 200:
        assert ours[1:] == theirs[1:]
    else:
        assert ours[1].keys() == theirs[1].keys() == {"error"}


@pytest.mark.parametrize("path", ["", "/versions/1", "/versions/9", "/stats", "/config", "/ready"])
def test_the_service_describes_models_as_the_server_does(server, served, path):
    theirs, ours = (answered(one.address, f"/v2/models/namer{path}") for one in (server, served))
    assert ours[0] == theirs[0]
    if not path:
        same_of = ("name", "versions", "inputs", "outputs")
        assert [ours[1][key] for key in same_of] == [theirs[1][key] for key in same_of]
    if path == "/stats":
        assert ours[1]["model_stats"][0].keys() <= theirs[1]["model_stats"][0].keys()


@pytest.mark.parametrize("module", [grpc_client, http_client], ids=["grpc", "http"])
def test_shared_memory_is_the_servers_to_the_byte(server, served, module):
    found = []
    for one, rpc in ((server, None), (served, served.grpc)):
        size = GREEN.nbytes + 64
        handle = shared_memory.create_shared_memory_region("region", "edgeinfer-for-real", size)
        try:
            shared_memory.set_shared_memory_region(handle, [GREEN, np.full(64, 7, np.uint8)])
            client = server if rpc is None and module is grpc_client else None
            client = client or module.InferenceServerClient(rpc if module is grpc_client else one.address)
            client.register_system_shared_memory("region", "edgeinfer-for-real", size)
            given = module.InferInput("images", list(GREEN.shape), "FP32")
            given.set_shared_memory("region", GREEN.nbytes)
            wanted = module.InferRequestedOutput("logits")
            wanted.set_shared_memory("region", 32, GREEN.nbytes + 16)
            answer = client.infer("namer", [given], outputs=[wanted]).get_response()
            client.unregister_system_shared_memory("region")
            memory = shared_memory.get_contents_as_numpy(handle, np.uint8, [size]).tobytes()
            found.append((str(answer), memory))
        finally:
            shared_memory.destroy_shared_memory_region(handle)
    assert found[0] == found[1]
