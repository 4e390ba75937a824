"""Long JSON that is read a piece at a time: the same as json reads, and the event loop is free meanwhile."""

import json
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer.serve import reading, tensors, wire
from edgeinfer.serve.refusals import Refusal


def plain(value):
    """The value with lists in the place of arrays."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.fixture(params=[4, 40, 1 << 16])
def _piece(request, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", request.param)


numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False))
rows = st.one_of(st.lists(st.integers(-(2**53), 2**53)), st.lists(st.floats(allow_nan=False)))
leaves = st.one_of(numbers, st.none(), st.booleans(), st.text(), rows)
records = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=40
)


@pytest.mark.parametrize("size", [2, 20])
@given(record=records, indent=st.sampled_from([None, 1]))
@example(record=[[0, ""]], indent=None)
def test_whatever_json_reads_is_read_the_same(size, record, indent):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", size)
        found = reading.loads(json.dumps(record, indent=indent).encode())
    assert plain(found) == record


@pytest.mark.parametrize("shape", [(30_000,), (3, 100, 100), (100, 100, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_long_lists_of_numbers_become_arrays_of_the_same_numbers(shape, dtype):
    array = (np.random.default_rng(1).random(shape) * 255).astype(dtype)
    found = reading.loads(json.dumps({"data": array.tolist(), "shape": list(shape)}).encode())
    assert found["shape"] == list(shape)
    tensor = tensors.from_list("x", tensors.DATATYPES[array.dtype.name], shape, found["data"])
    assert isinstance(found["data"][0], (np.ndarray, np.generic))
    np.testing.assert_array_equal(tensor.data, array)


@pytest.mark.usefixtures("_piece")
@pytest.mark.parametrize(
    "text",
    [
        "[1,2,3,4,5,6,7,8,9,]",
        "[1,2,,3,4,5,6,7,8]",
        "[1,2,3,4 5,6,7,8]",
        "[1,2,3,4,5,-,7,8]",
        "[1,2,3,4,5,6,7,8",
        pytest.param("[," + " " * (1 << 17) + "1]", id="a comma before all"),
    ],
)
def test_what_is_no_json_is_refused_wherever_it_is_cut(text):
    with pytest.raises(ValueError, match=r"line 1 column|Illegal"):
        reading.loads(text.encode())
    with pytest.raises(RecursionError):
        reading.loads(b"[1," * 100_000)


@pytest.mark.usefixtures("_piece")
@pytest.mark.parametrize("text", ["[NaN, Infinity, -Infinity, 1e999, 1]", "[18446744073709551615, 1, 2.5]"])
def test_numbers_that_are_no_usual_ones_are_read_as_json_reads_them(text):
    np.testing.assert_array_equal(np.asarray(reading.loads(text.encode())), np.asarray(json.loads(text)))


def test_json_itself_which_leaves_other_threads_no_turn_gets_short_pieces_only(monkeypatch):
    seen, loads = [], json.loads

    class Spy(json.JSONDecoder):
        def raw_decode(self, text, idx=0):
            seen.append(len(text))
            return super().raw_decode(text, idx)

    array = np.random.default_rng(1).random((200, 100, 3))
    texts = [json.dumps({"data": data.tolist()}).encode() for data in (array, array.reshape(-1), array.reshape(3, -1))]
    monkeypatch.setattr(reading, "_AT_ONCE", Spy())
    monkeypatch.setattr(json, "loads", lambda text: (seen.append(len(text)), loads(text))[1])
    for text in texts:
        assert len(text) > 10 * reading.PIECE
        reading.loads(text)
    assert len(seen) > 30
    assert max(seen) <= 2 * reading.PIECE


@pytest.mark.parametrize("values", [[1, "x" * 10_000_000], [[1, 2], [3, "x"]], [1, None], [[[1], 2], 3], [{}, {}]])
def test_a_string_among_numbers_is_refused_before_it_takes_memory(values):
    told = "input 'x': data holds other things than numbers of FP32"
    with pytest.raises(Refusal, match=re.escape(told)):
        tensors.from_list("x", "FP32", [2] if not isinstance(values[0], list) else [2, 2], values)


def test_little_json_before_many_binary_bytes_is_read_at_once():
    body = b"{}" + bytes(1_000_000)
    assert [wire.is_long("2", body), wire.is_long("", body)] == [False, True]
