"""Pickles made to run code, to fill the memory or to crash the reader: one clear error, and nothing else happens."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from edgeinfer.errors import CheckpointError, UnsafeCheckpoint
from edgeinfer_export import checkpoint, pickles
from edgeinfer_export.storages import Storage, StoredTensor, tensor_from
from helpers.hostile import GOOD, INERT, MIB, WEIGHT, refused
from helpers.pickling import ORDERED, Call, Name, New, Raw, Tensor, Writer, archive, legacy, module

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
    assert '{"model": model.state_dict(), "yaml": model.yaml}' in error.hint


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
    "a subclass of two arguments": Call(Name("torch._tensor", "_rebuild_from_type_v2"), (INERT, INERT)),
    "a typed tensor without its type": Call(Name("torch._utils", "_rebuild_tensor_v3"), (1, 2, 3)),
    "a size of nothing": Call(Name("torch", "Size")),
    "an ordered dict of a number": Call(ORDERED, (7,)),
    "an ordered dict of numbers": Call(ORDERED, ([7],)),
    "an ordered dict of single keys": Call(ORDERED, ([["a"]],)),
    "an object of nothing": Call(Name("copyreg", "__newobj__")),
    "getattr of one argument": Call(Name("builtins", "getattr"), (New(INERT),)),
    "a part of nothing": Call(Name("functools", "partial")),
    "a part of a call": Call(Name("functools", "partial"), (Call(INERT),)),
    "a part of torch.load": Call(Name("functools", "partial"), (Name("torch", "load"),)),
    "an object of an object": Call(Name("copyreg", "_reconstructor"), (New(INERT), Name("builtins", "object"), None)),
    "an object of torch.load": Call(Name("copyreg", "_reconstructor"), (Name("torch", "load"), 1, 2)),
    "a name with a space": Name("os", "system x"),
    "a name without a module": Name("", "system"),
    "a very long name": Name("m" * 300, "C"),
    "arguments that are no tuple": Raw(b"cmodels.common\nConv\n]R"),
    "a state for a number": Raw(b"K\x01}b"),
    "an item for a number": Raw(b"K\x01K\x02a"),
    "a key for a list": Raw(b"]K\x01K\x02s"),
    "a key for a number": Raw(b"K\x01K\x02K\x03s"),
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


def the_same_layer_often():
    """A thousand times a layer that names ten thousand buffers which it does not save."""
    layer = module("torch.nn.Conv2d", hidden=["unsaved"] * 10_000)
    first = Raw(Writer().opcodes(layer) + b"q\xff")
    return module("m.M", children={"0": first, **{str(place): Raw(b"h\xff") for place in range(1, 1000)}})


def nested_in_itself(origin):
    inner = module(origin, children={"a": Raw(b"h\xff")})
    return Raw(Writer().opcodes(New(inner.origin)) + b"q\xff" + Writer().opcodes(inner.state) + b"b")


SOME_TEXT = Raw(b"X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x01")
LONG_TEXT = Raw(b"X\x00\x00\x10\x00" + b"a" * MIB + b"q\x01")
WIDE = Raw(b"](" + b"N" * 999 + b"eq\x01")
BOMBS = {
    "tuples as YAML": {**GOOD, "yaml": {"nc": doubled(b"\x86")}},
    "lists as YAML": {**GOOD, "yaml": {"nc": Raw(b"]q\x00" + b"h\x00a")}},
    "lists of lists as YAML": {**GOOD, "yaml": {"nc": [WIDE, Raw(b"](" + b"h\x01" * 999 + b"e")]}},
    "tuples as a key": {**GOOD, "extra": Raw(b"}" + doubled(b"\x86").opcodes + b"Ns")},
    "tuples as a shape": {"w": Tensor(WEIGHT, shape=(doubled(b"\x86"), 1))},
    "modules": doubled_modules(),
    "a layer that names many buffers": the_same_layer_often(),
    "a module in itself": nested_in_itself("m.M"),
    "a wrapper in itself": nested_in_itself("torch.nn.parallel.DataParallel"),
    "one long text as many labels": {**GOOD, "names": [LONG_TEXT] + [Raw(b"h\x01")] * 999},
    "keys that are no numbers or texts, thousands of times": {
        **GOOD,
        "yaml": [Raw(b"}(" + b"".join(b"cm\nM\n)\x81N" for _ in range(9999)) + b"uq\xff"), *[Raw(b"h\xff")] * 9999],
    },
    "a text that may be as long, thousands of times": {**GOOD, "yaml": [SOME_TEXT] + [Raw(b"h\x01")] * 9999},
    "one long text as a tensor's name": {"model": {LONG_TEXT: Tensor(WEIGHT)}},
    "one long text as many names": {**GOOD, "x": [LONG_TEXT, *[Raw(b"h\x01h\x01\x93")] * 999]},
}


@pytest.mark.parametrize("name", BOMBS)
def test_shared_parts_do_not_multiply(tmp_path, name):
    refused(tmp_path, archive(BOMBS[name]), memory=40 * MIB)


def test_what_many_layers_say_at_length_is_not_listed(tmp_path):
    wide = Raw(b"](" + b"N" * 10_000 + b"eq\xfe")
    conv = Raw(Writer().opcodes(module("torch.nn.Conv2d", stride=wide)) + b"q\xff")
    layers = {str(place): Raw(b"h\xff") for place in range(1, 1000)}
    whole = module("m.M", parameters={"w": Tensor(WEIGHT)}, children={"0": conv, **layers})
    (tmp_path / "wide.pt").write_bytes(archive(whole))
    tracemalloc.start()
    try:
        found = checkpoint.read(tmp_path / "wide.pt")
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert {module.settings["stride"] for module in found.modules.values()} == {"list"}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_tensors_that_share_their_numbers_may_not_claim_many_times_the_file(tmp_path, dtype):
    wide = np.zeros(100_000, dtype)
    tied = {f"{place}.weight": Tensor(wide, key="0") for place in range(50)}
    assert "share" in str(refused(tmp_path, archive({"model": tied}), UnsafeCheckpoint))
    (tmp_path / "tied.pt").write_bytes(archive({"model": dict([*tied.items()][:3])}))
    assert len(checkpoint.read(tmp_path / "tied.pt").tensors) == 3


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


MERSENNE = 2**61 - 1  # numbers that far apart have one hash
KEYS = {
    "numbers": b"".join(b"\x8a\x0b" + (place * MERSENNE).to_bytes(11, "little") + b"N" for place in range(3000)),
    "fractions": b"".join(b"G" + struct.pack(">d", place) + b"N" for place in range(3000)),
    "tuples": b"".join(b"J" + struct.pack("<i", place) + b"\x85N" for place in range(3000)),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_whose_hashes_a_file_may_choose_cost_as_much_as_telling_them_apart(tmp_path, name):
    content = archive(b"\x80\x02}(" + KEYS[name] + b"u.")
    assert "steps" in str(refused(tmp_path, content, UnsafeCheckpoint))


def test_keys_that_are_plain_numbers_are_free(tmp_path):
    names = {place: f"thing {place}" for place in range(30_000)}
    (tmp_path / "many.pt").write_bytes(archive({**GOOD, "names": [], "history": names}))
    assert checkpoint.read(tmp_path / "many.pt").yaml == {"nc": 1}


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(2, (2, 2), (2, 1)), (0, (2, 3), (1, 2)), (5, (1,), (1,)), (5, (), ())]
)
def test_a_tensor_ends_with_its_storage_and_never_a_number_behind_it(offset, shape, strides):
    base = np.arange(6, dtype=np.float32)
    storage = Storage("0", "float32", 6)
    assert StoredTensor(storage, offset, shape, strides).view(base).max() == 5
    with pytest.raises(CheckpointError, match="reaches number 6 of a storage of 6"):
        StoredTensor(storage, offset + 1, shape, strides).view(base)


def test_a_tensor_needs_no_more_than_storage_offset_size_and_stride():
    """As PyTorch before 0.4 wrote it."""
    found = tensor_from((Storage("0", "float32", 6), 0, (2, 3), (3, 1)))
    assert found.view(np.arange(6, dtype=np.float32)).tolist() == [[0, 1, 2], [3, 4, 5]]
