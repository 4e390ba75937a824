"""An ONNX file of any origin as a graph and a spec: its own facts first, then what was told, and nothing guessed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from onnx import TensorProto

from edgeinfer import modeljson
from edgeinfer.bundle import sha256_of
from edgeinfer.errors import ExportError, SpecError, UsageError
from edgeinfer.spec import Batch, Boxes, ModelSpec, Preprocess, Provenance, Size, TensorSpec, TopK
from edgeinfer_export import graphs, layouts, metadata, onnxgraph, onnxreading
from edgeinfer_export.graphs.labels import Names
from edgeinfer_export.told import NORMALIZE, RESIZE_SHARE, UNTOLD, Told

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.spec import Decode
    from edgeinfer_export.layouts import Layout
    from edgeinfer_export.metadata import Facts

DTYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}
DTYPES |= {TensorProto.INT8: "int8", TensorProto.INT32: "int32", TensorProto.INT64: "int64"}
UNSAID = "leave it out"
LABELED = {"classes": 1000}  # else 80: COCO


def build(
    path: Path,
    *,
    size: Size | None = None,
    batch: Batch | None = None,
    labels: tuple[str, ...] = (),
    name: str = "",
    told: Told = UNTOLD,
) -> graphs.Built:
    """The graph of an ONNX file with its shapes settled, and the spec that its metadata, its shapes and `told` give.

    `size` and `batch` fix dimensions that are open in the file (batch: 1 when None) and must be those of fixed
    ones. Raises ExportError.
    """
    model = onnxreading.read(path)
    facts = metadata.read(onnxgraph.facts_of(model), path.name)
    source = _Source(path, model, facts, told, labels)
    try:
        spec = source.own(batch, size) if facts.own else source.recognised(batch, size)
        spec = dataclasses.replace(spec, name=name or spec.name)
    except SpecError as error:
        raise ExportError(f"{path.name}: {error}", hint=error.hint or onnxgraph.AGAIN) from error
    onnxgraph.add_facts(model, graphs.properties(spec))
    return graphs.Built(model, spec, _notes(onnxgraph.opset(model), path.name))


def _notes(opset: int, name: str) -> tuple[str, ...]:
    if opset <= onnxgraph.PORTABLE_OPSET:
        return ()
    least = f"opset {onnxgraph.PORTABLE_OPSET}"
    return (f"{name} has opset {opset}: TensorRT 8 (JetPack 5) reads {least} at most; export it again with {least}",)


class _Source:
    """One file on its way to a spec."""

    def __init__(self, path: Path, model: Any, facts: Facts, told: Told, labels: tuple[str, ...]) -> None:
        self.path, self.model, self.facts, self.told, self.labels = path, model, facts, told, labels
        self.input = onnxgraph.image_input(model, path.name)
        self.dtype = DTYPES.get(self.input.type.tensor_type.elem_type, "")
        # open ones have a name, nothing, or, by some exporters, -1
        self.dims = [max(0, dim.dim_value) for dim in self.input.type.tensor_type.shape.dim]

    def own(self, batch: Batch | None, size: Size | None) -> ModelSpec:
        """What edgeinfer wrote itself stands in the file as in model.json, but for what was told of its pictures."""
        assert self.facts.own
        taken = self._input(self._rows(batch), tuple(self.dims[1:]))
        shapes = self._settled(taken)
        value = {
            "schema": modeljson.SCHEMA,
            "name": self.facts.name or self.path.stem,
            "task": self.facts.task,
            "inputs": [modeljson.tensor_json(taken)],
            "outputs": [modeljson.tensor_json(self._output(taken, name, shape)) for name, shape in shapes.items()],
            **self.facts.own,
            **({"labels": list(Names(self.labels).of(len(self.facts.own["labels"])))} if self.labels else {}),
        }
        spec = modeljson.from_json(value, f"{self.path.name}: metadata")
        if size and size != spec.preprocess.size:
            raise self._fixed(spec.preprocess.size, size)
        onnxgraph.keep_outputs(self.model, spec.outputs)
        return dataclasses.replace(spec, preprocess=self._prepared(spec), provenance=self._provenance())

    def _prepared(self, spec: ModelSpec) -> Preprocess:
        """The preprocessing of a spec but for what was told; UsageError where that cannot be."""
        name, layout = self.path.name, spec.decode.layout if isinstance(spec.decode, Boxes) else "classes"
        if self.told.layout not in ("", layout):
            raise UsageError(f"--layout {self.told.layout}: {name} says itself that it is {layout}", hint=UNSAID)
        if self.told.normalize and spec.preprocess.where == "graph":
            raise UsageError(f"--normalize: {name} takes uint8 frames, and normalises them itself", hint=UNSAID)
        if spec.task == "detect":
            self.told.check_detector(name)
        return self.told.pictures(spec.preprocess)

    def recognised(self, batch: Batch | None, size: Size | None) -> ModelSpec:
        """A spec from metadata and shapes."""
        rows, frame = self._rows(batch), self._frame(size)
        taken = self._input(rows, (3, frame.height, frame.width))
        shapes = self._settled(taken)
        named = self.labels or self.facts.labels
        layout = layouts.recognise(shapes, frame, self.facts, len(named), told=self.told.layout, where=self.path.name)
        given = self._output(taken, layout.output, shapes[layout.output])
        onnxgraph.keep_outputs(self.model, (given,))
        return ModelSpec(
            name=self.path.stem,
            task="classify" if layout.name == "classes" else "detect",
            inputs=(taken,),
            outputs=(given,),
            preprocess=preprocess(frame, layout, self.facts, self._told(layout), self.path.name),
            decode=self._decode(layout),
            labels=names(layout, self.labels, self.facts, self.path.name),
            provenance=self._provenance(),
        )

    def _input(self, rows: Batch, frame: tuple[int, ...]) -> TensorSpec:
        return TensorSpec(self.input.name, (rows.dim, *frame), self.dtype)

    def _output(self, taken: TensorSpec, name: str, shape: tuple[int, ...]) -> TensorSpec:
        """An output as it comes out for one picture, with the batch that goes in."""
        kind = next(value for value in self.model.graph.output if value.name == name).type.tensor_type.elem_type
        if kind not in DTYPES:
            raise ExportError(
                f"{self.path.name}: output {name} has an element type edgeinfer does not read", hint=onnxgraph.AGAIN
            )
        return TensorSpec(name, (taken.shape[0], *shape[1:]), DTYPES[kind])

    def _settled(self, taken: TensorSpec) -> dict[str, tuple[int, ...]]:
        """The shapes of the outputs for one picture, once the input has its own."""
        onnxgraph.settle(self.model, self.input, taken)
        rows = taken.batch
        return onnxgraph.measured(self.model, self.path.name, {rows.min, min(rows.max, rows.min + 1)})

    def _rows(self, batch: Batch | None) -> Batch:
        """How many pictures it takes: the file's number, or for an open batch what was asked for."""
        if len(self.dims) != 4:
            raise ExportError(
                f"{self.path.name}: input {self.input.name} has {len(self.dims)} dimensions, "
                "expected batch, channels, height, width",
                hint=onnxgraph.AGAIN,
            )
        fixed = self.dims[0]
        if not fixed:
            return batch or Batch(1, 1)
        if batch and batch != Batch(fixed, fixed):
            raise ExportError(
                f"{self.path.name} has a fixed batch of {fixed}, and --batch {batch} was asked for",
                hint="leave --batch out, or export the ONNX again with an open batch",
            )
        return Batch(fixed, fixed)

    def _frame(self, size: Size | None) -> Size:
        """Height and width: the file's, or for open ones what was asked for, or what the metadata says."""
        channels, *sides = self.dims[1:]
        if channels not in (0, 3) or self.dtype not in ("float32", "float16"):
            raise ExportError(
                f"{self.path.name}: input {self.input.name} is {self.dims[1:]} of type {self.dtype or 'unknown'}, "
                "expected 3 channels first, float32 or float16",
                hint=onnxgraph.AGAIN,
            )
        chosen = size or self.facts.size
        if not all(sides) and chosen is None:
            raise ExportError(
                f"{self.path.name}: input {self.input.name} has an open height or width",
                hint="fix it, for example --imgsz 640",
            )
        asked = [chosen.height, chosen.width] if chosen else sides
        frame = Size(*(side or wish for side, wish in zip(sides, asked, strict=True)))
        if size and size != frame:
            raise self._fixed(frame, size)
        if any(side % self.facts.stride for side in (frame.height, frame.width)):
            raise ExportError(
                f"{self.path.name}: {frame} is not a multiple of its stride {self.facts.stride}",
                hint="choose another --imgsz",
            )
        return frame

    def _fixed(self, frame: Size, size: Size) -> ExportError:
        return ExportError(
            f"{self.path.name} has a fixed input of {frame}, and --imgsz {size} was asked for",
            hint="leave --imgsz out, or export the ONNX again at that size",
        )

    def _told(self, layout: Layout) -> Told:
        """What was told; torchvision's classifiers have a known normalisation, others without metadata have not."""
        if self.told.normalize or layout.name != "classes" or self.facts.family:
            return self.told
        if self.model.producer_name == "pytorch" and layout.classes == LABELED["classes"]:
            return dataclasses.replace(self.told, normalize="imagenet")
        raise ExportError(
            f"{self.path.name} does not say how its pictures are normalised",
            hint=f"say it with --normalize: {', '.join(NORMALIZE)}",
        )

    def _decode(self, layout: Layout) -> Decode:
        if layout.name != "classes":
            return Boxes(layout.name)
        done = onnxgraph.ends_in_probabilities(self.model, layout.output)
        return TopK(min(5, layout.classes), "none" if done else "softmax")

    def _provenance(self) -> Provenance:
        return Provenance(
            source=self.path.name,
            sha256=sha256_of(self.path),
            architecture=self.facts.architecture,
            license=self.facts.license,
            parameters=onnxgraph.parameters(self.model),
        )


def preprocess(frame: Size, layout: Layout, facts: Facts, told: Told, where: str) -> Preprocess:
    """Geometry and arithmetic as told, or as the family that made the model trains it."""
    if layout.name == "classes":
        share = 1 if facts.family in ("ultralytics", "yolov5") else RESIZE_SHARE
        smooth = "linear" if facts.family == "yolov5" else "linear-antialias"
        resize = round(max(frame.height, frame.width) * share)
        fitted = Preprocess(frame, "resize-crop", interpolation=smooth, resize=resize)
    else:
        told.check_detector(where)
        fitted = Preprocess(frame)
    usual = "unit" if layout.name != "classes" or facts.family == "ultralytics" else "imagenet"
    return dataclasses.replace(told, normalize=told.normalize or usual).pictures(fitted)


def names(layout: Layout, given: tuple[str, ...], facts: Facts, where: str) -> tuple[str, ...]:
    """A name for each class; boxes that come suppressed do not tell how many there are."""
    if layout.classes:
        return Names(given, facts.labels, LABELED.get(layout.name, 80)).of(layout.classes)
    if not given and not facts.labels:
        raise ExportError(f"{where} does not say which classes it finds", hint="give their names with --labels FILE")
    return given or facts.labels
