"""TensorRT engines of other tools: Ultralytics' JSON prefix read, checked and taken off, a plain plan left.

Needs no TensorRT and no GPU; so nothing inside the plan is known but what the prefix, or the user, says.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer import regular
from edgeinfer.bundle import sha256_of
from edgeinfer.errors import ExportError, SpecError
from edgeinfer.spec import Batch, Boxes, ModelSpec, Provenance, Size, TensorSpec, TopK
from edgeinfer_export import layouts, metadata, onnxsource
from edgeinfer_export.layouts import Layout
from edgeinfer_export.onnxreading import READABLE
from edgeinfer_export.told import NORMALIZE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer_export.export import Options
    from edgeinfer_export.metadata import Facts

# how both exporters name what goes in and out
INPUT, OUTPUT = "images", "output0"
END2END_BOXES = 300
LENGTH_BYTES = 4
SUFFIXES = (".engine", ".plan", ".trt")
DAMAGED = "copy or export the engine again"


@dataclass(frozen=True)
class Engine:
    """A plan inside a file, from byte `start` on, and the spec that goes with it."""

    path: Path
    start: int
    precision: str
    spec: ModelSpec

    def copy_plan(self, target: Path) -> None:
        """Write the plan alone."""
        with self.path.open("rb") as source, target.open("wb") as file:
            source.seek(self.start)
            shutil.copyfileobj(source, file, 1 << 20)


def read(path: Path, options: Options) -> Engine:
    """The engine in this file as its prefix describes it, or as `options` tell. Raises ExportError."""
    try:
        regular.check(path)
        value, start = _prefix(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be opened: {error.strerror}", hint=READABLE) from error
    facts = metadata.read(value, path.name) if value is not None else metadata.Facts()
    args = (value or {}).get("args")
    _check_asked(path.name, facts, options, args if isinstance(args, dict) else {})
    missing = _missing(facts, options, told_precision=isinstance(args, dict))
    if missing:
        found = "says nothing of its" if value is not None else "is a plain TensorRT plan, which does not say its"
        raise ExportError(f"{path.name} {found} {', '.join(missing)}", hint=f"say it: {' '.join(missing.values())}")
    precision = options.precisions[0] if options.precisions else facts.precision
    try:
        spec = _spec(path, facts, options)
    except SpecError as error:
        raise ExportError(f"{path.name}: {error}", hint=error.hint or DAMAGED) from error
    return Engine(path, start, precision, spec)


def _prefix(path: Path) -> tuple[dict[str, Any] | None, int]:
    """The JSON object before the plan, and where the plan starts; None and 0 where there is no prefix.

    The prefix is its length, 4 bytes, little-endian and signed, then so many bytes of JSON.
    """
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        head = file.read(LENGTH_BYTES + 1)
        length = int.from_bytes(head[:LENGTH_BYTES], "little", signed=True)
        if len(head) <= LENGTH_BYTES:
            raise ExportError(f"{path.name} holds {total} bytes, which is no engine", hint=DAMAGED)
        if head[LENGTH_BYTES:] != b"{" or length < 2:
            return None, 0
        if length > metadata.MAX_TEXT:
            raise ExportError(f"{path.name}: its prefix of {length} bytes is above {metadata.MAX_TEXT}", hint=DAMAGED)
        start = LENGTH_BYTES + length
        if start >= total:
            raise ExportError(f"{path.name} is cut off: no plan after its prefix of {length} bytes", hint=DAMAGED)
        file.seek(LENGTH_BYTES)
        text = file.read(length)
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path.name}: its prefix is not JSON: {error}", hint=DAMAGED) from error
    assert isinstance(value, dict)  # it starts with a brace
    return value, start


def _check_asked(name: str, facts: Facts, options: Options, args: dict[str, Any]) -> None:
    """ExportError where another engine is asked for than the one that the prefix tells of."""
    batch, built = options.batch, facts.batch
    within = batch and built and built.min <= batch.min <= batch.max <= built.max
    asked, held = (f"{len(labels)} classes" if labels else "" for labels in (options.labels, facts.labels))
    rows = (
        ("--imgsz", options.size, "" if args.get("dynamic") is True else facts.size),
        ("--batch", batch, "" if within else built),
        ("--labels", asked, held),
        ("--precision", ",".join(options.precisions), facts.precision if args else ""),
    )
    for flag, wish, fact in rows:
        if wish and fact and wish != fact:
            raise ExportError(f"{name} holds {fact}, and {flag} {wish} was asked for", hint=f"leave {flag} out")


def _missing(facts: Facts, options: Options, *, told_precision: bool) -> dict[str, str]:
    """What neither the prefix nor the user says, with the flags that do."""
    task = facts.task in ("detect", "classify")
    known = {
        "layout": (bool(options.told.layout) or task, f"--layout {'|'.join(layouts.LAYOUTS)}"),
        "input size": (bool(options.size or facts.size), "--imgsz H,W"),
        "class names": (bool(options.labels or facts.labels), "--labels FILE"),
        "precision": (len(options.precisions) == 1 or told_precision, "--precision fp16"),
    }
    if facts.task and not task:
        raise ExportError(f"its task is {facts.task}, expected detect or classify", hint=layouts.OTHER)
    if not facts.family and options.told.layout == "classes":
        known["normalisation"] = (bool(options.told.normalize), f"--normalize {'|'.join(NORMALIZE)}")
    return {what: flag for what, (said, flag) in known.items() if not said}


def _spec(path: Path, facts: Facts, options: Options) -> ModelSpec:
    size, batch = options.size or facts.size, options.batch or facts.batch or Batch(1, 1)
    assert size
    given = options.labels or facts.labels
    name = options.told.layout or _layout(facts)
    layout = Layout(name, OUTPUT, len(given))
    dtype = options.told.io or "float32"
    return ModelSpec(
        name=options.name or path.stem,
        task="classify" if name == "classes" else "detect",
        inputs=(TensorSpec(INPUT, (batch.dim, 3, size.height, size.width), dtype),),
        outputs=(TensorSpec(OUTPUT, (batch.dim, *_shape(layout, size, len(given))), dtype),),
        preprocess=onnxsource.preprocess(size, layout, facts, options.told, path.name),
        decode=TopK(min(5, len(given)), "none" if facts.family else "softmax") if name == "classes" else Boxes(name),
        labels=onnxsource.names(layout, options.labels, facts, path.name),
        provenance=Provenance(
            source=path.name,
            sha256=sha256_of(path),
            architecture=facts.architecture,
            license=facts.license,
        ),
    )


def _layout(facts: Facts) -> str:
    if facts.task == "classify":
        return "classes"
    return "end2end" if facts.end2end else "yolov8"


def _shape(layout: Layout, size: Size, classes: int) -> Sequence[int]:
    """The output's shape for one picture, which a plan does not tell without a GPU."""
    if layout.name == "classes":
        return (classes,)
    if layout.name == "end2end":
        return END2END_BOXES, 6
    anchors = layouts.usual_anchors(layout.name, size)
    return (anchors, 5 + classes) if layout.name == "yolov5" else (4 + classes, anchors)
