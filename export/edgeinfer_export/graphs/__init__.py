"""ONNX graphs built straight from a checkpoint's tensors: no PyTorch, batch norm folded, the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import helper

import edgeinfer
from edgeinfer import modeljson
from edgeinfer.errors import ExportError, SpecError, UsageError
from edgeinfer.spec import Batch, Boxes, ModelSpec, Size
from edgeinfer_export.graphs import frames, plan, resnet, suppress, wirings, yolo
from edgeinfer_export.graphs.declared import Declared
from edgeinfer_export.graphs.labels import Names
from edgeinfer_export.graphs.ops import DAMAGED
from edgeinfer_export.graphs.weights import NO_PLACE, Weights
from edgeinfer_export.told import UNTOLD, Told

if TYPE_CHECKING:
    from edgeinfer_export.checkpoint import Checkpoint
    from edgeinfer_export.graphs.heads import Head
    from edgeinfer_export.graphs.ops import Graph

ONE = Batch(1, 1)
NO_YAML = "has no YAML: it is taken to be wired as YOLOv5 since release 6.0, with SiLU as its activation"
# what is wrong where a model is wired otherwise; then it is no fault of the file's
MISFITS = (DAMAGED, plan.HINT, NO_PLACE)
WHOLE = f"save the whole model with torch.save, which keeps its YAML; or {plan.OTHER_WAY}"
TWO_HEADS = "has two heads: the one whose boxes are suppressed is taken, --layout end2end takes the other"
# a detector's, and the flags that tell them
THRESHOLDS = {"score": "--conf", "iou": "--iou", "limit": "--limit", "class_agnostic": "--class-agnostic"}
CROPPED = (
    "gets its pictures resized and then cropped, where YOLOv5 crops and then resizes: "
    "of pictures that are not square, the two may be a pixel of the model's apart"
)


@dataclass(frozen=True)
class Built:
    """An ONNX model, what is known about it, and `notes` on what may surprise."""

    model: Any
    spec: ModelSpec
    notes: tuple[str, ...] = ()


def build(
    checkpoint: Checkpoint,
    *,
    size: Size | None = None,
    batch: Batch = ONE,
    labels: tuple[str, ...] = (),
    name: str = "",
    told: Told = UNTOLD,
) -> Built:
    """The float32 graph of a checkpoint: a ResNet, or a YOLO detector or classifier that the YAML in it describes.

    `size`: the input's, by default the published one. `batch`: fixed, or a range for a symbolic batch.
    `labels`: instead of the checkpoint's. `name`: the model's, by default its architecture.
    `told`: how a classifier's pictures come to it, by default as its family's; the layout of the head to take.
    Raises ExportError, UsageError.
    """
    weights, said = Weights(checkpoint.tensors), Declared(checkpoint.modules)
    if resnet.recognised(weights):
        told.check_classifier(checkpoint.path.name)
        resnet.check_names(checkpoint.architecture, checkpoint.path.stem)
        names = Names(labels, checkpoint.labels, 1000)
        graph, spec, notes = resnet.build(weights, size, batch, names, said)
        spec = dataclasses.replace(spec, preprocess=told.pictures(spec.preprocess))
        return _finished(graph, spec, name, {}, (*_left_out(checkpoint, labels, spec), *notes))
    yaml = checkpoint.yaml or wirings.recognise(weights)
    if yaml is None:
        raise _unknown(checkpoint)
    names, cut = Names(labels, checkpoint.labels), not checkpoint.yaml
    try:
        graph, spec, head = yolo.build(yaml, weights, size, batch, names, said=said, layout=told.layout, cut=cut)
    except ExportError as error:
        if checkpoint.yaml or error.hint not in MISFITS:
            raise
        raise ExportError(f"{error}; {checkpoint.path.name} {NO_YAML}", hint=WHOLE) from error
    spec, notes = _as_trained(spec, head, checkpoint, told)
    facts = {"stride": str(max(head.strides))}
    return _finished(graph, spec, name, facts, (*_left_out(checkpoint, labels, spec), *notes))


def _as_trained(spec: ModelSpec, head: Head, checkpoint: Checkpoint, told: Told) -> tuple[ModelSpec, tuple[str, ...]]:
    """A YOLO model's spec with what was told of its pictures, and notes on what the checkpoint leaves open."""
    name, notes = checkpoint.path.name, []
    if not checkpoint.yaml:
        notes.append(f"{name} {NO_YAML}")
    if spec.task == "detect":
        told.check_detector(name, "normalize")
        if len(head.layouts) > 1 and not told.layout:
            notes.append(f"{name} {TWO_HEADS}")
        return spec, tuple(notes)
    told.check_classifier(name)
    usual = spec.preprocess
    if not checkpoint.yaml:
        usual = wirings.classified(usual.size)
        notes.append(f"{name} {CROPPED}")
    return dataclasses.replace(spec, preprocess=told.pictures(usual)), tuple(notes)


def _left_out(checkpoint: Checkpoint, given: tuple[str, ...], spec: ModelSpec) -> tuple[str, ...]:
    """Notes on tensors taken for losses and metrics, of which a layer would be missed, and on names that do not fit."""
    name, names, classes, notes = checkpoint.path.name, len(checkpoint.labels), len(spec.labels), []
    if checkpoint.beside:
        first, *others = checkpoint.beside
        more = f" and {len(others)} more" if others else ""
        notes.append(f"{name}: {first}{more} lies beside the model and is left out, as a loss or metric is")
    if names not in (0, classes) and not given:
        notes.append(f"{name}: its {names} class names do not fit {classes} classes and are left out: give --labels")
    return tuple(notes)


def _unknown(checkpoint: Checkpoint) -> ExportError:
    """The error for tensors no builder knows: which they are, and the way that is open to them."""
    first, *others = checkpoint.tensors
    last = f" to {others[-1]}" if others else ""
    family = checkpoint.origin.partition(".")[0]
    if family in ("models", "yolov5"):
        hint = "YOLOv5's own export.py --include onnx writes a file that can be exported here"
    elif first.startswith("model.") and not checkpoint.modules:
        hint = f"of YOLO save the whole model with torch.save; of others {plan.OTHER_WAY}"
    else:
        hint = plan.OTHER_WAY
    return ExportError(
        f"{checkpoint.path.name} ({checkpoint.origin}) is neither a ResNet nor a YOLO model with its YAML: "
        f"it has {len(checkpoint.tensors)} tensors, {first}{last}",
        hint=hint,
    )


@dataclass(frozen=True)
class Variant:
    """What a model does in its own graph, and a detector's thresholds (None: as they are).

    `frames`: the channel order, `bgr` or `rgb`, of the uint8 frames it takes; empty leaves preprocessing to the
    runtime. `nms`: suppression by the thresholds, which are fixed then.
    """

    frames: str = ""
    nms: bool = False
    score: float | None = None
    iou: float | None = None
    limit: int | None = None
    class_agnostic: bool | None = None


def vary(built: Built, variant: Variant) -> Built:
    """The model as the variant wants it; `built.model` is changed, not copied. Raises ExportError, UsageError."""
    spec = with_thresholds(built.spec, variant)
    if variant.frames:
        spec = frames.take(built.model, spec, variant.frames)
    if variant.nms:
        spec = suppress.keep(built.model, spec)
    if spec == built.spec:
        return built
    props = {entry.key: entry.value for entry in built.model.metadata_props}
    helper.set_model_props(built.model, {**props, **described(spec)})
    return dataclasses.replace(built, spec=spec)


def with_thresholds(spec: ModelSpec, variant: Variant) -> ModelSpec:
    """The spec of a detector with the variant's thresholds. Raises ExportError, UsageError."""
    held = spec.decode
    asked = {name: getattr(variant, name) for name in THRESHOLDS if getattr(variant, name) is not None}
    if not isinstance(held, Boxes):
        if asked:
            flags = ", ".join(THRESHOLDS[name] for name in asked)
            raise ExportError(f"{flags} is for detectors, {spec.name} is a classifier", hint="leave it out")
        return spec
    changed = {name: value for name, value in asked.items() if value != getattr(held, name)}
    if changed and held.where == "graph":
        fixed = ", ".join(f"{THRESHOLDS[name]} {getattr(held, name)}" for name in changed)
        raise ExportError(f"{spec.name} suppresses its boxes itself, and has {fixed} in its graph", hint="leave it out")
    try:
        return dataclasses.replace(spec, decode=dataclasses.replace(held, **changed))
    except SpecError as error:
        raise UsageError(str(error), hint="for example --conf 0.25 --iou 0.45 --limit 300") from error


def _finished(graph: Graph, spec: ModelSpec, name: str, facts: dict[str, str], notes: tuple[str, ...]) -> Built:
    """The model with the spec's facts as metadata: in our words, and in those Ultralytics' tools read."""
    spec = dataclasses.replace(spec, name=name or spec.name)
    model = graph.model(spec.name, spec.inputs, spec.outputs, edgeinfer.__version__)
    model.doc_string = f"{spec.provenance.architecture}, {spec.task}, built from a checkpoint by edgeinfer"
    helper.set_model_props(model, {**properties(spec), **facts})
    return Built(model, spec, notes)


def properties(spec: ModelSpec) -> dict[str, str]:
    """The spec's facts as an ONNX file carries them."""
    size = spec.preprocess.size
    theirs = {
        "task": spec.task,
        "names": repr(dict(enumerate(spec.labels))),
        "imgsz": repr([size.height, size.width]),
        "batch": str(spec.batch.max),
    }
    return {"name": spec.name, "architecture": spec.provenance.architecture, **theirs, **described(spec)}


def described(spec: ModelSpec) -> dict[str, str]:
    """What whoever runs the model itself must know of pictures and results, as JSON."""
    value = modeljson.to_json(spec)
    return {key: json.dumps(value[key], ensure_ascii=False) for key in ("labels", "preprocess", "decode")}
