"""Which names a pickle may mention, and what stands for them. Nothing named in a file is ever imported.

Three answers: a *builder* of ours (tensors, plain containers); an inert `Record` that only remembers what it
was made from (classes of model code, and harmless classes of the standard library); a refusal by name
(the rest of the standard library, loaders, functions of torch and numpy). A record cannot run
anything, so the refusals are not what keeps this safe: they are there to say aloud that a file is hostile.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeinfer.errors import CheckpointError, UnsafeCheckpoint
from edgeinfer_export.storages import StoredTensor, tensor_from, typed_tensor_from

MAX_NAME = 256
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)

# Python 2's names, which protocol 2 still writes, and the modules behind `os`
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "posix": "os", "nt": "os"}

# harmless to remember; classes of other packages need no entry
INERT_NAMES = {
    "argparse": ("Namespace",),
    "_codecs": ("encode",),
    "builtins": (
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "int"),
        *("list", "object", "range", "slice", "str", "tuple", "type", "xrange", "Ellipsis", "NotImplemented"),
    ),
    "collections": ("Counter", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.random.bit_generator": ("__pyx_unpickle_SeedSequence",),
    "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "torch": ("device",),
    "torch._utils": ("_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage"),
    "torch.serialization": ("_get_layout",),
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
    "uuid": ("UUID",),
}
INERT = frozenset(f"{module}.{name}" for module, names in INERT_NAMES.items() for name in names)
LOADERS = frozenset(("cloudpickle", "dill", "distutils", "joblib", "jsonpickle", "pip", "pkg_resources", "setuptools"))
STANDARD = sys.stdlib_module_names | {"commands", "cPickle", "exceptions", "urllib2", "UserDict"}

Spend = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle mentions, and nothing more."""

    path: str


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """What an object would have been made from: its class, arguments and state.

    `entries` are what a subclass of dict holds; None until something is put in.
    """

    origin: str
    args: tuple[object, ...] = ()
    state: object = None
    entries: dict[Any, object] | None = None

    def attributes(self) -> dict[Any, object]:
        """The object's `__dict__`; empty for what was saved otherwise."""
        state = self.state
        if isinstance(state, tuple) and state:
            state = state[0]
        return state if isinstance(state, dict) else {}


def refuse(path: str) -> UnsafeCheckpoint:
    """The error for a name that has no business in a checkpoint."""
    return UnsafeCheckpoint(f"the file asks for {path}, which no model needs; nothing was run")


def mentioned(module: object, name: object) -> Global:
    """The name `module.name` of a GLOBAL opcode, unless it is one that must not appear."""
    if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
        raise CheckpointError("a class name in the pickle is not a short text")
    path = f"{RENAMED.get(module, module)}.{name}"
    if not DOTTED.fullmatch(path):
        raise UnsafeCheckpoint(f"the file asks for {path!r}, which is not a class name")
    root = path.partition(".")[0]
    if path not in BUILDERS and path not in INERT and (root in STANDARD or root in LOADERS):
        raise refuse(path)
    return Global(path)


def called(callee: object, args: object, spend: Spend) -> object:
    """The result of `callee(*args)` as far as it is data; `spend` is told of copies. IndexError if one is missing."""
    if not isinstance(callee, Global):
        raise UnsafeCheckpoint("the file calls something that is not a plain name, such as the result of another call")
    if not isinstance(args, tuple):
        raise CheckpointError(f"the arguments of {callee.path} are not a tuple")
    builder = BUILDERS.get(callee.path)
    return builder(args, spend) if builder else _record(callee.path, args)


def _record(path: str, args: tuple[object, ...]) -> Record:
    # classes of torch and numpy are written in capitals; torch.load, torch.hub.load and numpy.load are not
    library = path.startswith(("torch.", "numpy."))
    if library and path not in INERT and not path.rpartition(".")[2].lstrip("_")[:1].isupper():
        raise refuse(path)
    return Record(path, args)


def _tensor(args: tuple[object, ...], _spend: Spend) -> StoredTensor:
    return tensor_from(args)


def _typed_tensor(args: tuple[object, ...], _spend: Spend) -> StoredTensor:
    if not isinstance(args[6], Global):
        raise CheckpointError("a typed tensor has no dtype")
    return typed_tensor_from(args, args[6].path.removeprefix("torch."))


def _first(args: tuple[object, ...], _spend: Spend) -> object:
    return args[0]


def _subclass(args: tuple[object, ...], spend: Spend) -> object:
    # torch._tensor._rebuild_from_type_v2(rebuild, class, arguments, state): a tensor with attributes
    if not isinstance(args[0], Global) or BUILDERS.get(args[0].path) is _subclass:
        raise CheckpointError("a tensor subclass is not rebuilt from a tensor")
    return called(args[0], args[2], spend)


def _set(args: tuple[object, ...], spend: Spend) -> object:
    return _first(args, spend) if args else []


def _mapping(args: tuple[object, ...], spend: Spend) -> dict[Any, object]:
    """OrderedDict() of Python 3, or OrderedDict([[key, value], ...]) as Python 2 wrote it."""
    built: dict[Any, object] = {}
    pairs = args[0] if args else []
    if not isinstance(pairs, (list, tuple)):
        raise CheckpointError("an OrderedDict is not made from pairs")
    spend(len(pairs))
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise CheckpointError("an OrderedDict is not made from pairs")
        put(built, pair[0], pair[1], spend)
    return built


def _empty_mapping(_args: tuple[object, ...], _spend: Spend) -> dict[Any, object]:
    return {}


def _instance(args: tuple[object, ...], _spend: Spend) -> Record:
    # copyreg._reconstructor(class, base, state) and copyreg.__newobj__(class, ...)
    if not isinstance(args[0], Global):
        raise UnsafeCheckpoint("the file builds an object of something that is not a class")
    return _record(args[0].path, args[1:])


def _bound_method(args: tuple[object, ...], _spend: Spend) -> Record:
    # a fused model's `forward` is pickled as getattr(module, "forward_fuse"), what a segmenter keeps of its base class
    # as getattr(Detect, "forward"); on anything else it is an attack
    if len(args) != 2 or not _of_a_model(args[0]) or not isinstance(args[1], str) or args[1].startswith("__"):
        raise refuse("builtins.getattr")
    return Record("builtins.getattr", args)


def _partial(args: tuple[object, ...], _spend: Spend) -> Record:
    # a class with some of its arguments: how training programs keep optimizers and norms; else it is an attack
    if len(args) != 1 or not isinstance(args[0], Global):
        raise refuse("functools.partial")
    return _record(args[0].path, ())


def _of_a_model(owner: object) -> bool:
    """Whether it is an object, or a class that no library has."""
    if isinstance(owner, Global):
        return owner.path.partition(".")[0] not in STANDARD | {"torch", "numpy"}
    return isinstance(owner, Record)


Builder = Callable[[tuple[object, ...], Spend], object]
BUILDERS: dict[str, Builder] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _first,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _empty_mapping,
    "copyreg._reconstructor": _instance,
    "copyreg.__newobj__": _instance,
    "builtins.getattr": _bound_method,
    "functools.partial": _partial,
}

SCALARS = (str, int, float, bool, bytes, type(None), Global, Record, StoredTensor)
MAX_PLAIN = 1 << 60  # whole numbers below it are their own hashes


def put(target: dict[Any, object], key: object, value: object, spend: Spend) -> None:
    """`target[key] = value` for keys that are cheap to hash: nested tuples could take for ever.

    Of tuples, fractions and long numbers a file could have as many as it likes with one hash: each costs what it is
    to tell it from all that are there.
    """
    flat = key if isinstance(key, tuple) else (key,)
    if len(flat) > 16 or not all(isinstance(part, SCALARS) for part in flat):
        raise CheckpointError(f"a dictionary key is a {type(key).__name__} of other things")
    if isinstance(key, (tuple, float)) or (isinstance(key, int) and abs(key) >= MAX_PLAIN):
        spend(len(target))
    target[key] = value
