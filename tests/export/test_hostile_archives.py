"""Archives, storages and headers that lie about places and sizes: one clear error, and no memory spent."""

import copy
import json
import pickle
import struct
import zipfile
from io import BytesIO

import pytest

from edgeinfer.errors import UnsafeCheckpoint
from edgeinfer_export import torchfiles
from helpers.hostile import GOOD, INERT, MIB, WEIGHT, refused
from helpers.hostile import safetensors_entry as entry
from helpers.pickling import Call, Name, New, Raw, Tensor, Writer, archive, legacy, safetensors

FLOATS = Raw(Writer().opcodes(("storage", Name("torch", "FloatStorage"), "0", "cpu", 6)) + b"Q")
TYPED = (0, (2,), (1,), False, None, Name("torch", "float16"))
TENSORS = {
    "an offset outside": Tensor(WEIGHT, offset=1),
    "a storage of 130 000 bits": Tensor(WEIGHT, numel=Raw(b"\x8b\x00\x40\x00\x00" + b"\x01" * 0x4000)),
    "a far offset": Tensor(WEIGHT, offset=2**62),
    "a negative offset": Tensor(WEIGHT, offset=-1),
    "a stride outside": Tensor(WEIGHT, strides=(4, 1)),
    "a far stride": Tensor(WEIGHT, strides=(2**62, 1)),
    "a negative stride": Tensor(WEIGHT, strides=(-3, 1)),
    "a negative size": Tensor(WEIGHT, shape=(-2, 3)),
    "a size that is no number": Tensor(WEIGHT, shape=("2", 3)),
    "a size that is true": Tensor(WEIGHT, shape=(True, 3)),
    "a size that is a float": Tensor(WEIGHT, shape=(2.0, 3)),
    "an expanded tensor": Tensor(WEIGHT, shape=(10**6, 10**6), strides=(0, 0)),
    "an expanded tensor of 2**500": Tensor(WEIGHT, shape=(2**500, 1), strides=(0, 0)),
    "a slightly expanded tensor": Tensor(WEIGHT, shape=(7,), strides=(0,)),
    "an empty tensor with a huge side": Tensor(WEIGHT, shape=(0, 2**40, 2**40), strides=(1, 1, 1)),
    "fewer strides than sizes": Tensor(WEIGHT, strides=(1,)),
    "seventeen sizes": Tensor(WEIGHT, shape=(1,) * 17, strides=(1,) * 17),
    "a size that is a record": Tensor(WEIGHT, shape=New(INERT)),
    "a storage longer than its member": Tensor(WEIGHT, numel=7),
    "a storage of 2**60": Tensor(WEIGHT, numel=2**60, shape=(2**40,), strides=(1,)),
    "a storage below zero": Tensor(WEIGHT, numel=-6),
    "a storage with a path": Raw(Writer().opcodes(Tensor(WEIGHT, key="../data.pkl"))),
    "a storage that is not there": Raw(Writer().opcodes(Tensor(WEIGHT, key="77"))),
    "a storage with a long key": Raw(Writer().opcodes(Tensor(WEIGHT, key="7" * 999))),
    "no storage at all": Call(Name("torch._utils", "_rebuild_tensor_v2"), (1, 0, (2,), (1,))),
    "too few arguments": Call(Name("torch._utils", "_rebuild_tensor_v2"), (FLOATS, 0, (2,))),
    "no arguments": Call(Name("torch._utils", "_rebuild_tensor_v2")),
    "a typed tensor without a type": Call(Name("torch._utils", "_rebuild_tensor_v3"), (1, 2, 3, 4, 5, 6, 7)),
    "a typed tensor without a storage": Call(Name("torch._utils", "_rebuild_tensor_v3"), (1, *TYPED)),
    "a typed tensor of numbers": Call(Name("torch._utils", "_rebuild_tensor_v3"), (FLOATS, *TYPED)),
    "a parameter of nothing": Call(Name("torch._utils", "_rebuild_parameter")),
}


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_stay_inside_their_storage(tmp_path, name, write):
    error = refused(tmp_path, write({"model": {"w": Tensor(WEIGHT), "x": TENSORS[name]}}))
    assert "share" not in str(error)  # which tensors that lie do not


REFERENCES = {
    "another kind": ("module", Name("torch", "FloatStorage"), "0", "cpu", 6),
    "a class that is a text": ("storage", "torch.FloatStorage", "0", "cpu", 6),
    "a class that runs": ("storage", Name("os", "system"), "0", "cpu", 6),
    "an unknown class": ("storage", Name("torch", "QUInt8Storage"), "0", "cpu", 6),
    "a view": ("storage", Name("torch", "FloatStorage"), "0", "cpu", 6, ("0", 1, 2)),
    "a key that is a list": ("storage", Name("torch", "FloatStorage"), [], "cpu", 6),
    "a length that is a text": ("storage", Name("torch", "FloatStorage"), "0", "cpu", "6"),
    "another length for the same key": ("storage", Name("torch", "FloatStorage"), "0", "cpu", 5),
    "another dtype for the same key": ("storage", Name("torch", "HalfStorage"), "0", "cpu", 6),
    "too short": ("storage", Name("torch", "FloatStorage")),
    "a text": "0",
    "nothing": (),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_only_storages_are_referred_to(tmp_path, name):
    reference = Raw(Writer().opcodes(REFERENCES[name]) + b"Q")
    tensor = Call(Name("torch._utils", "_rebuild_tensor_v2"), (reference, 0, (2,), (1,), False, None))
    refused(tmp_path, archive({"model": {"w": Tensor(WEIGHT), "x": tensor}}))


def test_a_compressed_archive_is_refused(tmp_path):
    bomb = archive(GOOD, compression=zipfile.ZIP_DEFLATED, storages={"data/9": b"\0" * (8 * MIB)})
    assert len(bomb) < MIB / 8
    assert "compressed" in str(refused(tmp_path, bomb, UnsafeCheckpoint, memory=2 * MIB))


def test_a_long_member_name_is_not_repeated(tmp_path):
    content = archive(GOOD, compression=zipfile.ZIP_DEFLATED, storages={"data/" + "9" * 9999: b"\0" * 99})
    assert "compressed" in str(refused(tmp_path, content, UnsafeCheckpoint))


def test_a_member_twice_is_refused(tmp_path):
    file = BytesIO(archive(GOOD))
    with zipfile.ZipFile(file, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("model/data/0", WEIGHT.tobytes())
    assert "twice" in str(refused(tmp_path, file.getvalue(), UnsafeCheckpoint))


def test_members_in_one_place_are_refused(tmp_path):
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("model/data.pkl", Writer().dump({"w": 1}))
        target.writestr("model/data/0", b"\0" * 10_000)
        first = target.infolist()[1]
        for place in range(1, 50):
            again = copy.copy(first)
            again.filename = f"model/data/{place}"
            target.filelist.append(again)
    assert "claim" in str(refused(tmp_path, file.getvalue(), UnsafeCheckpoint))


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [(8, "H", 1), (42, "I", 3), (20, "II", 10**6)],
    ids=["encrypted", "elsewhere", "too long"],
)
def test_a_member_that_is_not_what_the_directory_says_is_refused(tmp_path, place, kind, value):
    content = bytearray(archive(GOOD))
    last = content.rindex(b"PK\x01\x02")
    struct.pack_into(f"<{kind}", content, last + place, *[value] * len(kind))
    error = refused(tmp_path, bytes(content))
    assert "is encrypted or not where the directory says" in str(error)


def test_a_pickle_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torchfiles, "MAX_PICKLE", 100)
    assert "bytes long, above 100" in str(refused(tmp_path, archive(GOOD), UnsafeCheckpoint))


def test_two_pickles_are_refused(tmp_path):
    refused(tmp_path, archive(GOOD, storages={"more/data.pkl": Writer().dump(1)}))


def test_an_unknown_byte_order_is_refused(tmp_path):
    refused(tmp_path, archive(GOOD, storages={"byteorder": b"middle"}))


@pytest.mark.parametrize("write", [archive, legacy])
def test_every_truncation_is_one_error(tmp_path, write):
    content = write(GOOD)
    for size in range(1, len(content), 7):
        refused(tmp_path, content[:size])


@pytest.mark.parametrize("keys", [1, {}, ["0", "0"], ["7"], [0], []])
def test_the_old_format_lists_its_storages_once(tmp_path, keys):
    content = legacy(GOOD)
    listed = pickle.dumps(["0"], 2)
    refused(tmp_path, content.replace(listed, pickle.dumps(keys, 2)))


def test_another_version_of_the_old_format_is_told(tmp_path):
    content = legacy(GOOD).replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2))
    assert "protocol is not 1001" in str(refused(tmp_path, content))


@pytest.mark.parametrize("size", [-1, 0, 7, 2**62])
def test_the_old_format_does_not_believe_lengths(tmp_path, size):
    numbers = WEIGHT.tobytes()
    refused(tmp_path, legacy(GOOD).replace(struct.pack("<q", 6) + numbers, struct.pack("<q", size) + numbers))


HEADERS = {
    "out of range": {"x": entry(0, 80, (20,))},
    "out of range in two sizes": {"x": entry(0, 80, (2, 10))},
    "overlapping": {"x": entry(), "y": entry(4, 12)},
    "with a gap": {"x": entry(), "y": entry(9, 17)},
    "with a gap in front": {"x": entry(1, 9)},
    "of the wrong length": {"x": entry(0, 8, (3,))},
    "backwards": {"x": entry(8, 0)},
    "negative": {"x": entry(-8, 0)},
    "with a negative size": {"x": entry(0, 8, (-1, -2))},
    "with a huge size": {"x": entry(0, 0, (0, 2**62, 2**62))},
    "with a size that is true": {"x": entry(0, 8, (True, 2))},
    "with a size that is a text": {"x": entry(0, 8, ("2",))},
    "with too many sizes": {"x": entry(0, 8, (2, *[1] * 16))},
    "of an unknown dtype": {"x": entry(dtype="F8_E4M3")},
    "of a dtype that is a list": {"x": {**entry(), "dtype": []}},
    "without offsets": {"x": {"dtype": "F32", "shape": [2]}},
    "with three offsets": {"x": {**entry(), "data_offsets": [0, 4, 8]}},
    "with offsets that are a number": {"x": {**entry(), "data_offsets": 8}},
    "with a shape that is a number": {"x": {**entry(), "shape": 2}},
    "that are no map": {"x": [1]},
    "with odd metadata": {"__metadata__": {"a": 1}, "x": entry()},
    "with metadata that is no map": {"__metadata__": [1], "x": entry()},
    "with names that are no JSON": {"__metadata__": {"names": "["}, "x": entry()},
    "with deep names": {"__metadata__": {"names": "[" * 100_000}, "x": entry()},
    "with a long name": {"x" * 9999: entry()},
    "with a long name and an unknown dtype": {"x" * 9999: entry(dtype="y" * 9999)},
    "with an unprintable name": {"\ud800": entry()},
    "as a list": b'["x", 1]',
    "that are deep": b'{"x":' + b"[" * 100_000,
    "that are cut": json.dumps({"x": entry()}).encode()[:-3],
    "named twice": b'{"x":' + json.dumps(entry()).encode() + b',"x":' + json.dumps(entry()).encode() + b"}",
    "with a number of 5000 digits": b'{"x":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors_headers(tmp_path, name):
    content = {"overlapping": 12, "with a gap": 17, "with a gap in front": 9}.get(name, 8)
    refused(tmp_path, safetensors(HEADERS[name], bytes(content)))


def test_safetensors_with_bytes_behind_the_last_tensor(tmp_path):
    error = refused(tmp_path, safetensors({"x": entry()}, bytes(9)))
    assert "1 bytes lie behind the last tensor" in str(error)


@pytest.mark.parametrize("size", [0, 1, 100, 2**31, 2**63, 2**64 - 1])
def test_a_safetensors_header_of_any_claimed_length(tmp_path, size):
    refused(tmp_path, struct.pack("<Q", size) + json.dumps({"x": entry()}).encode() + b"\0" * 8)
