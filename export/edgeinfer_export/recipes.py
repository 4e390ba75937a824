"""Recipes: how a model is exported, as a file. Its keys are the flags of `edgeinfer export`; flags given override it.

source = "yolov5s"                  a known name, or a path from the recipe's own folder
imgsz = 640                         or [height, width]
batch = "1-8"                       or 4
precision = ["fp32", "fp16", "int8"]
calibrate = "pictures"              100 or more for int8, from the recipe's own folder; a fifth of them is held out
budget = 1.0                        points of accuracy that each precision may lose
compile = ["rtx:sm86", "rtx:sm89"]
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer import regular
from edgeinfer.errors import ExportError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 18
EXAMPLES = "engines/*.toml are recipes"
# keys whose value is a path from the recipe's folder; `source` is one when it is not a known name
PATHS = ("calibrate", "held-out", "labels")


@dataclass(frozen=True)
class Recipe:
    """A recipe file: its `name` and hash, the source, and the other keys as `words` of the command line."""

    name: str
    sha256: str
    source: str
    words: tuple[str, ...]


def read(path: str | Path, keys: tuple[str, ...], switches: tuple[str, ...] = ()) -> Recipe:
    """The recipe in this file, whose keys must be `source` or of `keys`; those of `switches` are true or false.

    Raises ExportError.
    """
    path = Path(path)
    try:
        content = _content(path)
        value = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not TOML: {error}", hint=EXAMPLES) from error
    unknown = sorted(set(value) - {"source", *keys})
    if unknown:
        raise ExportError(
            f"{path}: unknown key {', '.join(unknown)}", hint=f"the keys are {', '.join(('source', *keys))}"
        )
    if value.get("source", "") == "":
        raise ExportError(f"{path} names no source", hint='for example source = "yolov5s"')
    source = _text(path, "source", value.pop("source"))
    words = [
        word
        for key, item in value.items()
        for word in (_switch(path, key, item) if key in switches else [f"--{key}={_text(path, key, item)}"])
    ]
    return Recipe(path.name, hashlib.sha256(content).hexdigest(), source, tuple(words))


def _content(path: Path) -> bytes:
    try:
        content = regular.content(path, MAX_BYTES + 1)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}", hint="give the path of a recipe") from error
    if len(content) > MAX_BYTES:
        raise ExportError(f"{path} is above {MAX_BYTES} bytes, which no recipe is", hint=EXAMPLES)
    return content


def _switch(path: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise ExportError(f"{path}: {key} is {value!r:.60}, expected true or false", hint=EXAMPLES)
    return [f"--{key}"] if value else []


def _text(path: Path, key: str, value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    if not items or any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        raise ExportError(f"{path}: {key} is {value!r:.60}, expected a text, a number or a list of them", hint=EXAMPLES)
    text = ",".join(map(str, items))
    is_path = key in PATHS or (key == "source" and is_file(text))
    return os.path.normpath(path.parent / text) if is_path else text


def is_file(source: str) -> bool:
    """Whether a source is written as a file: it has a folder or a suffix."""
    return "/" in source or bool(Path(source).suffix)
