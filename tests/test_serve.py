"""The service as its users meet it: real clients of both protocols, and people who send nonsense."""

import asyncio
import gzip
import json
import re
import socket
from unittest import mock

import cv2
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from edgeinfer.serve import rpc, web
from helpers import bundles
from helpers.patience import LONG_S
from helpers.service import service

COLORS = bundles.COLORS


def picture_file(color="red", suffix=".png"):
    return cv2.imencode(suffix, bundles.picture(color, 48, 64))[1].tobytes()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bundles.detect_bundle(folder / "finder")
    bundles.classify_bundle(folder / "namer")
    return folder


@pytest.fixture(scope="module")
def served(models):
    with service(models, "--manage") as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(served, request):
    if request.param == "http":
        with http_client.InferenceServerClient(served.address) as opened:
            yield opened, http_client
    else:
        with grpc_client.InferenceServerClient(served.grpc) as opened:
            yield opened, grpc_client


def tensor(module, name, array, datatype="FP32"):
    given = module.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def planes(color):
    return (bundles.picture(color)[..., ::-1].transpose(2, 0, 1)[None] / 255).astype(np.float32)


def test_a_server_tells_of_itself_and_of_its_models(client):
    opened, _ = client
    assert opened.is_server_live()
    assert opened.is_server_ready()
    assert all(opened.is_model_ready(name) for name in ("finder", "finder.image", "namer", "namer.image"))
    assert not opened.is_model_ready("nobody")
    assert not opened.is_model_ready("namer", "9999")
    about = opened.get_model_metadata("finder")
    about = about if isinstance(about, dict) else {"outputs": [{"name": one.name} for one in about.outputs]}
    assert [one["name"] for one in about["outputs"]] == ["output0"]
    assert opened.get_model_config("finder.image")


@pytest.mark.parametrize("color", COLORS)
def test_raw_tensors_give_what_the_engine_gives(client, color):
    opened, module = client
    answer = opened.infer("namer", [tensor(module, "images", planes(color))], request_id="7")
    logits = answer.as_numpy("logits")
    assert logits.shape == (1, 3)
    assert COLORS[int(logits.argmax())] == color
    response = answer.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "7"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client, algorithm):
    opened, module = client
    ways = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    how = ways if module is http_client else {"compression_algorithm": algorithm}
    if module is grpc_client and not rpc.unpacks():
        with pytest.raises(InferenceServerException, match="disabled"):
            opened.infer("namer", [tensor(module, "images", planes("green"))], **how)
        return
    logits = opened.infer("namer", [tensor(module, "images", planes("green"))], **how).as_numpy("logits")
    assert COLORS[int(logits.argmax())] == "green"


@pytest.mark.parametrize("color", COLORS)
def test_a_picture_gives_boxes_in_its_own_pixels(client, color):
    opened, module = client
    file = np.array([picture_file(color)], dtype=np.object_)
    answer = opened.infer("finder.image", [tensor(module, "image", file, "BYTES")])
    assert answer.as_numpy("boxes").tolist() == [[16, 8, 48, 40]]
    assert answer.as_numpy("labels").tolist() == [color.encode()]
    frame = opened.infer("finder.image", [tensor(module, "frame", bundles.picture(color, 48, 64), "UINT8")])
    assert frame.as_numpy("boxes").tolist() == [[16, 8, 48, 40]]


def test_only_the_outputs_asked_for_come_back(client):
    opened, module = client
    outputs = [module.InferRequestedOutput("scores")]
    frame = tensor(module, "frame", bundles.picture("blue"), "UINT8")
    answer = opened.infer("finder.image", [frame], outputs=outputs)
    assert answer.as_numpy("scores").shape == (1,)
    assert answer.as_numpy("boxes") is None


def test_plain_json_is_enough(served):
    record = {
        "id": "a",
        "inputs": [{"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": planes("green").tolist()}],
    }
    status, _, body = served.request("/v2/models/namer/infer", json.dumps(record).encode())
    answer = json.loads(body)
    assert (status, answer["id"], answer["model_name"]) == (200, "a", "namer")
    assert int(np.argmax(answer["outputs"][0]["data"])) == 1


@pytest.mark.parametrize("color", COLORS)
def test_a_body_without_json_is_the_input(served, color):
    """Triton's raw binary requests."""
    bare = {"Inference-Header-Content-Length": "0"}
    status, _, body = served.request("/v2/models/namer/infer", planes(color).tobytes(), bare)
    assert (status, np.argmax(json.loads(body)["outputs"][0]["data"])) == (200, COLORS.index(color))
    file = bundles.png(color, 48, 64)
    status, _, body = served.request("/v2/models/finder.image/infer", file, bare)
    (labels,) = [one["data"] for one in json.loads(body)["outputs"] if one["name"] == "labels"]
    assert (status, labels) == (200, [color])
    status, _, body = served.request("/v2/models/namer/infer", b"short", bare)
    assert (status, "its data is 5 bytes" in json.loads(body)["error"]) == (400, True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "pictures"}, "inputs are pictures"),
        ({"shape": [1, 3, 32, 31]}, "data has 3072 elements"),
        ({"shape": [2, 3, 16, 32]}, "shape is"),
        ({"shape": [-1]}, "is not a list of sizes"),
        ({"datatype": "FP64"}, "datatype 'FP64'"),
        ({"datatype": "UINT8"}, "other things than numbers of UINT8"),
        ({"data": "abc"}, "data is not a list"),
        ({"data": [[1], [2, 3]]}, "not a regular list"),
        ({"parameters": {"binary_data_size": 12}}, "both data and binary"),
        ({"shape": None}, "no list 'shape'"),
    ],
)
def test_a_wrong_field_is_named(served, change, field):
    given = {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": planes("red").reshape(-1).tolist()}
    body = json.dumps({"inputs": [{**given, **change}]}).encode()
    status, _, answer = served.request("/v2/models/namer/infer", body)
    assert status == 400
    assert field in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v2/models/nope/infer", b'{"inputs": []}', {}, 404),
        ("/v2/models/namer/versions/9/infer", b'{"inputs": []}', {}, 404),
        ("/v2/models/namer/infer", b"not json", {}, 400),
        ("/v2/models/namer/infer", b"[" * 100_000, {}, 400),
        ("/v2/models/namer/infer", b"{}", {"Inference-Header-Content-Length": "99"}, 400),
        ("/v2/models/namer/infer", b"{}", {"Content-Encoding": "br"}, 415),
        ("/v2/models/namer/infer", b"{}", {"Content-Encoding": "gzip"}, 400),
        ("/v2/models/namer/infer", gzip.compress(b"{}", mtime=0)[:-3], {"Content-Encoding": "gzip"}, 400),
        ("/v2/models/namer/infer", gzip.compress(b"{}", mtime=0) + b"x", {"Content-Encoding": "gzip"}, 400),
        ("/v2/models/namer/infer", gzip.compress(bytes(100 << 20), mtime=0), {"Content-Encoding": "gzip"}, 413),
        ("/v2/models/namer", None, {"X-Long": "a" * 20_000}, 431),
        ("/v2/repository/index", b"{", {}, 400),
        ("/v2/repository/models/namer/load", b"[]", {}, 400),
        ("/v1/models/finder/predict", b"not a picture", {}, 400),
        ("/v1/models/finder/predict", b"", {}, 400),
        ("/v1/models/finder/predict", b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        ("/v1/models/..%2f..%2fetc/predict", b"x", {}, 404),
    ],
)
def test_nonsense_is_refused_in_json(served, path, body, headers, status):
    found, _, answer = served.request(path, body, headers)
    assert found == status
    assert b"Traceback" not in answer


def test_errors_over_grpc_have_their_own_codes(served):
    with grpc_client.InferenceServerClient(served.grpc) as opened:
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            opened.infer("nope", [tensor(grpc_client, "images", planes("red"))])
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*input 'images'"):
            opened.infer("namer", [tensor(grpc_client, "images", planes("red")[..., :9])])


def test_a_stream_answers_in_order_and_outlives_an_error(served):
    answers = []
    with grpc_client.InferenceServerClient(served.grpc) as opened:
        opened.start_stream(lambda result, error: answers.append(error or result))
        for color in COLORS:
            item = tensor(grpc_client, "images", planes(color))
            opened.async_stream_infer("namer", [item], enable_empty_final_response=True)
        opened.async_stream_infer("nope", [tensor(grpc_client, "images", planes("red"))])
        opened.async_stream_infer("namer", [tensor(grpc_client, "images", planes("blue"))])
        opened.stop_stream()
    assert [int(one.as_numpy("logits").argmax()) for one in answers[:3]] == [0, 1, 2]
    assert all(one.get_response().parameters["triton_final_response"].bool_param for one in answers[:3])
    assert isinstance(answers[3], InferenceServerException)
    assert int(answers[4].as_numpy("logits").argmax()) == 2


def test_the_asynchronous_client_works_too(served):
    async def ask():
        async with grpc_aio.InferenceServerClient(served.grpc) as opened:
            calls = [opened.infer("namer", [tensor(grpc_aio, "images", planes(color))]) for color in COLORS]
            return [int(one.as_numpy("logits").argmax()) for one in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [0, 1, 2]


def test_predict_says_what_run_says(served):
    status, _, body = served.request("/v1/models/finder/predict", picture_file("blue"))
    found = json.loads(body)
    assert (status, found["task"], found["height"], found["width"]) == (200, "detect", 48, 64)
    assert [(one["label"], one["box"]) for one in found["detections"]] == [("blue", [16, 8, 48, 40])]
    assert found["model"] == "finder"


def test_a_model_that_is_not_there_is_named_as_it_was_asked_for(served):
    status, _, body = served.request("/v1/models/nobody/predict", b"a picture")
    assert (status, json.loads(body)["error"]) == (404, "model 'nobody' is not served here")


def test_predict_takes_a_form_and_gives_an_annotated_picture(served):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
        + picture_file()
        + b"\r\n--b--\r\n"
    )
    form = {"Content-Type": "Multipart/Form-Data; boundary=b"}
    assert json.loads(served.request("/v1/models/finder/predict", body, form)[2])["source"] == "x.png"
    status, headers, drawn = served.request("/v1/models/finder/predict?annotate=1", body, form)
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)


def test_metrics_and_statistics_count(served):
    before = json.loads(served.request("/v2/models/namer.image/stats")[2])["model_stats"][0]["inference_count"]
    served.request("/v1/models/namer/predict", picture_file())
    after = json.loads(served.request("/v2/models/namer.image/stats")[2])["model_stats"][0]["inference_count"]
    assert after == before + 1
    text = served.request("/metrics")[2].decode()
    assert 'edgeinfer_requests_total{model="namer.image",outcome="ok"}' in text
    assert 'edgeinfer_stage_seconds_bucket{le="0.001",model="namer.image",stage="infer"}' in text
    assert 'edgeinfer_queue_depth{model="namer"} 0.0' in text
    assert 2e7 < float(re.search(r"^edgeinfer_memory_bytes (\S+)$", text, re.MULTILINE)[1]) < 2e10


def test_the_document_describes_every_path_of_it(served):
    document = json.loads(served.request("/openapi.json")[2])
    assert document["openapi"].startswith("3.")
    paths = {route.path.replace(":str", "") for route in web.Web(mock.MagicMock()).routes()}
    pages = {"/", "/docs", "/page/{file}", "/openapi.json"}
    assert document["paths"].keys() == {path for path in paths - pages if "cudasharedmemory" not in path}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_the_page_reaches_nothing_but_its_own_files(served):
    status, headers, body = served.request("/")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/html")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert b"<title>" in body
    for path in ("/page/..%2fweb.py", "/page/web.py", "/page/%2fetc%2fpasswd"):
        assert served.request(path)[0] == 404


def test_a_model_can_be_unloaded_and_loaded(served):
    with http_client.InferenceServerClient(served.address) as opened:
        opened.unload_model("namer")
        assert not opened.is_model_ready("namer")
        assert served.request("/v2/models/namer/infer", b'{"inputs": []}')[0] == 503
        opened.load_model("namer")
        assert opened.is_model_ready("namer")
        assert {row["name"]: row["state"] for row in opened.get_model_repository_index()}["namer"] == "READY"


def test_a_model_is_loaded_as_its_folder_has_it_or_not_at_all(client):
    opened, _ = client
    before = opened.get_model_metadata("namer")
    with pytest.raises(InferenceServerException, match="parameter 'config'"):
        opened.load_model("namer", config='{"max_batch_size": 2}')
    assert str(opened.get_model_metadata("namer")) == str(before)


def test_clients_that_hang_up_or_dawdle_do_no_harm(served):
    host, port = served.address.split(":")
    for sent in (b"", b"POST /v2/models/namer/infer HTTP/1.1\r\nContent-Length: 999\r\n\r\nhalf", b"\0" * 3000):
        with socket.create_connection((host, int(port))) as opened:
            opened.sendall(sent)
    with socket.create_connection((host, int(port))) as opened:
        opened.sendall(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 100_000)
        opened.settimeout(LONG_S)
        assert b"400" in opened.recv(100)
    assert served.request("/v2/health/ready")[0] == 200
