"""From a checkpoint's objects to a model's tensors and facts: which of its entries is the model, what its tensors
are called, and what it says about itself (YAML, labels, strides).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import CheckpointError
from edgeinfer_export.allowlist import Record
from edgeinfer_export.storages import StoredTensor
from edgeinfer_export.tensornames import short_name

if TYPE_CHECKING:
    from collections.abc import Iterator

EMA_KEYS = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model")
MODEL_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "weights")
LABEL_KEYS = ("names", "classes", "class_names", "class_to_idx")
WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "AutoShape", "DetectMultiBackend")
MOST_WRAPPERS = 4  # round a model
MAX_PARTS = 50_000  # modules and tensors; the largest YOLOv5 has about 2000
MAX_VALUES = 50_000
MAX_TEXT = 10_000
LINE = 64  # characters of a text that count as a value
MAX_DEPTH = 16
MAX_LINE = 200
MOST_SIDES = 4
MAX_DIGITS = 7  # of a class's number
# what attention says of itself, though it has modules
HEADS = "num_heads"
# what a whole model says of its modules, beside their tensors
SETTINGS = (
    *("kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "padding_mode", "ceil_mode"),
    *("eps", "negative_slope", HEADS, "area"),
)


@dataclass(frozen=True)
class Module:
    """An innermost module, or one with heads: its class, without the package, and those of SETTINGS that it has."""

    kind: str
    settings: dict[str, Any]


def entries(value: object) -> dict[Any, object]:
    """What a dict, or a subclass of dict, holds; empty for anything else."""
    if isinstance(value, Record):
        return value.entries or {}
    return value if isinstance(value, dict) else {}


def payload(root: object) -> tuple[object, bool]:
    """The model in a checkpoint, as a module record or a state dict, and whether it is the averaged (EMA) one."""
    averaged = False
    for _ in range(MOST_WRAPPERS):
        held = entries(root)
        keys = [key for key in (*EMA_KEYS, *MODEL_KEYS) if _is_model(held.get(key))]
        if not keys:
            break
        root, averaged = held[keys[0]], averaged or keys[0] in EMA_KEYS
    for _ in range(MOST_WRAPPERS):
        inside = _table(root, "_modules") if _class_name(root) in WRAPPERS else {}
        children = [child for child in inside.values() if is_module(child)]
        if len(children) != 1:
            break
        root = children[0]
    return root, averaged


def _is_model(value: object) -> bool:
    held = entries(value)
    return (
        is_module(value)
        or any(isinstance(entry, StoredTensor) for entry in held.values())
        or any(is_module(held.get(key)) or entries(held.get(key)) for key in (*EMA_KEYS, *MODEL_KEYS))
    )


def is_module(value: object) -> bool:
    """Whether the value is what is left of a torch.nn.Module."""
    return isinstance(value, Record) and isinstance(value.attributes().get("_modules"), dict)


def _class_name(module: object) -> str:
    return module.origin.rpartition(".")[2] if isinstance(module, Record) else ""


def _table(module: object, name: str) -> dict[Any, object]:
    return entries(_attributes(module).get(name))


def state(model: object) -> dict[str, StoredTensor]:
    """The model's tensors as `state_dict()` names them, prefixes of wrappers included."""
    found: dict[str, StoredTensor] = {}
    for name, value in _from_module(model) if is_module(model) else entries(model).items():
        if isinstance(value, Record) and value.origin.startswith("torch._utils."):
            raise CheckpointError(f"a tensor is made by {value.origin}", hint="save it dense, and before quantising")
        if isinstance(value, StoredTensor):
            found[short_name(name)] = value
    return found


def _from_module(model: object) -> Iterator[tuple[str, object]]:
    """(name, value) of parameters and buffers in the order of `state_dict()`."""
    for prefix, module in _walk(model):
        kept_out = {name for name in _hidden(module) if isinstance(name, str)}
        for key, value in [*_table(module, "_parameters").items(), *_table(module, "_buffers").items()]:
            if key not in kept_out:
                yield f"{prefix}{short_name(key)}", value


def _walk(model: object) -> Iterator[tuple[str, object]]:
    """(path with a dot behind it, module) in the order they were defined; modules may be shared, not nested."""
    waiting: list[tuple[str, object]] = [("", model)]
    left = MAX_PARTS
    while waiting:
        prefix, module = waiting.pop()
        tables = [_table(module, name) for name in ("_parameters", "_buffers", "_modules")]
        left -= 1 + len(_hidden(module)) + sum(map(len, tables))
        if left < 0:
            raise CheckpointError(f"the model has more than {MAX_PARTS} modules and tensors")
        yield prefix, module
        children = reversed(tables[2].items())
        waiting.extend((short_name(f"{prefix}{short_name(key)}."), child) for key, child in children)


def modules(model: object) -> dict[str, Module]:
    """What a whole model says of its innermost modules and attention, by path, in order; empty for a state dict."""
    if not is_module(model):
        return {}
    return {
        prefix.removesuffix("."): Module(_class_name(module), _settings(module))
        for prefix, module in _walk(model)
        if is_module(module) and (not _table(module, "_modules") or HEADS in _attributes(module))
    }


def _settings(module: object) -> dict[str, Any]:
    held = _attributes(module)
    return {name: _setting(held[name]) for name in SETTINGS if name in held}


def _setting(value: object) -> Any:
    """A number, a word, or one for each side; of anything else the type: many layers may share one long list."""
    sides = value if isinstance(value, (list, tuple)) and len(value) <= MOST_SIDES else (value,)
    if all(
        len(side) <= LINE if isinstance(side, str) else isinstance(side, (int, float, type(None))) for side in sides
    ):
        return plain(value)
    return type(value).__name__


def _attributes(module: object) -> dict[Any, object]:
    return module.attributes() if isinstance(module, Record) else {}


def _hidden(module: object) -> list[object]:
    """Buffers the module keeps out of its state dict: none, or two or three."""
    listed = _attributes(module).get("_non_persistent_buffers_set")
    return listed if isinstance(listed, list) else []


def plain(value: object) -> Any:
    """The value as numbers, texts, lists and dicts; anything else becomes its class's name."""
    return _plain(value, [MAX_VALUES], MAX_DEPTH)


def _plain(value: object, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        raise CheckpointError(f"the model's YAML or names have more than {MAX_VALUES} values or {MAX_DEPTH} levels")
    if isinstance(value, (list, tuple)):
        return [_plain(item, left, depth - 1) for item in value]
    if isinstance(value, dict) or (isinstance(value, Record) and value.entries):
        held = {key: item for key, item in entries(value).items() if isinstance(key, (str, int, float))}
        left[0] -= len(entries(value)) - len(held)
        return {_plain(key, left, depth): _plain(item, left, depth - 1) for key, item in held.items()}
    if isinstance(value, str):
        left[0] -= len(value) // LINE
        return _text(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value.origin if isinstance(value, Record) else type(value).__name__


def _text(value: str) -> str:
    if len(value) > MAX_TEXT:
        raise CheckpointError(f"the model's YAML or names have a text of {len(value)} characters")
    return value.encode(errors="replace").decode()


def line(value: object) -> str:
    """A text in one line, cut short; empty for what is no text."""
    return _text(" ".join(value[:MAX_LINE].split())) if isinstance(value, str) else ""


def labels(facts: dict[Any, object], top: dict[Any, object]) -> tuple[str, ...]:
    """Class names that a model, or else its checkpoint, tells by one of the names training programs have for them."""
    told = [facts.get("names"), *(top.get(key) for key in LABEL_KEYS)]
    return next(filter(None, map(labels_from, told)), ())


def labels_from(value: object) -> tuple[str, ...]:
    """Class names from a list, or a dict of number -> name or name -> number; empty when they are none of these.

    JSON makes texts of the numbers. YAML makes numbers of names such as 7, and true of `yes`.
    """
    held = entries(value)
    if held and all(isinstance(key, str) and isinstance(place, int) for key, place in held.items()):
        held = {place: name for name, place in held.items()}
    else:
        held = numbered(held)
    if held and set(held) == set(range(len(held))):
        value = [held[place] for place in range(len(held))]
    if isinstance(value, (list, tuple)) and all(map(_is_name, value)):
        return tuple(map(str, plain(value)))
    return ()


def _is_name(label: object) -> bool:
    return isinstance(label, (str, float)) or (isinstance(label, int) and abs(label) < 10**MAX_DIGITS)


def numbered(names: dict[Any, Any]) -> dict[Any, Any]:
    """The same with the numbers of classes as numbers, where they are texts."""
    return {_number(key): name for key, name in names.items()}


def _number(key: object) -> object:
    return int(key) if isinstance(key, str) and len(key) <= MAX_DIGITS and key.isdecimal() else key
