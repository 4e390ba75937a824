"""How a detector or classifier lays out what it gives, told from the shapes of its outputs and its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeinfer.spec import Size
    from edgeinfer_export.metadata import Facts

    Shapes = Mapping[str, tuple[int, ...]]

LAYOUTS = {
    "yolov5": "(n, anchors, 5 + classes)",
    "yolov8": "(n, 4 + classes, anchors)",
    "end2end": "(n, boxes, 6)",
    "classes": "(n, classes)",
}
CHOICES = ", ".join(f"{name} {shape}" for name, shape in LAYOUTS.items())
# model pixels per cell of each level of the detection heads there are
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128), (4, 8, 16, 32), (16, 32), (8, 16))
ANCHORS_A_CELL = 3
ALONE = "name the classes with --labels FILE, or export it again with one output alone"
OTHER = "export a YOLO detector or a classifier instead"
MOST_BOXES = 1000  # more than a model that suppresses boxes itself gives


@dataclass(frozen=True)
class Layout:
    """What was recognised: one of LAYOUTS, the output it is of, and how many classes that tells (0: none)."""

    name: str
    output: str
    classes: int


def recognise(shapes: Shapes, size: Size, facts: Facts, labels: int, *, told: str, where: str) -> Layout:
    """The one layout that fits an output; `labels` is how many class names are known, 0 for none.

    `told` narrows the choice to one layout. ExportError lists the candidates when none or several are left.
    """
    _refuse_others(shapes, facts, where)
    fitting = _fitting(shapes, size, facts, labels, told)
    if told and len(fitting) > 1:
        fitting = [one for one in fitting if one.classes == labels] or fitting
    outputs = "; ".join(f"{name} {shape}" for name, shape in shapes.items())
    if not fitting and (others := _fitting(shapes, size, facts, 0, told)):
        counts = " or ".join(dict.fromkeys(f"{one.classes} classes ({one.name})" for one in others))
        raise ExportError(
            f"{where}: {labels} labels are known, and its outputs have {counts}: {outputs}",
            hint="give one label for each class: --labels FILE",
        )
    if not fitting:
        wanted = f"layout {told} {LAYOUTS[told]}" if told else f"any known layout at {size}"
        raise ExportError(f"{where}: its outputs do not fit {wanted}: {outputs}", hint=_hint(labels))
    if len(fitting) > 1:
        names = ", ".join(f"{one.name} of {one.output}" for one in fitting)
        hint = ALONE if told else _hint(labels)
        raise ExportError(f"{where}: its outputs fit more than one layout ({names}): {outputs}", hint=hint)
    return fitting[0]


def _fitting(shapes: Shapes, size: Size, facts: Facts, labels: int, told: str) -> list[Layout]:
    return [
        Layout(name, output, _classes(name, shape))
        for output, shape in shapes.items()
        for name in ([told] if told else LAYOUTS)
        if (_shaped(name, shape) if told else _fits(name, shape, size, facts, labels))
    ]


def _hint(labels: int) -> str:
    names = "" if labels else ", and the class names with --labels FILE"
    return f"say which with --layout: {CHOICES}{names}"


def _refuse_others(shapes: Shapes, facts: Facts, where: str) -> None:
    """Tasks whose outputs resemble those of detectors."""
    task = facts.task if facts.task not in ("", "detect", "classify") else ""
    if not task and any(len(shape) == 4 for shape in shapes.values()):
        task = "segment (an output has four dimensions)"
    if task:
        raise ExportError(f"{where}: its task is {task}, expected detect or classify", hint=OTHER)
    if facts.head == "RTDETRDecoder":
        raise ExportError(f"{where}: its head is {facts.head}, whose boxes edgeinfer does not decode", hint=OTHER)


def _shaped(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the layout is possible at all."""
    if name == "classes":
        return len(shape) == 2 and shape[1] >= 2
    if len(shape) != 3:
        return False
    return {"yolov5": shape[2] >= 6, "yolov8": shape[1] >= 5, "end2end": shape[2] == 6}[name]


def _fits(name: str, shape: tuple[int, ...], size: Size, facts: Facts, labels: int) -> bool:
    """Whether the layout is likely: its anchors are those of a head at this size, its classes are all named."""
    task = "classify" if name == "classes" else "detect"
    classes = _classes(name, shape) if _shaped(name, shape) else 0
    if not _shaped(name, shape) or facts.task not in ("", task) or (labels and classes not in (0, labels)):
        return False
    if name == "classes":
        return True
    if name == "end2end":
        return shape[1] <= MOST_BOXES if facts.end2end is None else facts.end2end
    return not facts.end2end and shape[1 if name == "yolov5" else 2] in _anchors(name, size)


def _anchors(name: str, size: Size) -> set[int]:
    return {_cells(size, steps) * _each(name) for steps in STRIDES}


def usual_anchors(name: str, size: Size) -> int:
    """How many anchors a head on levels of stride 8, 16 and 32 has."""
    return _cells(size, STRIDES[0]) * _each(name)


def _each(name: str) -> int:
    return ANCHORS_A_CELL if name == "yolov5" else 1


def _cells(size: Size, steps: tuple[int, ...]) -> int:
    return sum(-(-size.height // step) * -(-size.width // step) for step in steps)


def _classes(name: str, shape: tuple[int, ...]) -> int:
    return {"yolov5": shape[-1] - 5, "yolov8": shape[1] - 4, "end2end": 0, "classes": shape[1]}[name]
