"""A YOLO model's YAML as a checked list of layers: the wiring. What each layer holds is read from the tensors.

Both forms are read: YOLOv5's (`depth_multiple`, `width_multiple`, `anchors`) and Ultralytics' (`scales`, `scale`).
Texts in it are looked up in tables, never evaluated. Widths are not needed: the tensors tell them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import ACTIVATIONS, SILU, Activation

MAX_LAYERS = 1000
MAX_REPEATS = 100
MAX_NUMBER = 65536
OTHER_WAY = "give the ONNX file that the model's own code exports (Ultralytics' models: --via ultralytics)"
HINT = f"the model's YAML is damaged or not a YOLO detector; {OTHER_WAY}"
# modules whose third argument is a stride; those that enlarge, with the place of the factor and what it is by default
STRIDING = ("Conv", "CrossConv", "DWConv", "GhostBottleneck", "GhostConv", "MixConv2d", "SCDown")
ENLARGING = {"ConvTranspose2d": (2, 1), "DWConvTranspose2d": (2, 1), "Expand": (0, 2), "Upsample": (1, 1)}

Argument = int | float | bool | str | None | tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One row of the YAML: `sources` are the layers it reads (-1: the image), `repeats` after depth scaling."""

    index: int
    sources: tuple[int, ...]
    repeats: int
    module: str
    arguments: tuple[Argument, ...]

    @property
    def path(self) -> str:
        return f"model.{self.index}"

    def integer(self, place: int, default: int) -> int:
        value = self.arguments[place] if place < len(self.arguments) else default
        if type(value) is not int or not 0 <= value <= MAX_NUMBER:
            raise self.error(f"argument {place + 1} is {value!r}, expected a whole number up to {MAX_NUMBER}")
        return value

    def flag(self, place: int, default: bool) -> bool:
        value = self.arguments[place] if place < len(self.arguments) else default
        if type(value) not in (bool, int):
            raise self.error(f"argument {place + 1} is {value!r}, expected True or False")
        return bool(value)

    def integers(self, place: int, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.arguments[place] if place < len(self.arguments) else default
        if not isinstance(value, tuple):
            raise self.error(f"argument {place + 1} is {value!r}, expected a list of whole numbers")
        return value

    def error(self, message: str) -> ExportError:
        return ExportError(f"layer {self.index} ({self.module}): {_cut(message, 200)}", hint=HINT)


@dataclass(frozen=True)
class Plan:
    """All layers of a model in order, and the activation of its convolutions."""

    layers: tuple[Layer, ...]
    activation: Activation

    def largest_stride(self) -> int:
        """What the input's sides must be a multiple of: the most model pixels per cell of a layer's output."""
        found: list[Fraction] = []
        for layer in self.layers:
            # of several layers read, those that differ are brought to the last one's
            before = found[layer.sources[-1]] if layer.sources[-1] >= 0 else Fraction(1)
            found.append(before * _shrinks(layer) ** layer.repeats)
        return max(map(ceil, found))


def _shrinks(layer: Layer) -> Fraction:
    if layer.module in STRIDING:
        return Fraction(max(1, layer.integer(2, 1)))
    if layer.module == "ResNetLayer":
        return Fraction(4 if layer.flag(3, False) else max(1, layer.integer(2, 1)))
    if layer.module == "MaxPool2d":
        return Fraction(max(1, layer.integer(1, layer.integer(0, 1))))
    if layer.module in ENLARGING:
        return Fraction(1, max(1, layer.integer(*ENLARGING[layer.module])))
    if layer.module == "Contract":
        return Fraction(max(1, layer.integer(0, 2)))
    return Fraction(2 if layer.module in ("AConv", "ADown", "Focus") else 1)


def read(yaml: dict[str, Any]) -> Plan:
    """The plan a YAML describes; ExportError says which row is wrong."""
    rows = [row for part in ("backbone", "head") for row in _list(yaml.get(part), part)]
    if not 1 <= len(rows) <= MAX_LAYERS:
        raise ExportError(f"the model's YAML has {len(rows)} layers, expected 1-{MAX_LAYERS}", hint=HINT)
    depth = _depth(yaml)
    layers = tuple(_layer(index, row, depth, yaml) for index, row in enumerate(rows))
    return Plan(layers, _activation(yaml.get("activation")))


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ExportError(f"the model's YAML: {what} is {_short(value)}, expected a list", hint=HINT)
    return list(value)


def _short(value: Any) -> str:
    return _cut(repr(value), 60)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _depth(yaml: dict[str, Any]) -> float:
    """The depth multiple; Ultralytics keeps one for each scale and takes the first where none is named."""
    depth = yaml.get("depth_multiple", 1.0)
    scales = yaml.get("scales")
    if isinstance(scales, dict) and scales:
        scale = yaml.get("scale") or next(iter(scales))
        row = scales.get(scale) if isinstance(scale, str) else None
        depth = row[0] if isinstance(row, (list, tuple)) and row else None
    if type(depth) not in (int, float) or not 0 < depth <= MAX_REPEATS:
        raise ExportError(f"the model's YAML: depth multiple {_short(depth)} is not a number in 0-100", hint=HINT)
    return float(depth)


def _layer(index: int, row: Any, depth: float, yaml: dict[str, Any]) -> Layer:
    where = f"the model's YAML: layer {index}"
    parts = _list(row, f"layer {index}")
    if len(parts) != 4:
        raise ExportError(f"{where} has {len(parts)} entries, expected from, number, module, args", hint=HINT)
    source, number, module, arguments = parts
    if type(number) is not int or not 1 <= number <= MAX_REPEATS:
        raise ExportError(f"{where} repeats {_short(number)} times, expected 1-{MAX_REPEATS}", hint=HINT)
    repeats = max(round(number * depth), 1) if number > 1 else number
    if repeats > MAX_REPEATS:
        raise ExportError(f"{where} repeats {repeats} times, expected 1-{MAX_REPEATS}", hint=HINT)
    sources = source if isinstance(source, (list, tuple)) else [source]
    return Layer(
        index,
        tuple(_source(index, one) for one in sources) or (_source(index, None),),
        repeats,
        _module(where, module),
        tuple(_argument(where, one, yaml) for one in _list(arguments, f"layer {index}'s args")),
    )


def _source(index: int, value: Any) -> int:
    """The absolute index of the layer a row reads; negative ones count back from the row."""
    if type(value) is int and -index <= value < index:
        return value + index if value < 0 else value
    if index == 0 and value == -1:
        return -1
    raise ExportError(f"the model's YAML: layer {index} reads layer {_short(value)}, which is not before it", hint=HINT)


def _module(where: str, value: Any) -> str:
    """`Conv` for Conv, models.common.Conv and ultralytics.nn.modules.conv.Conv alike."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][\w.]{0,99}", value):
        raise ExportError(f"{where}: module {_short(value)} is not a name", hint=HINT)
    return value.rpartition(".")[2]


def _argument(where: str, value: Any, yaml: dict[str, Any]) -> Argument:
    """A plain value; a name is looked up in the YAML, lists of lists (anchors) are left to the tensors."""
    if isinstance(value, (list, tuple)):
        small = len(value) <= 16 and all(type(one) is int and 0 <= one <= MAX_NUMBER for one in value)
        return tuple(value) if small else None
    if isinstance(value, str):
        words: dict[str, Argument] = {"None": None, "True": True, "False": False}
        if value in words:
            return words[value]
        named = yaml.get(value) if value in ("nc", "anchors", "reg_max") else value
        return named if isinstance(named, (str, int, float)) else None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ExportError(f"{where}: argument {_short(value)} is not a number, name or list", hint=HINT)


def _activation(value: Any) -> Activation:
    """Read as a constructor's text, for example nn.SiLU() or nn.LeakyReLU(0.1)."""
    if value is None:
        return SILU
    match = re.fullmatch(r"(?:torch\.)?nn\.(\w+)\(([\w=., ]*)\)", value) if isinstance(value, str) else None
    name, arguments = match.groups() if match else ("", "")
    settled = re.sub(r"(?:^|,)\s*inplace=(?:True|False)\s*", "", arguments).strip()
    if name in ACTIVATIONS and not settled:
        return ACTIVATIONS[name]
    slope = re.fullmatch(r"(?:negative_slope=)?(\d*\.?\d+)", settled or "0.01")
    if name == "LeakyReLU" and slope:
        return Activation("leakyrelu", float(slope[1]))
    raise ExportError(
        f"the model's YAML: activation {_short(value)} is not one of SiLU, ReLU, LeakyReLU, Hardswish, Identity",
        hint=HINT,
    )
