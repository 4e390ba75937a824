"""Files made to run code, to fill the memory or to crash the reader: one clear error, and nothing else happens."""

import copy
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinfer.errors import CheckpointError, EdgeInferError, UnsafeCheckpoint
from edgeinfer_export import checkpoint, pickles
from helpers.pickling import ORDERED, Call, Name, New, Raw, Tensor, Writer, archive, legacy, module, safetensors

MIB = 1 << 20
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
GOOD = {"model": {"fc.weight": Tensor(WEIGHT)}, "names": {0: "bus"}, "yaml": {"nc": 1}, "stride": [8]}


def refused(tmp_path, content, expected=CheckpointError, memory=None):
    """The error that reading gives; with `memory`, after checking that no more bytes than that were allocated."""
    path = tmp_path / "hostile.pt"
    path.write_bytes(content)
    if memory:
        tracemalloc.start()
    try:
        with pytest.raises(expected) as caught:
            checkpoint.read(path)
        assert not memory or tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("hostile.pt: ")
    assert len(str(caught.value)) < 600
    return caught.value


DANGEROUS = [
    *("os.system", "posix.system", "nt.system", "os.popen", "os.execv", "subprocess.Popen", "subprocess.check_output"),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.open", "builtins.__import__", "builtins.map"),
    *("__builtin__.eval", "__builtin__.execfile", "importlib.import_module", "runpy.run_path", "runpy._run_code"),
    *("operator.attrgetter", "operator.methodcaller", "functools.partial", "functools.reduce", "sys.exit"),
    *("socket.create_connection", "shutil.rmtree", "webbrowser.open", "ctypes.CDLL", "pickle.loads", "marshal.loads"),
    *("types.FunctionType", "types.CodeType", "code.InteractiveInterpreter", "pdb.run", "timeit.timeit", "bdb.Bdb.run"),
    *(
        "logging.config.listen",
        "pty.spawn",
        "threading.Thread",
        "multiprocessing.Process",
        "asyncio.run",
        "commands.getoutput",
    ),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.serialization.load", "torch.storage._load_from_bytes"),
    *(
        "torch.utils.cpp_extension.load_inline",
        "torch._inductor.codecache.compile_file",
        "torch._dynamo.eval_frame.run",
    ),
    *("numpy.load", "numpy.fromfile", "numpy.testing._private.utils.runstring", "numpy.f2py.compile"),
    *("pip.main", "pip._internal.main", "setuptools.setup", "joblib.load", "dill.loads", "cloudpickle.loads"),
    *("collections.namedtuple", "datetime.sys.exit", "pathlib.os.system"),
]


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("path", DANGEROUS)
def test_names_that_run_things_are_refused_by_name(tmp_path, path, write):
    origin, _, name = path.rpartition(".")
    error = refused(tmp_path, write({**GOOD, "extra": Call(Name(origin, name), ("id",))}), UnsafeCheckpoint)
    shown = path.replace("posix.", "os.").replace("nt.", "os.").replace("__builtin__.", "builtins.")
    assert shown in str(error)
    assert "PyTorch" in error.hint


@pytest.mark.parametrize("step", [b"R", b"\x81", b"}\x92"])
def test_every_way_to_call_is_refused(tmp_path, step):
    refused(tmp_path, archive(b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00idt" + step + b"."), UnsafeCheckpoint)


def test_a_name_from_the_stack_is_refused(tmp_path):
    content = archive(b"\x80\x04\x8c\x05posix\x8c\x06system\x93)R.")
    assert "os.system" in str(refused(tmp_path, content, UnsafeCheckpoint))


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("protocol", range(6))
def test_the_payload_does_not_run(tmp_path, protocol):
    canary = tmp_path / "canary"
    refused(tmp_path, archive(pickle.dumps({"model": Payload(canary)}, protocol)), CheckpointError)
    assert not canary.exists()


def test_the_payload_would_have_run(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_payload_around_a_good_model_does_not_run(tmp_path, where):
    canary = tmp_path / "canary"
    payload = {"extra": Raw(pickle.dumps(Payload(canary), 2)[2:-1])}
    refused(tmp_path, archive({**payload, **GOOD} if where == "before" else {**GOOD, **payload}), UnsafeCheckpoint)
    assert not canary.exists()


def test_a_payload_in_front_of_the_magic_number_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    error = refused(tmp_path, pickle.dumps(Payload(canary), 2), UnsafeCheckpoint)
    assert "os.system" in str(error)
    assert not canary.exists()


INERT = Name("models.common", "Conv")
CALLS = {
    "a call of what a call gave": Call(Call(INERT), ()),
    "a call of a built object": Call(New(INERT), ()),
    "a call of a tensor": Call(Tensor(WEIGHT), ()),
    "a call of a text": Call("os.system", ()),
    "getattr of a name": Call(Name("builtins", "getattr"), (INERT, "__init__")),
    "getattr of a number": Call(Name("builtins", "getattr"), (1, "__class__")),
    "a subclass rebuilt by a call": Call(Name("torch._tensor", "_rebuild_from_type_v2"), (Call(INERT), INERT, (), {})),
    "a subclass of itself, deeply": Raw(
        b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00" + b"h\x00h\x00" * 5000 + b")" + b"\x87" * 5000 + b"R"
    ),
    "an object of an object": Call(Name("copyreg", "_reconstructor"), (New(INERT), Name("builtins", "object"), None)),
    "an object of torch.load": Call(Name("copyreg", "_reconstructor"), (Name("torch", "load"), 1, 2)),
    "a name with a space": Name("os", "system x"),
    "a name without a module": Name("", "system"),
    "a very long name": Name("m" * 300, "C"),
    "arguments that are no tuple": Raw(b"cmodels.common\nConv\n]R"),
    "a state for a number": Raw(b"K\x01}b"),
    "an item for a number": Raw(b"K\x01K\x02a"),
    "a key for a list": Raw(b"]K\x01K\x02s"),
    "half a pair": Raw(b"}(K\x01u"),
    "a list as key": Raw(b"}]K\x01s"),
    "an empty stack": Raw(b"0000"),
    "a mark never made": Raw(b"t"),
    "a memo never written": Raw(b"h\x07"),
    "a memo far away": Raw(b"j\xff\xff\xff\xff"),
    "a set of nothing but calls": Call(Name("builtins", "frozenset"), (Call(Call(INERT)),)),
}


@pytest.mark.parametrize("name", CALLS)
def test_odd_calls_are_one_error(tmp_path, name):
    refused(tmp_path, archive({**GOOD, "extra": CALLS[name]}))


OPCODES = {
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(cmodels.common\nConv\no",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pstorage\n",
    "NEXT_BUFFER": b"\x97",
    "DUP": b"N2",
    "UNICODE": b"Vtext\n",
    "GET": b"g0\n",
    "an unknown opcode": b"\xff",
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_of_no_torch_are_refused(tmp_path, name):
    error = refused(tmp_path, archive(b"\x80\x02" + OPCODES[name] + b"."))
    assert f"opcode {name}" in str(error) or name == "an unknown opcode"


LENGTHS = {
    "BINUNICODE8": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINBYTES8": b"\x8e\xff\xff\xff\xff\xff\x00\x00\x00",
    "BYTEARRAY8": b"\x96\xff\xff\xff\xff\xff\x00\x00\x00",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "LONG4 below zero": b"\x8b\xff\xff\xff\xff",
    "LONG4 that is there": b"\x8b\x00\x00\x10\x00" + b"\x01" * MIB,
    "FRAME": b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    "LONG_BINPUT": b"Nr\xff\xff\xff\xff",
    "PROTO": b"\x80\xff" * 100,
}


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_are_not_believed(tmp_path, name, write):
    refused(tmp_path, write(b"\x80\x02" + LENGTHS[name] + b"."), memory=4 * MIB + 4 * len(LENGTHS[name]))


def doubled(opcode, times=60):
    """Nested pairs: each memo entry holds the one before twice."""
    steps = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + opcode + b"q" + bytes([i + 1]) for i in range(times))
    return Raw(b"K\x01q\x00" + steps)


def doubled_modules(times=60):
    """Each module has the one before as two children."""
    made = [Raw(Writer().opcodes(module("m.M", buffers={"x": None})) + b"q\x00")]
    for i in range(times):
        inner = Raw(b"h" + bytes([i]))
        made.append(Raw(Writer().opcodes(module("m.M", children={"a": inner, "b": inner})) + b"q" + bytes([i + 1])))
    return {"parts": made, "model": Raw(b"h" + bytes([times]))}


def nested_in_itself():
    inner = module("m.M", children={"a": Raw(b"h\x00")})
    return Raw(Writer().opcodes(New(inner.origin)) + b"q\x00" + Writer().opcodes(inner.state) + b"b")


LONG_TEXT = Raw(b"X\x00\x00\x10\x00" + b"a" * MIB + b"q\x01")
BOMBS = {
    "tuples as YAML": {**GOOD, "yaml": {"nc": doubled(b"\x86")}},
    "lists as YAML": {**GOOD, "yaml": {"nc": Raw(b"]q\x00" + b"h\x00a")}},
    "lists of lists as YAML": {
        **GOOD,
        "yaml": {"nc": Raw(b"]q\x00" + b"](" + b"h\x00" * 999 + b"eq\x01](" + b"h\x01" * 999 + b"e")},
    },
    "tuples as a key": {**GOOD, "extra": Raw(b"}" + doubled(b"\x86").opcodes + b"Ns")},
    "tuples as a shape": {"w": Tensor(WEIGHT, shape=(doubled(b"\x86"), 1))},
    "modules": doubled_modules(),
    "a module in itself": nested_in_itself(),
    "one long text as many labels": {**GOOD, "names": [LONG_TEXT] + [Raw(b"h\x01")] * 999},
    "one long text as a tensor's name": {"model": {LONG_TEXT: Tensor(WEIGHT)}},
    "one long text as many names": {**GOOD, "x": [LONG_TEXT, *[Raw(b"h\x01h\x01\x93")] * 999]},
}


@pytest.mark.parametrize("name", BOMBS)
def test_shared_parts_do_not_multiply(tmp_path, name):
    refused(tmp_path, archive(BOMBS[name]), memory=40 * MIB)


LEVELS = 100_000
DEEP = {
    "lists": b"]" * LEVELS + b"a" * (LEVELS - 1),
    "tuples": b")" + b"\x85" * LEVELS,
    "dicts": b"}" + b"K\x01}" * LEVELS + b"s" * LEVELS,
    "marks": b"(" * LEVELS + b"t" * LEVELS,
    "records": b"cm\nM\nq\x000" + b"h\x00)\x81" * LEVELS + b"b" * (LEVELS - 1),
    "arguments": b"cm\nM\nq\x00" + b"h\x00" * LEVELS + b")R" + b"\x85R" * LEVELS,
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deeply_nested_model_does_not_crash(tmp_path, name):
    refused(tmp_path, archive({"model": Raw(DEEP[name])}))


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_in_the_yaml_does_not_crash(tmp_path, name):
    content = archive({**GOOD, "yaml": Raw(DEEP[name])})
    if name in ("records", "arguments"):  # only remembered, and not walked through
        (tmp_path / "deep.pt").write_bytes(content)
        assert checkpoint.read(tmp_path / "deep.pt").yaml is None
    else:
        assert "levels" in str(refused(tmp_path, content))


@pytest.mark.parametrize("step", [b"N", b"(", b"]", b"}\x94", b"N0", b"h\x00)\x81"])
def test_the_number_of_steps_bounds_time_and_memory(tmp_path, monkeypatch, step):
    steps = 50_000
    monkeypatch.setattr(pickles, "MAX_STEPS", steps)
    content = archive(b"\x80\x02cm\nM\nq\x00" + step * steps + b".")
    error = refused(tmp_path, content, UnsafeCheckpoint, memory=200 * steps)
    assert "more than 50000 steps" in str(error)


def test_pairs_handed_out_many_times_are_counted(tmp_path):
    pairs = Writer().opcodes(([[i, i] for i in range(1000)],)) + b"q\x01"
    content = archive(b"\x80\x02" + pairs + (Writer().opcodes(ORDERED) + b"h\x01R") * 2000 + b".")
    assert "steps" in str(refused(tmp_path, content, UnsafeCheckpoint))


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
    "no storage at all": Call(Name("torch._utils", "_rebuild_tensor_v2"), (1, 2, 3, 4)),
    "no arguments": Call(Name("torch._utils", "_rebuild_tensor_v2")),
    "a typed tensor without a type": Call(Name("torch._utils", "_rebuild_tensor_v3"), (1, 2, 3, 4, 5, 6, 7)),
    "a parameter of nothing": Call(Name("torch._utils", "_rebuild_parameter")),
}


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_stay_inside_their_storage(tmp_path, name, write):
    refused(tmp_path, write({"model": {"w": Tensor(WEIGHT), "x": TENSORS[name]}}))


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


@pytest.mark.parametrize("size", [-1, 0, 7, 2**62])
def test_the_old_format_does_not_believe_lengths(tmp_path, size):
    numbers = WEIGHT.tobytes()
    refused(tmp_path, legacy(GOOD).replace(struct.pack("<q", 6) + numbers, struct.pack("<q", size) + numbers))


def entry(first=0, last=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


HEADERS = {
    "out of range": {"x": entry(0, 80, (20,))},
    "out of range in two sizes": {"x": entry(0, 80, (2, 10))},
    "overlapping": {"x": entry(), "y": entry(4, 12)},
    "of the wrong length": {"x": entry(0, 8, (3,))},
    "backwards": {"x": entry(8, 0)},
    "negative": {"x": entry(-8, 0)},
    "with a negative size": {"x": entry(0, 8, (-1, -2))},
    "with a huge size": {"x": entry(0, 0, (0, 2**62, 2**62))},
    "with a size that is true": {"x": entry(0, 8, (True, 2))},
    "with a size that is a text": {"x": entry(0, 8, ("2",))},
    "with too many sizes": {"x": entry(0, 4, (1,) * 17)},
    "of an unknown dtype": {"x": entry(dtype="F8_E4M3")},
    "of a dtype that is a list": {"x": {**entry(), "dtype": []}},
    "without offsets": {"x": {"dtype": "F32", "shape": [2]}},
    "that are no map": {"x": [1]},
    "with odd metadata": {"__metadata__": {"a": 1}},
    "with metadata that is no map": {"__metadata__": [1]},
    "with names that are no JSON": {"__metadata__": {"names": "["}, "x": entry()},
    "with deep names": {"__metadata__": {"names": "[" * 100_000}, "x": entry()},
    "with a long name": {"x" * 9999: entry()},
    "with a long name and an unknown dtype": {"x" * 9999: entry(dtype="y" * 9999)},
    "with an unprintable name": {"\ud800": entry()},
    "as a list": b'{"x":1}'.replace(b"{", b"[").replace(b":", b","),
    "that are deep": b'{"x":' + b"[" * 100_000,
    "that are cut": json.dumps({"x": entry()}).encode()[:-3],
    "named twice": b'{"x":' + json.dumps(entry()).encode() + b',"x":' + json.dumps(entry()).encode() + b"}",
    "with a number of 5000 digits": b'{"x":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors_headers(tmp_path, name):
    refused(tmp_path, safetensors(HEADERS[name], b"\0" * 16))


@pytest.mark.parametrize("size", [0, 1, 100, 2**31, 2**63, 2**64 - 1])
def test_a_safetensors_header_of_any_claimed_length(tmp_path, size):
    refused(tmp_path, struct.pack("<Q", size) + json.dumps({"x": entry()}).encode() + b"\0" * 8)


WHOLE = module("models.yolo.Model", parameters={"w": Tensor(WEIGHT)}, stride=Tensor(WEIGHT))


def test_a_long_safetensors_header_is_not_parsed(tmp_path):
    error = refused(tmp_path, safetensors(b'{"x":[' + b"[]," * (2 * MIB)), memory=8 * MIB)
    assert "limit" in str(error)


GOOD_FILES = {
    "zip": archive(GOOD),
    "zip of a whole model": archive({"ema": WHOLE}),
    "old": legacy(GOOD),
    "safetensors": safetensors({"x": entry(), "y": entry(8, 16)}, bytes(16)),
}
MUTATIONS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8)


def survives(path, content):
    """Read, use every tensor, or get one of our errors."""
    path.write_bytes(content)
    try:
        found = checkpoint.read(path)
    except EdgeInferError as error:
        assert str(error)
    else:
        assert sum(array.nbytes for array in found.tensors.values()) <= 8 * len(content)
        for array in found.tensors.values():
            array.copy()


def mutated(content, mutations):
    changed = bytearray(content)
    for place, value in mutations:
        changed[place % len(changed)] = value
    return bytes(changed)


RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(kind=st.sampled_from(sorted(GOOD_FILES)), mutations=MUTATIONS, keep=st.integers(0, 400))
def test_changed_bytes_never_surprise(tmp_path, kind, mutations, keep):
    content = mutated(GOOD_FILES[kind], mutations)
    tracemalloc.start()
    try:
        survives(tmp_path / "changed.pt", content[: -keep or None] if keep < 100 else content)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@RELAXED
@given(mutations=MUTATIONS)
def test_a_changed_pickle_in_a_whole_archive_never_surprises(tmp_path, mutations):
    pickled = Writer().dump({"model": module("models.yolo.Model", parameters={"w": Tensor(WEIGHT)}, stride=[8])})
    survives(tmp_path / "changed.pt", archive(mutated(pickled, mutations), storages={"data/0": WEIGHT.tobytes()}))


@RELAXED
@given(opcodes=st.binary(max_size=60))
def test_any_bytes_as_a_pickle_never_surprise(tmp_path, opcodes):
    survives(tmp_path / "any.pt", archive(b"\x80\x02" + opcodes + b"."))


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(list(entry())), part, max_size=3),
    max_leaves=8,
)


@RELAXED
@given(header=JSON)
def test_any_safetensors_header_never_surprises(tmp_path, header):
    survives(tmp_path / "any.safetensors", safetensors({"x": entry(), "y": header}, bytes(16)))
