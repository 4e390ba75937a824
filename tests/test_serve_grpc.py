"""What gRPC has of its own: typed contents, deadlines, cancelled calls, the hint when to come again."""

import json
import struct
from unittest import mock

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from edgeinfer.serve import contents, messages
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.refusals import Refusal
from helpers import bundles
from helpers.patience import LONG_S, until
from helpers.service import service

PATH = "/inference.GRPCInferenceService/ModelInfer"
SHAPE = [1, 3, bundles.SIDE, bundles.SIDE]
VALUES = int(np.prod(SHAPE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    bundles.classify_bundle(path / "namer")
    bundles.classify_bundle(path / "patient")
    bundles.casts_bundle(path / "casts", "uint8")
    return path


@pytest.fixture(scope="module")
def served(folder):
    gate = folder.parent / f"{folder.name}.gate"
    with service(folder, "--queue", 2, gate=gate) as running:
        running.gate = gate
        yield running


@pytest.fixture
def gate(served):
    """While this file stands, what an engine works on takes as long as it does."""
    served.gate.touch()
    yield served.gate
    served.gate.unlink(missing_ok=True)


@pytest.fixture
def infer(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield channel.unary_unary(PATH, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)


def request(name="namer", datatype="FP32", shape=SHAPE, raw=None, **fields):
    """A message with one input of typed contents, or of raw ones."""
    made = pb.ModelInferRequest(model_name=name)
    item = made.inputs.add(name="images", datatype=datatype, shape=shape)
    for field, values in fields.items():
        getattr(item.contents, field).extend(values)
    if raw is not None:
        made.raw_input_contents.extend(raw)
    return made


def full(value, name="namer"):
    return request(name, raw=[np.full(SHAPE, value, np.float32).tobytes()])


def planes(color):
    return (bundles.picture(color)[..., ::-1].transpose(2, 0, 1) / 255).astype(np.float32)


def logits(answer):
    return np.frombuffer(answer.raw_output_contents[0], np.float32)


@pytest.mark.parametrize("color", bundles.COLORS)
def test_typed_contents_are_read_as_raw_ones(infer, color):
    typed = infer(request(fp32_contents=planes(color).ravel().tolist()))
    raw = infer(request(raw=[planes(color).tobytes()]))
    assert logits(typed).tolist() == logits(raw).tolist()
    assert bundles.COLORS[logits(typed).argmax()] == color
    frame = bundles.picture(color)[None, ..., ::-1]
    counted = infer(request("casts", "UINT8", frame.shape, uint_contents=frame.ravel().tolist()))
    assert bundles.COLORS[logits(counted).argmax()] == color


def test_typed_bytes_are_a_picture(infer):
    made = pb.ModelInferRequest(model_name="namer.image")
    file = bundles.png("blue")
    made.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(file)
    labels = infer(made).raw_output_contents[2]
    assert labels[: struct.unpack("<I", labels[:4])[0] + 4][4:] == b"blue"


ZEROS = [0.0] * VALUES
WRONG = {
    "both kinds of contents": (request(fp32_contents=ZEROS, raw=[bytes(4 * VALUES)]), "'images' has both contents"),
    "raw contents for one too many": (request(raw=[bytes(4 * VALUES), b""]), "raw_input_contents has 2"),
    "contents of another type": (
        request(int_contents=[0] * VALUES),
        "'images' has int_contents, and FP32 goes into fp32",
    ),
    "contents of two types": (
        request(fp32_contents=ZEROS, uint64_contents=[0]),
        "'images' has uint64_contents, and FP32",
    ),
    "contents too short": (request(fp32_contents=ZEROS[1:]), f"'images': data has {VALUES - 1} elements"),
    "raw contents too short": (request(raw=[bytes(4 * VALUES - 1)]), f"'images': its data is {4 * VALUES - 1} bytes"),
    "no contents": (request(), "'images': data has 0 elements"),
    "numbers beyond the type": (
        request("casts", "UINT8", [1, 32, 32, 3], uint_contents=[256] * VALUES),
        "'images': data holds numbers outside UINT8",
    ),
    "half floats, which have no field": (request(datatype="FP16"), "'images': FP16 goes into raw_input_contents"),
    "another type than the model's": (
        request(datatype="INT64", int64_contents=[0] * VALUES),
        "'images': datatype is INT64",
    ),
    "a type there is not": (request(datatype="FP31"), "'images': datatype 'FP31'"),
    "an input's parameter there is not": (request(), "'layout' of input 'images'"),
    "an output's parameter there is not": (request(raw=[bytes(4 * VALUES)]), "'layout' of output 'logits'"),
    "classes below zero": (request(raw=[bytes(4 * VALUES)]), "'logits': parameter classification"),
    "a side below zero": (request(shape=[-1], fp32_contents=[]), "'images': shape"),
}

WRONG["an input's parameter there is not"][0].inputs[0].parameters["layout"].string_param = "x"
WRONG["an output's parameter there is not"][0].outputs.add(name="logits").parameters["layout"].int64_param = 2
WRONG["classes below zero"][0].outputs.add(name="logits").parameters["classification"].int64_param = -2


@pytest.mark.parametrize("case", sorted(WRONG))
def test_contents_that_do_not_fit_are_refused_and_the_input_is_named(infer, case):
    message, told = WRONG[case]
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert told in caught.value.details()


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\x7f", b"\x0b", b"\x08" + b"\xff" * 11, b"\x10\x00" * 2000, b"\x0a\x01\xff"]
)
def test_what_is_no_message_is_refused(served, data):
    with grpc.insecure_channel(served.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PATH)(data)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ModelInferRequest" in caught.value.details()


raws = st.lists(st.sampled_from([0, 1, 127, 128, 300, 16383, 16384, 70000]).map(bytes), max_size=3)
texts = st.text(max_size=5)
whole = st.lists(st.integers(0, 1 << 31))
typed = st.builds(pb.InferTensorContents, int64_contents=whole, fp32_contents=whole, uint_contents=whole)
sides = st.lists(st.integers(-3, 1 << 40))
inputs = st.builds(pb.ModelInferRequest.InferInputTensor, name=texts, shape=sides, contents=typed)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=texts,
    id=texts,
    inputs=st.lists(inputs, max_size=3),
    raw_input_contents=raws,
)


@given(requests)
def test_a_message_is_split_as_protobuf_reads_it(made):
    with mock.patch.object(contents, "LITTLE", 0):
        head, raw, count = contents.split(made.SerializeToString(), Limits())
    assert [bytes(one) for one in raw] == list(made.raw_input_contents)
    assert count == sum(len(one.shape) + sum(len(of) for _, of in one.contents.ListFields()) for one in made.inputs)
    del made.raw_input_contents[:]
    assert head.SerializeToString() == made.SerializeToString()


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_are_split_or_refused(data):
    try:
        head, raw, _ = contents.split(data, Limits())
    except Refusal:
        return
    theirs = pb.ModelInferRequest.FromString(data)
    assert [bytes(one) for one in raw] == list(theirs.raw_input_contents)
    assert head.model_name == theirs.model_name


def test_a_message_of_too_many_fields_is_refused():
    few, many = (pb.ModelInferRequest(raw_input_contents=[b"x"] * count) for count in (999, 1000))
    assert len(contents.split(few.SerializeToString(), Limits())[1]) == 999
    with pytest.raises(Refusal, match="it has 1000 fields or more"):
        contents.split(many.SerializeToString(), Limits())


Input, Output = pb.ModelInferRequest.InferInputTensor, pb.ModelInferRequest.InferRequestedOutputTensor
MANY = {f"{place}": pb.InferParameter(bool_param=True) for place in range(1000)}
FILLING = {
    "a shape": {"inputs": [Input(shape=range(1001))]},
    "integers": {"inputs": [Input(contents=pb.InferTensorContents(int64_contents=range(1001)))]},
    "floats": {"inputs": [Input(contents=pb.InferTensorContents(fp32_contents=range(1001)))]},
    "texts": {"inputs": [Input(contents=pb.InferTensorContents(bytes_contents=[b""] * 1000))]},
    "parameters of an input": {"inputs": [Input(parameters=MANY)]},
    "parameters of an output": {"outputs": [Output(parameters=MANY)]},
}


@pytest.mark.parametrize("case", sorted(FILLING))
def test_what_would_take_more_room_in_memory_than_in_its_message_is_refused_before_it_is_read(case):
    made = pb.ModelInferRequest(**FILLING[case])
    with pytest.raises(Refusal, match=r"more than the 1000 values allowed|it has 1000 fields or more"):
        contents.split(made.SerializeToString(), Limits(values=1000))


def test_a_message_of_a_small_call_is_refused_if_it_is_none_or_not_small(served):
    with grpc.insecure_channel(served.grpc) as channel:
        for call in ("ModelReady", "RepositoryModelLoad"):
            for data, code in ((b"\xff", "INVALID_ARGUMENT"), (bytes(2 << 20), "RESOURCE_EXHAUSTED")):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(PATH.replace("ModelInfer", call))(data)
                assert (caught.value.code().name, f"{call}Request" in caught.value.details()) == (code, True)


@given(texts, raws)
def test_an_answer_is_written_as_protobuf_writes_it(name, raw):
    head = messages.message("ModelInferResponse")(model_name=name)
    theirs = pb.ModelInferResponse(model_name=name, raw_output_contents=raw)
    assert contents.response(head, raw) == theirs.SerializeToString()
    assert contents.streamed(head, raw) == pb.ModelStreamInferResponse(infer_response=theirs).SerializeToString()


def outcomes(served, name):
    rows = [one for one in served.request("/metrics")[2].decode().splitlines() if "edgeinfer_requests_total{" in one]
    return {one.split('outcome="')[1].split('"')[0]: float(one.split()[-1]) for one in rows if f'"{name}"' in one}


def occupied(served, infer):
    """A call that the patient one is at work on, as long as the gate stands."""
    running = infer.future(full(0.5, "patient"))
    until(lambda: served.gauge("busy_seconds", "patient") > 0)
    return running


def test_a_call_that_is_cancelled_or_too_late_leaves_the_queue(served, infer, gate):
    running = occupied(served, infer)
    waiting = infer.future(full(0.5, "patient"))
    until(lambda: served.gauge("queue_depth", "patient") == 1)

    def queued():
        """A call that waits behind the other and has a second for it; one that is slow to arrive may not."""
        late = infer.future(full(0.5, "patient"), timeout=1)
        until(lambda: late.done() or served.gauge("queue_depth", "patient") == 2)
        return not late.done() and late

    assert until(queued).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    waiting.cancel()
    until(lambda: served.gauge("queue_depth", "patient") == 0)
    assert not running.done()
    # both places are free again
    again = [infer.future(full(0.5, "patient")) for _ in range(2)]
    until(lambda: served.gauge("queue_depth", "patient") == 2)
    gate.unlink()
    assert [len(one.result().raw_output_contents) for one in (running, *again)] == [1, 1, 1]
    assert outcomes(served, "patient")["cancelled"] >= 2


def test_overload_is_told_at_once_with_the_time_to_come_again(served, infer, gate):
    before = outcomes(served, "patient").get("overload", 0)
    running = occupied(served, infer)
    waiting = [infer.future(full(0.5, "patient")) for _ in range(2)]
    until(lambda: served.gauge("queue_depth", "patient") == 2)
    with pytest.raises(grpc.RpcError) as caught:
        infer(full(0.5, "patient"))
    assert not running.done()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "queue is full" in caught.value.details()
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    assert outcomes(served, "patient")["overload"] == before + 1
    gate.unlink()
    assert all(one.result().outputs for one in (running, *waiting))


def test_a_client_with_a_retry_policy_comes_again_when_it_was_told_to(served, gate):
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    channel = grpc.insecure_channel(served.grpc, options=[("grpc.service_config", json.dumps(config))])
    infer = channel.unary_unary(PATH, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
    with channel:
        before = outcomes(served, "patient").get("overload", 0)
        asked = [infer.future(full(0.5, "patient")) for _ in range(7)]
        until(lambda: outcomes(served, "patient").get("overload", 0) > before)
        gate.unlink()
        assert all(one.result(timeout=LONG_S).outputs for one in asked)
