"""YOLO detectors from a checkpoint's YAML and tensors: YOLOv5 with anchors, YOLOv5u without, other backbones below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, Boxes, ModelSpec, Preprocess, Provenance, Size, TensorSpec
from edgeinfer_export.graphs import blocks, heads, labels, plan
from edgeinfer_export.graphs.ops import Feature, Graph

if TYPE_CHECKING:
    from edgeinfer_export.graphs.declared import Declared
    from edgeinfer_export.graphs.weights import Weights

INPUT = "images"
# the sizes the published models were trained at, by largest stride
USUAL = {32: 640, 64: 1280}
MAX_STRIDE = 1024
OTHER_TASKS = ("OBB", "Pose", "Segment", "YOLOESegment")
NO_SUCH_TASK = "models that segment, or find poses or turned boxes, are not supported: only detectors and classifiers"
SCALES: dict[tuple[Any, Any], str] = {
    (0.33, 0.25): "n",
    (0.33, 0.5): "s",
    (0.67, 0.75): "m",
    (1.0, 1.0): "l",
    (1.33, 1.25): "x",
}


def build(
    yaml: dict[str, Any],
    weights: Weights,
    size: Size | None,
    batch: Batch,
    names: labels.Names,
    *,
    said: Declared,
) -> tuple[Graph, ModelSpec, tuple[int, ...]]:
    """The graph, its spec, and the strides of its levels."""
    wiring = plan.read(yaml)
    size = _fitting(size, wiring.largest_stride())
    net = blocks.Net(Graph(), weights, wiring.activation, said)
    head = _grow(net, wiring, size)
    weights.finish()
    first = batch if batch.min != batch.max else batch.min
    architecture = _architecture(yaml, wiring, head)
    spec = ModelSpec(
        name=architecture,
        task="detect",
        inputs=(TensorSpec(INPUT, (first, 3, size.height, size.width)),),
        outputs=(TensorSpec(heads.OUTPUT, (first, *head.shape)),),
        preprocess=Preprocess(size),
        decode=Boxes(head.layout),
        labels=names.of(head.classes),
        provenance=Provenance(
            architecture=architecture,
            # as YOLOv5 and Ultralytics report a model once fused; FLOPs are two for each multiply-add
            parameters=weights.learned - weights.folded,
            gflops=round(2 * net.graph.macs / 1e9, 1),
        ),
    )
    return net.graph, spec, head.strides


def _fitting(size: Size | None, stride: int) -> Size:
    """The size to export at; ExportError when its sides are no multiples of the largest stride."""
    if stride > MAX_STRIDE:
        raise ExportError(
            f"the model's YAML: strides multiply to {stride}, expected {MAX_STRIDE} at most", hint=plan.HINT
        )
    if size is None:
        side = USUAL.get(stride, 640)
        size = Size(*[-(-side // stride) * stride] * 2)
    near = Size(*(max(stride, round(side / stride) * stride) for side in (size.height, size.width)))
    if near != size:
        raise ExportError(
            f"size {size} is not a multiple of {stride}, the model's largest stride",
            hint=f"use {near.height},{near.width}",
        )
    return size


def _grow(net: blocks.Net, wiring: plan.Plan, size: Size) -> heads.Head:
    """Add every layer to the graph; the last one is the head."""
    *body, last = wiring.layers
    if last.module != "Detect":
        raise ExportError(
            f"layer {last.index}: module {last.module} is not Detect, the head of a detector",
            hint=NO_SUCH_TASK if last.module.startswith(OTHER_TASKS) else plan.OTHER_WAY,
        )
    image = Feature(INPUT, 3, size.height, size.width)
    outputs: list[Feature] = []
    for layer in body:
        outputs.append(blocks.block(net, layer, [image if source < 0 else outputs[source] for source in layer.sources]))
    return heads.detect(net, last, [image if source < 0 else outputs[source] for source in last.sources], size)


def _architecture(yaml: dict[str, Any], wiring: plan.Plan, head: heads.Head) -> str:
    """A family's usual name, for example yolov5s6u; a scale nobody published has no letter."""
    modules = {layer.module for layer in wiring.layers}
    if not modules & {"BottleneckCSP", "C2f", "C3"}:
        return "yolo"
    family = "yolov8" if "C2f" in modules else "yolov5"
    multiples = (yaml.get("depth_multiple"), yaml.get("width_multiple"))
    scale = yaml.get("scale") if yaml.get("scales") else SCALES.get(multiples)
    deeper = "6" if len(head.strides) == 4 else ""
    free = "u" if family == "yolov5" and head.layout == "yolov8" else ""
    stages = [
        layer.integer(4, 1) for layer in wiring.layers if layer.module == "ResNetLayer" and not layer.flag(3, False)
    ]
    backbone = {(): "", (3, 4, 6, 3): "-resnet50", (3, 4, 23, 3): "-resnet101"}.get(tuple(stages), "-resnet")
    return f"{family}{scale if isinstance(scale, str) else ''}{deeper}{free}{backbone}"
