"""Tensors in shared memory: Triton's extension, with its own clients; and what must not come of it."""

import contextlib
import json
import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import tritonclient.utils.shared_memory as shm
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException

from edgeinfer.serve import regions
from edgeinfer.serve.memory import Memory
from edgeinfer.serve.refusals import Refusal
from edgeinfer.serve.tensors import Tensor, in_span, of
from helpers import bundles
from helpers.service import service

SIDE = bundles.SIDE
SHAPE = (1, 3, SIDE, SIDE)
SIZE = int(np.prod(SHAPE)) * 4
CLIENTS = {"grpc": grpc_client, "http": http_client}
GREEN = np.zeros(SHAPE, np.float32)
GREEN[:, 1] = 1


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bundles.classify_bundle(folder / "namer")
    bundles.detect_bundle(folder / "finder")
    with service(folder, "--shared-memory") as running:
        yield running


@pytest.fixture(params=CLIENTS)
def module(request):
    return CLIENTS[request.param]


@pytest.fixture
def client(served, module):
    with opened(module, served) as one:
        yield one
        one.unregister_system_shared_memory()


@contextlib.contextmanager
def opened(module, running):
    with module.InferenceServerClient(running.grpc if module is grpc_client else running.address) as one:
        yield one


@contextlib.contextmanager
def memory(size):
    """Shared memory of a client: its key, and a handle."""
    key = f"edgeinfer-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("region", key, size, create_only=True)
    try:
        yield key, handle
    finally:
        shm.destroy_shared_memory_region(handle)


def asked(module, name="images", shape=SHAPE, datatype="FP32", size=SIZE, offset=0, region="region"):
    given = module.InferInput(name, list(shape), datatype)
    given.set_shared_memory(region, size, offset)
    return given


def wanted(module, name="logits", size=12, offset=0, region="region"):
    output = module.InferRequestedOutput(name)
    output.set_shared_memory(region, size, offset)
    return output


def test_inputs_and_outputs_lie_in_shared_memory(client, module):
    with memory(SIZE + 100) as (key, handle):
        client.register_system_shared_memory("region", key, SIZE + 100)
        shm.set_shared_memory_region(handle, [GREEN])
        answer = client.infer("namer", [asked(module)], outputs=[wanted(module, size=40, offset=SIZE + 20)])
        told = answer.get_response()
        told = json_format.MessageToDict(told) if module is grpc_client else told
        (output,) = told["outputs"]
        assert output.keys() == {"name", "datatype", "shape"}
        assert told.get("rawOutputContents") == ([""] if module is grpc_client else None)
        found = shm.get_contents_as_numpy(handle, np.float32, [1, 3], SIZE + 20)
        np.testing.assert_allclose(found, [[0, 10, 0]], atol=1e-5)
        after = shm.get_contents_as_numpy(handle, np.uint8, [68], SIZE + 32)
        assert not after.any()


def test_what_is_not_in_shared_memory_travels_as_ever(client, module):
    plain = module.InferInput("images", list(SHAPE), "FP32")
    plain.set_data_from_numpy(GREEN)
    with memory(SIZE) as (key, handle):
        client.register_system_shared_memory("region", key, SIZE)
        shm.set_shared_memory_region(handle, [GREEN])
        sent = client.infer("namer", [asked(module)]).as_numpy("logits")
        np.testing.assert_allclose(sent, [[0, 10, 0]], atol=1e-5)
        client.infer("namer", [plain], outputs=[wanted(module)])
        np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, [1, 3]), sent)


def test_frames_and_picture_files_lie_there_too(client, module):
    frame = bundles.picture("blue", 20, 30)
    file = Path(__file__).parent / "data" / "pictograms" / "000.jpg"
    element = np.frombuffer(len(file.read_bytes()).to_bytes(4, "little") + file.read_bytes(), np.uint8)
    with memory(frame.nbytes + element.nbytes) as (key, handle):
        client.register_system_shared_memory("region", key, frame.nbytes + element.nbytes)
        shm.set_shared_memory_region(handle, [frame, element])
        one = asked(module, "frame", frame.shape, "UINT8", frame.nbytes)
        assert client.infer("finder.image", [one]).as_numpy("labels").tolist() == [b"blue"]
        place = [wanted(module, "labels", 100)]
        place += [module.InferRequestedOutput("boxes"), module.InferRequestedOutput("scores")]
        mixed = client.infer("finder.image", [one], outputs=place)
        assert (mixed.as_numpy("boxes").shape, mixed.as_numpy("scores").shape) == ((1, 4), (1,))
        assert bytes(shm.get_contents_as_numpy(handle, np.uint8, [8])) == b"\x04\0\0\0blue"
        two = asked(module, "image", (1,), "BYTES", element.nbytes, frame.nbytes)
        assert len(client.infer("finder.image", [two]).as_numpy("scores")) == 1


def test_regions_are_told_and_forgotten(client, module):
    with memory(64) as (key, _), memory(32) as (other, _):
        client.register_system_shared_memory("one", key, 48, offset=16)
        client.register_system_shared_memory("two", f"/{other}", 32)
        assert statuses(client) == {"one": (key, 16, 48), "two": (f"/{other}", 0, 32)}
        assert statuses(client, "one") == {"one": (key, 16, 48)}
        with pytest.raises(InferenceServerException, match="'one' is registered already"):
            client.register_system_shared_memory("one", key, 8)
        client.unregister_system_shared_memory("one")
        client.unregister_system_shared_memory("one")
        with pytest.raises(InferenceServerException, match="'one' is not registered"):
            statuses(client, "one")
        client.unregister_system_shared_memory()
        assert statuses(client) == {}
        assert "system_shared_memory" in json.dumps(metadata(client))


def test_there_is_no_shared_memory_of_gpus(client):
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("region")
    told = client.get_cuda_shared_memory_status()
    assert not getattr(told, "regions", told)
    with pytest.raises(InferenceServerException, match="not registered"):
        client.get_cuda_shared_memory_status("region")
    with pytest.raises(InferenceServerException, match="only system shared memory"):
        client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 8)


def metadata(client):
    return (
        client.get_server_metadata(as_json=True)
        if isinstance(client, grpc_client.InferenceServerClient)
        else client.get_server_metadata()
    )


def statuses(client, name=""):
    if isinstance(client, http_client.InferenceServerClient):
        rows = client.get_system_shared_memory_status(name)
    else:
        rows = client.get_system_shared_memory_status(name, as_json=True).get("regions", {}).values()
    return {row["name"]: (row["key"], int(row.get("offset", 0)), int(row["byte_size"])) for row in rows}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "not a name"),
        ("/", "not a name"),
        ("..", "not a name"),
        ("../etc/passwd", "not a name"),
        ("folder/file", "not a name"),
        ("nul\0", "not a name"),
        ("edgeinfer-that-is-not-there", "there is no shared memory"),
        ("x" * 300, "cannot be opened"),
    ],
)
def test_a_key_is_a_name_of_shared_memory_that_is_there(client, key, told):
    with pytest.raises(InferenceServerException, match=told):
        client.register_system_shared_memory("region", key, 8)


@pytest.mark.parametrize("make", ["link", "pipe", "folder"])
def test_a_key_is_no_link_pipe_or_folder(served, tmp_path, make):
    path = Path(regions.FOLDER) / f"edgeinfer-{uuid.uuid4().hex}"
    (tmp_path / "secret").write_bytes(bytes(64))
    try:
        if make == "link":
            path.symlink_to(tmp_path / "secret")
        elif make == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        with (
            opened(grpc_client, served) as client,
            pytest.raises(InferenceServerException, match=r"cannot be opened|is not shared memory"),
        ):
            client.register_system_shared_memory("region", path.name, 8)
    finally:
        path.rmdir() if make == "folder" else path.unlink()


@pytest.mark.parametrize(("offset", "size", "told"), [(0, 65, "holds 64 bytes"), (60, 5, "holds"), (0, 0, "no bytes")])
def test_a_region_lies_within_its_memory(client, offset, size, told):
    with memory(64) as (key, _), pytest.raises(InferenceServerException, match=told):
        client.register_system_shared_memory("region", key, size, offset)


def test_a_tensor_lies_within_its_region(client, module):
    with memory(SIZE) as (key, handle):
        client.register_system_shared_memory("region", key, SIZE - 4, offset=4)
        for given, told in (
            (asked(module), "are not within region"),
            (asked(module, size=SIZE - 4), f"is {SIZE}"),
            (asked(module, size=8, offset=SIZE), "are not within region"),
            (asked(module, region="other"), "'other' is not registered"),
        ):
            with pytest.raises(InferenceServerException, match=told):
                client.infer("namer", [given])
        shm.set_shared_memory_region(handle, [bundles.picture("red", 5, 5)], offset=4)
        given = asked(module, "frame", (5, 5, 3), "UINT8", 75)
        for output, told in (
            (wanted(module, "scores", SIZE), "are not within region"),
            (wanted(module, "scores", 3), "is 4 bytes, its place in shared memory has 3"),
        ):
            with pytest.raises(InferenceServerException, match=told):
                client.infer("finder.image", [given], outputs=[output])


def test_memory_that_becomes_shorter_is_an_error_and_the_service_lives(served, client, module):
    with memory(2 * SIZE) as (key, handle):
        client.register_system_shared_memory("region", key, 2 * SIZE)
        shm.set_shared_memory_region(handle, [GREEN])
        os.truncate(Path(regions.FOLDER) / key, SIZE)
        with pytest.raises(InferenceServerException, match=f"holds {SIZE} bytes"):
            client.infer("namer", [asked(module, offset=SIZE)])
        with pytest.raises(InferenceServerException, match=f"holds {SIZE} bytes"):
            client.infer("namer", [asked(module)], outputs=[wanted(module, offset=SIZE)])
        assert client.infer("namer", [asked(module)]).as_numpy("logits").argmax() == 1
    assert served.process.poll() is None


def test_a_region_lives_as_long_as_a_tensor_is_to_lie_there():
    with memory(64) as (key, handle):
        before = opened_files(key)
        all_ = regions.Regions(allowed=True)
        all_.register("region", key, 0, 64)
        span = all_.span({"shared_memory_region": "region", "shared_memory_byte_size": 8}, "output")
        assert opened_files(key) == before + 1
        all_.unregister()
        placed = regions.placed(of("scores", np.array([1, 2], np.float32)), span)
        assert placed.data == span
        assert shm.get_contents_as_numpy(handle, np.float32, [2]).tolist() == [1, 2]
        del span, placed
        assert opened_files(key) == before


def opened_files(key):
    """How many of this process's files are this memory."""
    return sum(os.path.realpath(one) == f"{regions.FOLDER}/{key}" for one in Path("/proc/self/fd").iterdir())


def test_what_is_read_counts_as_memory_of_requests():
    with memory(64) as (key, _):
        all_ = regions.Regions(allowed=True)
        all_.register("region", key, 0, 64)
        span = all_.span({"shared_memory_region": "region", "shared_memory_byte_size": 64}, "input")
        tensor = in_span("images", "FP32", [16], span)
        with Memory(64).share() as take:
            assert isinstance(regions.brought(tensor, take), Tensor)
        with Memory(63).share() as take, pytest.raises(Refusal, match="too many large requests"):
            regions.brought(tensor, take)


def test_regions_are_counted(served):
    with memory(8) as (key, _):
        all_ = regions.Regions(allowed=True)
        for place in range(regions.MOST):
            all_.register(str(place), key, 0, 8)
        with pytest.raises(Refusal, match="registered already"):
            all_.register("one more", key, 0, 8)
        all_.unregister()


def test_shared_memory_is_closed_unless_asked_for(tmp_path, module):
    bundles.classify_bundle(tmp_path / "namer")
    with service(tmp_path / "namer") as running, opened(module, running) as client, memory(SIZE) as (key, _):
        assert "system_shared_memory" not in json.dumps(metadata(client))
        for call in (
            lambda: client.register_system_shared_memory("region", key, SIZE),
            client.get_system_shared_memory_status,
            client.unregister_system_shared_memory,
            client.get_cuda_shared_memory_status,
            lambda: client.infer("namer", [asked(module)]),
        ):
            with pytest.raises(InferenceServerException, match="start with --shared-memory"):
                call()


def test_shared_memory_is_not_open_to_other_machines_without_a_token(tmp_path, unserved):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    code, _, said = unserved(bundle, "--shared-memory", "--host", "0.0.0.0")
    assert (code, "--token-file" in said) == (2, True)
    (tmp_path / "token").write_text("secret")
    words = ("--shared-memory", "--host", "0.0.0.0", "--token-file", tmp_path / "token")
    with service(bundle, *words) as running:
        address = running.address.replace("0.0.0.0", "127.0.0.1")
        with http_client.InferenceServerClient(address) as client:
            with pytest.raises(InferenceServerException, match="token"):
                client.get_system_shared_memory_status()
            assert client.get_system_shared_memory_status(headers={"authorization": "Bearer secret"}) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"shared_memory_region": "region"},
        {"shared_memory_byte_size": 4},
        {"shared_memory_offset": 4},
        {"shared_memory_region": 4, "shared_memory_byte_size": 4},
        {"shared_memory_region": "region", "shared_memory_byte_size": True},
        {"shared_memory_region": "region", "shared_memory_byte_size": -4},
        {"shared_memory_region": "region", "shared_memory_byte_size": 4.0},
        {"shared_memory_region": "region", "shared_memory_byte_size": 4, "shared_memory_offset": -1},
        {"shared_memory_region": "region", "shared_memory_byte_size": 1 << 64},
    ],
)
def test_parameters_that_make_no_sense_are_named(served, parameters):
    with memory(SIZE) as (key, _):
        body = json.dumps({"key": key, "byte_size": SIZE}).encode()
        path = "/v2/systemsharedmemory/region/region/"
        assert served.request(path + "register", body)[0] == 200
        item = {"name": "images", "datatype": "FP32", "shape": SHAPE, "parameters": parameters}
        status, _, told = served.request("/v2/models/namer/infer", json.dumps({"inputs": [item]}).encode())
        assert (status, "shared_memory" in json.loads(told)["error"]) == (400, True)
        both = {**item, "parameters": {"shared_memory_region": "region", "shared_memory_byte_size": SIZE}, "data": [1]}
        status, _, told = served.request("/v2/models/namer/infer", json.dumps({"inputs": [both]}).encode())
        assert (status, "more in shared memory" in json.loads(told)["error"]) == (400, True)
        for wrong in (b"{}", b"[]", b'{"key": "x"}', b'{"key": 1, "byte_size": 1}', b'{"key": "x", "byte_size": -1}'):
            assert served.request(path + "register", wrong)[0] == 400
        assert served.request(path + "unregister", b"")[0] == 200
