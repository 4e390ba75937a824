"""What exporters write into their files about a model: ONNX metadata, the JSON before an Ultralytics engine.

Every value may be hostile: texts are read as JSON, or as Python's notation made JSON token by token, under limits of
length. Python's own parser would take five hundred times the memory of a text.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import CheckpointError, ExportError, SpecError
from edgeinfer.spec import Batch, Size
from edgeinfer_export import modeltree

if TYPE_CHECKING:
    from collections.abc import Mapping

# the names of 21,843 classes take half a million characters
MAX_TEXT = 1 << 20
OURS = ("preprocess", "decode", "labels")
THEIRS = ("author", "task", "head", "description", "license", "names", "imgsz", "batch", "stride", "end2end", "args")
HALF, INT8 = 16, 8
# what Python writes otherwise than JSON: texts, numbers that are keys, words, tuples and their last comma
PYTHON = re.compile(
    rf"""('(?:[^'\\]|\\.){{0,{modeltree.MAX_TEXT}}}'?|"(?:[^"\\]|\\.){{0,{modeltree.MAX_TEXT}}}"?)"""
    r"|\b([0-9]{1,7})(?=\s*:)|\b(?:True|False|None)\b|[()]|,(?=\s*[])}])",
    re.DOTALL,
)
IN_JSON = {"True": "true", "False": "false", "None": "null", "(": "[", ")": "]", ",": ""}


@dataclass(frozen=True)
class Facts:
    """What metadata says about a model; whatever it does not say is empty.

    `family` is whose exporter wrote it: `edgeinfer`, `ultralytics`, `yolov5`, or nobody known. `end2end` is None
    where nothing is said. `own`: preprocess, decode and labels as edgeinfer itself writes them.
    """

    family: str = ""
    task: str = ""
    head: str = ""
    name: str = ""
    architecture: str = ""
    license: str = ""
    labels: tuple[str, ...] = ()
    size: Size | None = None
    batch: Batch | None = None
    stride: int = 1
    end2end: bool | None = None
    precision: str = "fp32"
    own: dict[str, Any] | None = None


def read(values: Mapping[str, object], where: str) -> Facts:
    """The facts in metadata whose values are texts (ONNX) or JSON values; ExportError when one cannot be."""
    try:
        found = {key: _value(values[key]) for key in (*THEIRS, "name", "architecture", *OURS) if key in values}
        return _facts(found)
    except (CheckpointError, SpecError, ValueError) as error:
        raise ExportError(f"{where}: its metadata cannot be read: {error}", hint="export the model again") from error


def _facts(found: dict[str, Any]) -> Facts:
    args = found.get("args")
    args = args if isinstance(args, dict) else {}
    family, names = _family(found), found.get("names")
    return Facts(
        family=family,
        task=modeltree.line(found.get("task")),
        head=modeltree.line(found.get("head")),
        name=modeltree.line(found.get("name")),
        architecture=modeltree.line(found.get("architecture")) or _described(found.get("description")),
        license=modeltree.line(found.get("license")),
        labels=modeltree.labels_from(modeltree.numbered(names) if isinstance(names, dict) else names),
        size=_size(found.get("imgsz")),
        batch=_batch(found.get("batch"), args.get("dynamic") is True),
        stride=_stride(found.get("stride")),
        end2end=_end2end(found, args) if family != "yolov5" else False,
        precision=_precision(args),
        own={key: modeltree.plain(found[key]) for key in OURS} if family == "edgeinfer" else None,
    )


def _family(found: dict[str, Any]) -> str:
    if all(isinstance(found.get(key), (dict, list)) for key in OURS):
        return "edgeinfer"
    if found.get("author") == "Ultralytics":
        return "ultralytics"
    return "yolov5" if {"stride", "names"} <= found.keys() and "task" not in found else ""


def _value(value: object) -> Any:
    """A text as what it stands for, in Python's notation or JSON's; a text that is neither stays one."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_TEXT:
        raise ValueError(f"a text of {len(value)} characters, expected {MAX_TEXT} at most")
    if not value.startswith(("{", "[", "(")) and not value.isdecimal() and value not in ("True", "False", "None"):
        return value
    try:
        try:
            return json.loads(value)
        except ValueError:
            return json.loads(PYTHON.sub(_in_json, value))
    except RecursionError as error:
        raise ValueError("a text is nested too deeply") from error
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{value[:60]!r} is neither Python's notation nor JSON") from error


def _in_json(token: re.Match[str]) -> str:
    text, key = token.groups()
    if text:
        return json.dumps(ast.literal_eval(text))
    return f'"{key}"' if key else IN_JSON[token[0]]


def _described(value: object) -> str:
    """`YOLOv8n` of `Ultralytics YOLOv8n model trained on coco.yaml`."""
    words = modeltree.line(value).split()
    return words[1] if words[:1] + words[2:3] == ["Ultralytics", "model"] else ""


def _size(value: object) -> Size | None:
    sides = [value, value] if type(value) is int else value
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or any(type(side) is not int for side in sides):
        return None
    return Size(*sides)


def _batch(value: object, dynamic: bool) -> Batch | None:
    if type(value) is not int:
        return None
    return Batch(1, value) if dynamic else Batch(value, value)


def _stride(value: object) -> int:
    return value if type(value) is int and 1 <= value <= 1024 else 1


def _end2end(found: dict[str, Any], args: dict[str, Any]) -> bool | None:
    """Whether boxes come suppressed: by the model's own head, or because suppression was exported with it."""
    if "end2end" not in found and "nms" not in args:
        return None
    return found.get("end2end") is True or args.get("nms") is True


def _precision(args: dict[str, Any]) -> str:
    if args.get("int8") is True or args.get("quantize") == INT8:
        return "int8"
    return "fp16" if args.get("half") is True or args.get("quantize") == HALF else "fp32"
