"""Every type of tensor, in and out, by JSON, the binary extension and gRPC; and what the statistics count."""

import base64
import json
import struct

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from edgeinfer.serve import tensors
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.refusals import Refusal
from edgeinfer.serve.tally import Ran, Tally
from edgeinfer.spec import Batch
from helpers import bundles
from helpers.patience import LONG_S
from helpers.service import service

WAYS = ("json", "binary", "grpc")
INPUTS = ("float32", "float16", "uint8")


@pytest.fixture(scope="module", params=["ort", "ov"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for dtype in INPUTS:
        bundles.casts_bundle(folder / dtype, dtype)
    with service(folder, "--backend", request.param) as running:
        yield running


def asked(way, served, name, given, **how):
    """The outputs of a model for (name of the input, array), by one of the ways."""
    label, array = given
    datatype = np_to_triton_dtype(array.dtype)
    if way == "grpc":
        item = grpc_client.InferInput(label, list(array.shape), datatype)
        item.set_data_from_numpy(array)
        with grpc_client.InferenceServerClient(served.grpc) as client:
            answer = client.infer(name, [item], **how)
            return {one.name: (one.datatype, answer.as_numpy(one.name)) for one in answer.get_response().outputs}
    binary = way == "binary"
    item = http_client.InferInput(label, list(array.shape), datatype)
    # the client itself cannot write halves, or bytes that are no text, as JSON
    if binary or array.dtype not in (np.float16, np.object_):
        item.set_data_from_numpy(array, binary_data=binary)
    else:
        values = [base64.b64encode(one).decode() for one in array] if array.dtype == np.object_ else array.ravel()
        item._data = values if isinstance(values, list) else values.tolist()
    with http_client.InferenceServerClient(served.address) as client:
        about = client.get_model_metadata(name)["outputs"]
        outputs = [http_client.InferRequestedOutput(one["name"], binary_data=binary) for one in about]
        answer = client.infer(name, [item], outputs=outputs, **how)
        rows = answer.get_response()["outputs"]
        assert all(("data" in row) != binary for row in rows)
        return {row["name"]: (row["datatype"], answer.as_numpy(row["name"])) for row in rows}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", INPUTS)
def test_numbers_of_every_type_go_in_and_come_out(served, way, dtype):
    frame = bundles.picture("green")[None, ..., ::-1]
    array = frame if dtype == "uint8" else (frame.transpose(0, 3, 1, 2) / 255).astype(dtype)
    found = asked(way, served, dtype, ("images", np.ascontiguousarray(array)))
    assert {name: kind for name, (kind, _) in found.items()} == {
        "logits": "FP32",
        **{one: tensors.DATATYPES[one] for one in bundles.CASTS},
    }
    for name, (_, values) in found.items():
        assert values.shape == (1, 3)
        assert values.dtype == ("float32" if name == "logits" else name)
        np.testing.assert_allclose(values.astype(float), [[0, 10, 0]], atol=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_bytes_go_in_and_come_out(served, way):
    file = bundles.png("blue")
    found = asked(way, served, "float16.image", ("image", np.array([file], np.object_)))
    kind, labels = found["labels"]
    assert kind == "BYTES"
    assert labels[0] in (b"blue", "blue")
    frames = asked(way, served, "uint8.image", ("frame", bundles.picture("blue")), parameters={"pixels": "rgb"})
    assert frames["classes"][1][0] == bundles.COLORS.index("red")


numbers = st.sampled_from(sorted(tensors.DATATYPES)).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
        elements={"allow_nan": False} if "float" in dtype else None,
    )
)


@given(numbers)
def test_raw_bytes_and_lists_give_back_the_array(array):
    tensor = tensors.of("x", array)
    raw = tensors.from_raw("x", tensor.datatype, tensor.shape, tensors.to_raw(tensor))
    assert raw.data.dtype == array.dtype
    np.testing.assert_array_equal(raw.data, array)
    spoken = json.loads(tensors.to_json(tensor))
    listed = tensors.from_list("x", tensor.datatype, tensor.shape, spoken)
    assert listed.data.dtype == array.dtype
    np.testing.assert_array_equal(listed.data, array)


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_byte_strings_give_back_themselves(elements):
    tensor = tensors.Tensor("x", "BYTES", (len(elements),), elements)
    assert tensors.from_raw("x", "BYTES", [len(elements)], tensors.to_raw(tensor)).data == elements


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("way", ["json", "binary"])
def test_long_rows_of_numbers_come_back_as_they_are(tmp_path, way, rows):
    array = np.random.default_rng(rows).normal(size=(rows, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    assert (array.size > tensors.PIECE) == (rows == 8)
    with service(bundles.echo_bundle(tmp_path / "echo")) as running:
        answer = asked(way, running, "echo", ("images", array), request_id="7")
    np.testing.assert_array_equal(answer["echo"][1], array)


def test_more_numbers_than_can_be_read_beside_other_work_are_refused(served):
    """They are read one by one, and nothing else is done meanwhile."""
    most = Limits().values
    body = b'{"inputs": [{"name": "images", "shape": [1], "datatype": "FP32", "data": [' + b"1," * (most + 1) + b"1]}]}"
    status, _, answer = served.request("/v2/models/float32/infer", body)
    assert (status, json.loads(answer)["error"]) == (
        413,
        f"there are more than the {most} values allowed that are not binary data",
    )
    message = pb.ModelInferRequest(model_name="uint8")
    given = message.inputs.add(name="images", datatype="UINT8", shape=[most + 1])
    given.contents.uint_contents.extend([1] * (most + 1))
    with grpc.insecure_channel(served.grpc) as channel, pytest.raises(grpc.RpcError, match="more than the") as told:
        pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=LONG_S)
    assert told.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_answer_of_too_many_numbers_is_refused_before_the_model_runs_and_counted_so(tmp_path):
    bundles.echo_bundle(tmp_path / "echo")
    array = np.zeros((1, 3, bundles.SIDE, bundles.SIDE), np.float32)
    item = {"name": "images", "datatype": "FP32", "shape": list(array.shape)}
    item["parameters"] = {"binary_data_size": array.nbytes}
    few, binary = {"name": "logits"}, {"name": "echo", "parameters": {"binary_data": True}}
    ranked = {"name": "echo", "parameters": {"classification": 3}}
    with service(tmp_path / "echo", "--max-values", 1000) as running:

        def ask(*outputs):
            text = json.dumps({"inputs": [item], **({"outputs": outputs} if outputs else {})}).encode()
            headers = {"Inference-Header-Content-Length": str(len(text))}
            return running.request("/v2/models/echo/infer", text + array.tobytes(), headers)

        def counted():
            (row,) = json.loads(running.request("/v2/models/echo/stats")[2])["model_stats"]
            spans = row["inference_stats"]
            return row["execution_count"], spans["success"]["count"], spans["fail"]["count"]

        for outputs in ((), ({"name": "echo"},), (few, {"name": "echo", "parameters": {"binary_data": False}})):
            status, _, answer = ask(*outputs)
            assert status == 413, answer
            assert "more than the 1000 values allowed" in json.loads(answer)["error"]
        assert counted() == (0, 0, 3)
        assert [ask(*outputs)[0] for outputs in ((few,), (few, binary), (ranked,))] == [200] * 3
        assert counted() == (3, 3, 3)
        metrics = running.request("/metrics")[2].decode()
        assert 'edgeinfer_requests_total{model="echo",outcome="invalid"} 3.0' in metrics


def test_an_answer_that_turns_out_to_have_too_many_values_is_no_success(tmp_path):
    bundles.classify_bundle(tmp_path / "namer")
    file = base64.b64encode(bundles.png("red")).decode()
    request = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [file]}]}
    with service(tmp_path / "namer", "--max-values", 4) as running:
        status, _, answer = running.request("/v2/models/namer.image/infer", json.dumps(request).encode())
        assert (status, "values allowed" in json.loads(answer)["error"]) == (413, True)
        (row,) = json.loads(running.request("/v2/models/namer.image/stats")[2])["model_stats"]
        assert (row["inference_stats"]["success"]["count"], row["inference_stats"]["fail"]["count"]) == (0, 1)


@pytest.mark.parametrize("way", ["nested", "contents"])
def test_long_rows_that_are_no_flat_json_come_back_as_they_are(tmp_path, way):
    array = np.random.default_rng(3).normal(size=(8, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    with service(bundles.echo_bundle(tmp_path / "echo")) as running:
        if way == "nested":
            item = {"name": "images", "datatype": "FP32", "shape": array.shape, "data": array.tolist()}
            status, _, answer = running.request("/v2/models/echo/infer", json.dumps({"inputs": [item]}).encode())
            assert status == 200, answer
            (echo,) = (one["data"] for one in json.loads(answer)["outputs"] if one["name"] == "echo")
        else:
            message = pb.ModelInferRequest(model_name="echo", outputs=[{"name": "echo"}])
            given = message.inputs.add(name="images", datatype="FP32", shape=array.shape)
            given.contents.fp32_contents.extend(array.ravel().tolist())
            with grpc.insecure_channel(running.grpc) as channel:
                answer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=LONG_S)
            echo = np.frombuffer(answer.raw_output_contents[0], np.float32)
    np.testing.assert_array_equal(np.reshape(echo, array.shape).astype(np.float32), array)


def body(item, data=b""):
    text = json.dumps({"inputs": [item]}).encode()
    return text + data, {"Inference-Header-Content-Length": str(len(text))}


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<I", 5) + b"abc", struct.pack("<I", 2**32 - 1) + b"abc"])
def test_broken_byte_strings_are_refused(served, data):
    item = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    status, _, answer = served.request("/v2/models/uint8.image/infer", *body(item, data))
    assert status == 400
    assert "'image'" in json.loads(answer)["error"]


PLAIN = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}
BINARY = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "parameters": {"binary_data_size": 3072}}
REFUSED = {
    "too large a number": ({"inputs": [{**PLAIN, "data": [256] + [0] * 3071}]}, "outside UINT8"),
    "a fraction": ({"inputs": [{**PLAIN, "data": [0.5] + [0] * 3071}]}, "numbers of UINT8"),
    "truth": ({"inputs": [{**PLAIN, "data": [True] * 3072}]}, "numbers of UINT8"),
    "words": ({"inputs": [{**PLAIN, "data": ["1"] * 3072}]}, "numbers of UINT8"),
    "no data": ({"inputs": [{**PLAIN, "data": None}]}, "'images': data"),
    "an enormous shape": ({"inputs": [{**PLAIN, "shape": [2147483647] * 8}]}, "'images': data has 3072 elements"),
    "sides that are words": ({"inputs": [{**PLAIN, "shape": ["a"]}]}, "'images': shape"),
    "no inputs": ({"inputs": []}, "inputs are none"),
    "inputs that are no list": ({"inputs": {}}, "'inputs'"),
    "an input that is no object": ({"inputs": [3]}, "inputs[0]"),
    "an input without a name": ({"inputs": [{**PLAIN, "name": None}]}, "inputs[0] has no name"),
    "an input without a datatype": ({"inputs": [{**PLAIN, "datatype": None}]}, "'images' has no datatype"),
    "an input twice": ({"inputs": [PLAIN, PLAIN]}, "same name"),
    "an output there is not": ({"inputs": [PLAIN], "outputs": [{"name": "boxes"}]}, "output 'boxes'"),
    "an output twice": ({"inputs": [PLAIN], "outputs": [{"name": "logits"}] * 2}, "same name"),
    "an output without a name": ({"inputs": [PLAIN], "outputs": [{}]}, "outputs[0] has no name"),
    "an id that is a number": ({"inputs": [PLAIN], "id": 3}, "id is not"),
    "a time-out in words": ({"inputs": [PLAIN], "parameters": {"timeout": "now"}}, "parameter timeout"),
    "a parameter there is not": ({"inputs": [PLAIN], "parameters": {"speed": 3}}, "parameter 'speed'"),
    "an input's parameter there is not": (
        {"inputs": [{**PLAIN, "parameters": {"layout": "x"}}]},
        "'layout' of input 'images'",
    ),
    "an output's parameter there is not": (
        {"inputs": [PLAIN], "outputs": [{"name": "logits", "parameters": {"layout": 2}}]},
        "parameter 'layout' of output 'logits'",
    ),
    "half a class": (
        {"inputs": [PLAIN], "outputs": [{"name": "logits", "parameters": {"classification": 0.5}}]},
        "output 'logits': parameter classification",
    ),
    "binary data asked for in words": (
        {"inputs": [PLAIN], "outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
        "output 'logits': parameter binary_data is not true or false",
    ),
    "all of it asked for in words": (
        {"inputs": [PLAIN], "parameters": {"binary_data_output": "true"}},
        "output is not",
    ),
    "binary data that is not there": ({"inputs": [BINARY]}, "binary_data_size 3072"),
    "a negative size of binary data": ({"inputs": [{**BINARY, "parameters": {"binary_data_size": -1}}]}, "size -1"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_field_that_is_wrong_is_named(served, case):
    record, told = REFUSED[case]
    status, _, answer = served.request("/v2/models/uint8/infer", json.dumps(record).encode())
    assert status == 400
    assert told in json.loads(answer)["error"]


def test_binary_data_that_belongs_to_nobody_is_refused(served):
    status, _, answer = served.request("/v2/models/uint8/infer", *body(BINARY, bytes(3073)))
    assert (status, json.loads(answer)["error"]) == (400, "1 bytes of binary data belong to no input")


def test_a_batch_takes_its_time_from_each_of_its_requests_and_counts_once_in_its_size():
    counted = Tally()
    counted.ran(Ran(3, (10, 20), (1, 2, 3)))
    told = counted.as_dict()
    assert (told["inference_count"], told["execution_count"]) == (3, 1)
    assert told["inference_stats"]["queue"] == {"count": 2, "ns": 30}
    assert told["inference_stats"]["compute_infer"] == {"count": 2, "ns": 4}
    assert [(row["batch_size"], row["compute_infer"]) for row in told["batch_stats"]] == [(3, {"count": 1, "ns": 2})]


def test_statistics_count_rows_runs_and_requests_as_triton_defines_them(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer", Batch(1, 4))
    with service(bundle) as running:
        for rows in (2, 1, 1):
            asked("binary", running, "namer", ("images", np.zeros((rows, 3, 32, 32), np.float32)))
        with pytest.raises(InferenceServerException):
            asked("binary", running, "namer", ("images", np.zeros((5, 3, 32, 32), np.float32)))
        with http_client.InferenceServerClient(running.address) as client:
            (http,) = client.get_inference_statistics("namer")["model_stats"]
            (images,) = client.get_inference_statistics("namer.image")["model_stats"]
            assert {row["name"] for row in client.get_inference_statistics()["model_stats"]} == {"namer", "namer.image"}
        with grpc_client.InferenceServerClient(running.grpc) as client:
            (grpc,) = client.get_inference_statistics("namer", as_json=True)["model_stats"]
    # a request of two rows is one execution, two inferences, one success
    assert (http["inference_count"], http["execution_count"], http["version"]) == (4, 3, "1")
    spans = {name: span["count"] for name, span in http["inference_stats"].items()}
    assert spans == {
        "success": 3,
        "fail": 1,
        "queue": 3,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    took = {name: span["ns"] for name, span in http["inference_stats"].items()}
    assert took["success"] >= took["queue"] + took["compute_input"] + took["compute_infer"] + took["compute_output"] > 0
    sizes = [(row["batch_size"], row["compute_infer"]["count"]) for row in http["batch_stats"]]
    assert sizes == [(1, 2), (2, 1)]
    assert sum(row["compute_infer"]["ns"] for row in http["batch_stats"]) == took["compute_infer"]
    assert images["inference_count"] == 0
    assert (grpc["inference_count"], grpc["execution_count"]) == ("4", "3")
    assert grpc["inference_stats"]["success"] == {key: str(n) for key, n in http["inference_stats"]["success"].items()}


def test_every_request_to_a_model_is_counted_however_it_ends(tmp_path):
    bundle = bundles.classify_bundle(tmp_path / "namer")
    whole = {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0.0] * 3072}
    wrong = [
        b"no JSON",
        {},
        {"inputs": []},
        {"inputs": [whole, whole]},
        {"inputs": [{**whole, "data": [0.0]}]},
        {"inputs": [{**whole, "datatype": "FP64"}]},
        {"inputs": [whole], "outputs": [{"name": "scores"}]},
        {"inputs": [whole], "id": 7},
    ]
    with service(bundle) as running:
        for record in ({"inputs": [whole]}, *wrong):
            body = record if isinstance(record, bytes) else json.dumps(record).encode()
            running.request("/v2/models/namer/infer", body)
        with grpc_client.InferenceServerClient(running.grpc) as client:
            short = grpc_client.InferInput("images", [1, 3, 32, 31], "FP32").set_data_from_numpy(
                np.zeros((1, 3, 32, 31), np.float32)
            )
            short.set_shape([1, 3, 32, 32])
            with pytest.raises(InferenceServerException, match="its data is"):
                client.infer("namer", [short])
        (row,) = json.loads(running.request("/v2/models/namer/stats")[2])["model_stats"]
        told = running.request("/metrics")[2].decode()
    refused = len(wrong) + 1
    assert (row["inference_stats"]["success"]["count"], row["inference_stats"]["fail"]["count"]) == (1, refused)
    counted = {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
        if sample.name == "edgeinfer_requests_total"
    }
    assert counted == {"ok": 1, "invalid": refused}


def test_elements_of_bytes_are_not_looked_for_without_end():
    few, many = (struct.pack("<I", 0) * count for count in (tensors.MOST_ELEMENTS, tensors.MOST_ELEMENTS + 1))
    assert len(tensors.from_raw("x", "BYTES", [tensors.MOST_ELEMENTS], few).data) == tensors.MOST_ELEMENTS
    with pytest.raises(Refusal, match="more than the 16384 BYTES elements allowed"):
        tensors.from_raw("x", "BYTES", [1], many)


def test_no_more_of_a_shape_is_looked_at_than_a_shape_may_have():
    with pytest.raises(Refusal, match="is not a list of sizes"):
        tensors.checked_shape("x", "FP32", range(1 << 40))
