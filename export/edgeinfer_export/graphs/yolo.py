"""YOLO models from a checkpoint's YAML and tensors: detectors with anchors (YOLOv3, YOLOv5) and without (YOLOv3u,
YOLOv5u, YOLOv6, YOLOv8 to YOLO12, YOLO26), on other backbones too, and classifiers.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, Boxes, ModelSpec, Preprocess, Provenance, Size, TensorSpec, TopK
from edgeinfer_export.graphs import blocks, heads, labels, plan
from edgeinfer_export.graphs.net import EPSILON, UNSET, Net
from edgeinfer_export.graphs.ops import Feature, Graph

if TYPE_CHECKING:
    from edgeinfer_export.graphs.declared import Declared
    from edgeinfer_export.graphs.weights import Weights

INPUT = "images"
# the sizes the published models were trained at, by largest stride
USUAL = {32: 640, 64: 1280}
CLASSIFIED = {32: 224}
MAX_STRIDE = 1024
DETECTS = ("Detect", "v10Detect")
OTHER_TASKS = ("Depth", "OBB", "Pose", "Segment", "SemanticSegment", "YOLOESegment")
NO_SUCH_TASK = "only detectors and classifiers are supported: no models of segments, poses, turned boxes or depths"
SCALES: dict[tuple[Any, Any], str] = {
    (0.33, 0.25): "n",
    (0.33, 0.5): "s",
    (0.67, 0.75): "m",
    (1.0, 1.0): "l",
    (1.33, 1.25): "x",
}
# YOLOv9's but for e, by the width of its pools
WIDTHS = {128: "t", 256: "s", 480: "m", 512: "c"}
# by modules; where a model has several, by the first
FAMILIES = {
    "v10Detect": "yolov10",
    "A2C2f": "yolo12",
    "C3k2": "yolo11",
    "SPPELAN": "yolov9",
    "C2f": "yolov8",
    "BottleneckCSP": "yolov5",
    "C3": "yolov5",
    "C3Ghost": "yolov8",
    "Bottleneck": "yolov3",
    "ZeroPad2d": "yolov3",
    "ConvTranspose2d": "yolov6",
}
# families that were published both with anchors and, as u, without
ANCHORED = ("yolov3", "yolov5")
# what is in the names of their variants, by modules and by strides
KINDS = {"GhostConv": "-ghost", "C3TR": "-transformer"}
LEVELS = {(8, 16): "-p34", (4, 8, 16, 32): "-p2", (8, 16, 32, 64): "-p6", (8, 16, 32, 64, 128): "-p7"}


def build(
    yaml: dict[str, Any],
    weights: Weights,
    size: Size | None,
    batch: Batch,
    names: labels.Names,
    *,
    said: Declared,
    layout: str = "",
    cut: bool = False,
) -> tuple[Graph, ModelSpec, heads.Head]:
    """The graph, its spec, and what its head turned out to be.

    `layout`: of the head to take where a detector has two. `cut`: a classifier was cut from a detector, as YOLOv5 does.
    """
    wiring = plan.read(yaml)
    classifies = wiring.layers[-1].module == "Classify"
    size = _fitting(size, wiring.largest_stride(), CLASSIFIED if classifies else USUAL)
    epsilon = UNSET if classifies and not cut else EPSILON
    net = Net(Graph(), weights, wiring.activation, said, epsilon)
    head = _grow(net, wiring, size, layout)
    weights.finish()
    architecture = _architecture(yaml, wiring, head)
    names = dataclasses.replace(names, data_set=1000 if classifies else 80)
    spec = ModelSpec(
        name=architecture,
        task="classify" if classifies else "detect",
        inputs=(TensorSpec(INPUT, (batch.dim, 3, size.height, size.width)),),
        outputs=(TensorSpec(heads.LOGITS if classifies else heads.OUTPUT, (batch.dim, *head.shape)),),
        preprocess=_cropped(size) if classifies else Preprocess(size),
        decode=TopK(min(5, head.classes)) if classifies else Boxes(head.layout),
        labels=names.of(head.classes),
        provenance=Provenance(
            architecture=architecture,
            # as YOLOv5 and Ultralytics report a model once fused; FLOPs are two for each multiply-add
            parameters=weights.learned - weights.folded,
            gflops=round(2 * net.graph.macs / 1e9, 1),
        ),
    )
    return net.graph, spec, head


def _cropped(size: Size) -> Preprocess:
    """As Ultralytics' classifiers get their pictures; sizes that are not square are stretched to."""
    fit, resize = ("resize-crop", size.height) if size.height == size.width else ("stretch", 0)
    return Preprocess(size, fit=fit, resize=resize, interpolation="linear-antialias")


def _fitting(size: Size | None, stride: int, usual: dict[int, int]) -> Size:
    """The size to export at; ExportError when its sides are no multiples of the largest stride."""
    if stride > MAX_STRIDE:
        raise ExportError(
            f"the model's YAML: strides multiply to more than {MAX_STRIDE}, the largest supported", hint=plan.HINT
        )
    if size is None:
        side = usual.get(stride, 640)
        size = Size(*[-(-side // stride) * stride] * 2)
    near = Size(*(max(stride, round(side / stride) * stride) for side in (size.height, size.width)))
    if near != size:
        raise ExportError(
            f"size {size} is not a multiple of {stride}, the model's largest stride",
            hint=f"use {near.height},{near.width}",
        )
    return size


def _grow(net: Net, wiring: plan.Plan, size: Size, layout: str) -> heads.Head:
    """Add every layer to the graph; the last one is the head."""
    *body, last = wiring.layers
    if last.module not in (*DETECTS, "Classify"):
        raise ExportError(
            f"layer {last.index}: module {last.module} is not Detect or Classify, the head of a detector or classifier",
            hint=NO_SUCH_TASK if last.module.startswith(OTHER_TASKS) else plan.OTHER_WAY,
        )
    image = Feature(INPUT, 3, size.height, size.width)
    outputs: list[Feature] = []
    for layer in body:
        outputs.append(blocks.block(net, layer, [image if source < 0 else outputs[source] for source in layer.sources]))
    seen = [image if source < 0 else outputs[source] for source in last.sources]
    if last.module == "Classify":
        return heads.classify(dataclasses.replace(net, epsilon=UNSET), last, seen, size)
    return heads.detect(net, last, seen, size, layout)


def _architecture(yaml: dict[str, Any], wiring: plan.Plan, head: heads.Head) -> str:
    """A family's usual name, for example yolov5s6u; a scale nobody published has no letter."""
    family = _family(wiring, PurePath(str(yaml.get("yaml_file", ""))).name, head)
    if not family:
        return "yolo"
    levels = LEVELS.get(tuple(sorted(head.strides)), "")
    deeper, levels = ("6", "") if family == "yolov5" and levels == "-p6" else ("", levels)
    free = "-cls" if head.layout == "classes" else "u" if family in ANCHORED and head.layout == "yolov8" else ""
    stages = [
        layer.integer(4, 1) for layer in wiring.layers if layer.module == "ResNetLayer" and not layer.flag(3, False)
    ]
    backbone = {(): "", (3, 4, 6, 3): "-resnet50", (3, 4, 23, 3): "-resnet101"}.get(tuple(stages), "-resnet")
    modules = {layer.module for layer in wiring.layers}
    kind = next((kind for module, kind in KINDS.items() if module in modules), "")
    return f"{family}{_scale(yaml, wiring, family)}{deeper}{free}{kind}{backbone}{levels}"


def _scale(yaml: dict[str, Any], wiring: plan.Plan, family: str) -> str:
    """What tells a family's sizes apart, as far as they were published: most have it in their YAML."""
    modules = {layer.module: layer for layer in wiring.layers}
    if family == "yolov3":
        return "-spp" if "SPP" in modules else "-tiny" if "ZeroPad2d" in modules else ""
    if family == "yolov9":
        return "e" if "CBFuse" in modules else WIDTHS.get(modules["SPPELAN"].integer(0, 0), "")
    multiples = (yaml.get("depth_multiple"), yaml.get("width_multiple"))
    scale = yaml.get("scale") if yaml.get("scales") else SCALES.get(multiples)
    return scale if isinstance(scale, str) else ""


def _family(wiring: plan.Plan, file: str, head: heads.Head) -> str:
    """The first family that built of such blocks; empty for none.

    YOLO26 has YOLO11's: its detectors say more of SPPF, its classifiers differ in the name of the YAML's `file` alone.
    YOLOv8 of ghost convolutions has YOLOv5's, without anchors.
    """
    modules = {layer.module: layer for layer in wiring.layers}
    family = next((family for module, family in FAMILIES.items() if module in modules), "")
    if family == "yolov8" and head.layout == "yolov5":
        return "yolov5"
    newer = len(modules["SPPF"].arguments) > 2 if "SPPF" in modules else file.startswith("yolo26")
    return "yolo26" if family == "yolo11" and newer else family
