"""A pickle machine that knows the opcodes PyTorch writes, builds plain data, and runs nothing.

Why not a subclass of `pickle.Unpickler` with `find_class` overridden: that one still calls what find_class
returns, follows `__reduce__` protocols and `__setstate__`, preallocates its memo by the largest
index in the file, and believes lengths. Here `pickletools.genops` splits the bytes into opcodes (it never
reads past the end) and the thirty or so opcodes of `STEPS` are carried out on dicts, lists, tuples and inert
records. Each opcode costs one of `MAX_STEPS`, each makes at most one small object, and none recurses,
so time and memory are bounded whatever the file says.
"""

from __future__ import annotations

import pickletools
from typing import IO, TYPE_CHECKING, Any, cast

from edgeinfer.errors import CheckpointError, UnsafeCheckpoint
from edgeinfer_export.allowlist import Global, Record, called, mentioned, put
from edgeinfer_export.storages import Storage, StoredTensor, storage_from

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STEPS = 1_000_000  # yolov5s6 with its optimizer takes about 100 000
MAX_LONG_BITS = 512


class Machine:
    """Carries out one file's pickles; `storages` collects every tensor storage they mention."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.steps = 0
        self._reset()

    def _reset(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: object) -> object:
        """The object of the pickle at the stream's position (any file-like object, or a memory map)."""
        self._reset()
        try:
            for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", stream)):
                self.spend(1)
                if opcode.name == "STOP":
                    break
                if opcode.name not in STEPS:
                    raise UnsafeCheckpoint(f"the pickle uses the opcode {opcode.name}, which PyTorch does not write")
                STEPS[opcode.name](self, argument)
            return self.stack.pop()
        except (ValueError, IndexError, KeyError, DeprecationWarning) as error:
            # the warning: a text opcode with an odd escape, where the caller has made warnings errors
            raise CheckpointError(f"the pickle is damaged: {type(error).__name__}") from error

    def spend(self, steps: int) -> None:
        """Count work against the budget."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise UnsafeCheckpoint(
                f"the pickle takes more than {MAX_STEPS} steps", hint="save only model.state_dict(), without history"
            )

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_number(self, value: int) -> None:
        if value.bit_length() > MAX_LONG_BITS:
            raise UnsafeCheckpoint(f"the pickle holds a number of {value.bit_length()} bits")
        self.stack.append(value)

    def mark(self, _argument: object) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def forget(self, _argument: object) -> None:
        self.since_mark()

    def pop(self, _argument: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def take(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError
        taken = tuple(self.stack[-count:])
        del self.stack[-count:]
        return taken

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(mentioned(module, name))

    def name_from_stack(self, _argument: object) -> None:
        self.push(mentioned(*self.take(2)))

    def call(self, _argument: object) -> None:
        callee, args = self.take(2)
        self.push(called(callee, args, self.spend))

    def call_with_keywords(self, _argument: object) -> None:
        callee, args, _ = self.take(3)
        self.push(called(callee, args, self.spend))

    def build(self, _argument: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, (dict, list, StoredTensor)):
            raise CheckpointError(f"the pickle gives a state to a {type(target).__name__}")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Record):  # what a subclass of list holds is no model
            raise CheckpointError(f"the pickle appends to a {type(target).__name__}")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.entries = target.entries or {}
        entries = target.entries if isinstance(target, Record) else target
        if not isinstance(entries, dict) or len(items) % 2:
            raise CheckpointError(f"the pickle sets {len(items)} keys and values of a {type(target).__name__}")
        for place in range(0, len(items), 2):
            put(entries, items[place], items[place + 1], self.spend)

    def reference(self, _argument: object) -> None:
        found = self.stack.pop()
        if not isinstance(found, tuple) or len(found) < 2 or not isinstance(found[1], Global):
            raise UnsafeCheckpoint("a persistent id is not a tensor storage")
        if found[0] == "module" and len(found) == 4:
            # before PyTorch 1.6 a model's class travelled with its source, which is not looked at
            self.push(found[1])
        else:
            self.push(storage_from((found[0], found[1].path, *found[2:]), self.storages))


def _ignore(_machine: Machine, _argument: object) -> None:
    pass


def _constant(value: object) -> Callable[[Machine, Any], None]:
    return lambda machine, _argument: machine.push(value)


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _argument: machine.push(machine.take(count))


STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "INT": Machine.push_number,
    "LONG": Machine.push_number,
    "LONG1": Machine.push_number,
    "LONG4": Machine.push_number,
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.forget,
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update(list(machine.take(2))),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "MEMOIZE": Machine.remember,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.name_from_stack,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "NEWOBJ_EX": Machine.call_with_keywords,
    "BUILD": Machine.build,
    "BINPERSID": Machine.reference,
}
STEPS |= dict.fromkeys(
    (
        *("BININT", "BININT1", "BININT2", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ),
    Machine.push,
)
