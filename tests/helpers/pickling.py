"""Writes checkpoint files opcode by opcode, as PyTorch does, and as it never would."""

import io
import json
import pickle
import struct
import zipfile
from dataclasses import dataclass, field

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
STOP = b"."


@dataclass
class Name:
    """A GLOBAL opcode: `module.name`."""

    module: str
    name: str


@dataclass
class Call:
    """A REDUCE opcode."""

    callee: object
    args: tuple = ()


@dataclass
class New:
    """An object of a class by NEWOBJ, its `__dict__` by BUILD."""

    origin: Name
    state: object = None
    args: tuple = ()


@dataclass
class Tensor:
    """An array in a storage of its own; the other fields lie about it."""

    array: np.ndarray
    shape: tuple | None = None
    strides: tuple | None = None
    offset: int = 0
    numel: int | None = None
    key: str | None = None


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are."""

    opcodes: bytes


@dataclass
class Writer:
    """Pickle opcodes (protocol 2) and the storages they mention."""

    storages: dict = field(default_factory=dict)

    def dump(self, value):
        return b"\x80\x02" + self.opcodes(value) + STOP

    def opcodes(self, value):
        match value:
            case Raw():
                return value.opcodes
            case Name():
                return f"c{value.module}\n{value.name}\n".encode()
            case Call():
                return self.opcodes(value.callee) + self.opcodes(value.args) + b"R"
            case New():
                return self.instance(value)
            case Tensor():
                return self.tensor(value)
            case dict():
                return b"}(" + b"".join(self.opcodes(part) for pair in value.items() for part in pair) + b"u"
            case list():
                return b"](" + b"".join(map(self.opcodes, value)) + b"e"
            case tuple():
                return b"(" + b"".join(map(self.opcodes, value)) + b"t"
        return pickle.dumps(value, 2)[2:-1]  # a scalar's opcodes, without PROTO and STOP

    def instance(self, value):
        made = self.opcodes(value.origin) + self.opcodes(value.args) + b"\x81"
        return made if value.state is None else made + self.opcodes(value.state) + b"b"

    def tensor(self, value):
        array = np.asarray(value.array, order="C")  # as it is written: row after row, whatever it is a view of
        key = value.key or str(len(self.storages))
        self.storages[key] = array
        numel = array.size if value.numel is None else value.numel
        storage = ("storage", Name("torch", STORAGES[array.dtype.name]), key, "cpu", numel)
        packed = tuple(stride // array.itemsize for stride in array.strides)
        shape = array.shape if value.shape is None else value.shape
        strides = packed if value.strides is None else value.strides
        args = (Raw(self.opcodes(storage) + b"Q"), value.offset, shape, strides, False, Call(ORDERED))
        return self.opcodes(Call(Name("torch._utils", "_rebuild_tensor_v2"), args))


ORDERED = Name("collections", "OrderedDict")


def module(origin, *, parameters=None, buffers=None, children=None, hidden=(), **attributes):
    """A torch.nn.Module as it is pickled."""
    tables = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": children or {}}
    unsaved = Call(Name("__builtin__", "set"), ([*hidden],))
    path, _, name = origin.rpartition(".")
    return New(Name(path, name), {**tables, "_non_persistent_buffers_set": unsaved, **attributes})


def archive(root, order="little", compression=zipfile.ZIP_STORED, storages=None):
    """A file of torch.save since 1.6; `root` is written by `Writer`, or taken as it is when it is bytes.

    Before 2.1 it did not say its `order`: then it is empty, and little.
    """
    writer = Writer()
    opcodes = root if isinstance(root, bytes) else writer.dump(root)
    members = {"data.pkl": opcodes, **({"byteorder": order.encode()} if order else {}), "version": b"3\n"}
    for key, array in writer.storages.items():
        members[f"data/{key}"] = array.astype(array.dtype.newbyteorder(">" if order == "big" else "<")).tobytes()
    members |= storages or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in members.items():
            # of no time: the bytes name tests, whose names must be the same in every process that collects them
            target.writestr(zipfile.ZipInfo(f"model/{name}"), content, compression)
    return file.getvalue()


def legacy(root):
    """A file of torch.save before 1.6."""
    writer = Writer()
    opcodes = root if isinstance(root, bytes) else writer.dump(root)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    storages = [struct.pack("<q", array.size) + array.tobytes() for array in writer.storages.values()]
    return b"".join([*heads, opcodes, pickle.dumps(list(writer.storages), 2), *storages])


def safetensors(header, content=b""):
    """A .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content
