"""The best classes instead of numbers: Triton's classification extension, with its own clients."""

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import InferenceServerException

from edgeinfer.serve import tensors
from edgeinfer.serve.ranking import ranked
from edgeinfer.spec import Batch
from helpers import bundles
from helpers.service import service

SIDE = bundles.SIDE


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bundles.classify_bundle(folder / "one")
    bundles.classify_bundle(folder / "many", Batch(1, 4))
    bundles.detect_bundle(folder / "finder")
    with service(folder) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def module(request):
    return {"grpc": grpc_client, "http": http_client}[request.param]


@pytest.fixture
def client(served, module):
    with module.InferenceServerClient(served.grpc if module is grpc_client else served.address) as one:
        yield one


def asked(client, module, name, array, output, count, **how):
    item = module.InferInput("images", list(array.shape), "FP32")
    item.set_data_from_numpy(array)
    wanted = module.InferRequestedOutput(output, class_count=count, **how)
    return client.infer(name, [item], outputs=[wanted]).as_numpy(output)


def colored(*channels):
    array = np.zeros((len(channels), 3, SIDE, SIDE), np.float32)
    for place, channel in enumerate(channels):
        array[place, channel] = 1
    return array


def test_a_classifier_says_its_best_classes(client, module):
    found = asked(client, module, "one", colored(1), "logits", 2)
    assert found.tolist() == [b"10.000000:1:green", b"0.000000:0:red"]
    found = asked(client, module, "many", colored(1, 2), "logits", 1)
    assert found.tolist() == [[b"10.000000:1:green"], [b"10.000000:2:blue"]]
    assert asked(client, module, "many", colored(0), "logits", 9).shape == (1, 3)


def test_numbers_that_have_no_labels_are_told_without(client, module):
    best, *_ = asked(client, module, "finder", colored(1), "output0", 1).tolist()
    assert best == b"16.000000:0"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_whole_numbers_are_told_as_such(dtype):
    words = ranked(tensors.of("classes", np.array([3, 80, 0, 80], dtype)), 3, [], batched=False)
    assert words.data == [b"80:1", b"80:3", b"3:0"]


def test_words_have_no_best_classes(client, module):
    item = module.InferInput("frame", [4, 4, 3], "UINT8")
    item.set_data_from_numpy(bundles.picture("red", 4, 4))
    with pytest.raises(InferenceServerException, match="'labels' is BYTES"):
        client.infer("one.image", [item], outputs=[module.InferRequestedOutput("labels", class_count=1)])


def test_the_words_may_stand_in_json(served):
    with http_client.InferenceServerClient(served.address) as client:
        found = asked(client, http_client, "one", colored(2), "logits", 1, binary_data=False)
        assert found.tolist() == ["10.000000:2:blue"]


@given(
    values=arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=st.integers(-2, 2)),
    most=st.integers(1, 8),
)
def test_rows_are_ranked_each_for_itself_and_equals_in_their_order(values, most):
    labels = [f"class {place}" for place in range(values.shape[1])]
    words = ranked(tensors.of("logits", values), most, labels, batched=True)
    count = min(most, values.shape[1])
    assert words.shape == (len(values), count)
    for row, found in zip(values.tolist(), np.reshape(words.data, words.shape).tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda place: (-row[place], place))[:count]
        assert found == [f"{row[place]:f}:{place}:class {place}".encode() for place in expected]
