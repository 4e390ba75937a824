"""NVIDIA's own server with our model repositories, and its own perf_analyzer at our service."""

import base64
import json
import re
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
import tritonclient.grpc as grpc_client

import edgeinfer
from edgeinfer.bundle import Bundle
from edgeinfer.devices.cpu import Device
from edgeinfer.spec import Batch, Size
from edgeinfer_export import triton
from edgeinfer_export.export import Options, export
from edgeinfer_export.graphs import Variant
from helpers import bundles, tritonware
from helpers.service import service

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(tritonware.missing()), reason=tritonware.missing())]
DETECTOR = Path(str(resources.files("edgeinfer_export") / "assets" / "pictograms.pt"))
PICTURES = sorted((Path(__file__).parent / "data" / "pictograms").glob("*.jpg"))[:4]
SIZE = Size(256, 320)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return tritonware.Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The folder, and the bundles its models were made of."""
    folder = tmp_path_factory.mktemp("triton")

    def exported(name, **options):
        return Bundle.open(export(DETECTOR, folder / "bundles" / name, Options(SIZE, **options)))

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
    with programs.serving(repository[0]) as client:
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
    picture = np.frombuffer(cv2.imencode(".png", bundles.picture("red"))[1].tobytes(), np.uint8)
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
