"""`edgeinfer export`: a checkpoint, an ONNX file or a recipe becomes a bundle."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from edgeinfer.cli import _choosing, _exporter, _recipe, _tables, _types, build
from edgeinfer.cli._progress import warn
from edgeinfer.errors import SpecError, UsageError
from edgeinfer.spec import COLORS, INTERPOLATIONS, MAX_SIDE, PLACES, PRECISIONS, Batch, Size

if TYPE_CHECKING:
    import argparse

HELP = "turn a checkpoint or an ONNX file into a bundle that every device can run"
EXAMPLE = """\
edgeinfer export yolov5s.pt --imgsz 640 -o engines/yolov5s
edgeinfer export yolo11n.onnx --batch 1-8
edgeinfer export engines/yolov5s.toml --plan
edgeinfer export own.pt --via ultralytics"""
# as the exporter has them; the first is its own choice
CALIBRATIONS = ("mse", "minmax", "percentile", "entropy")
SOURCE = "a .pt, .pth, .safetensors, .onnx or .engine file, a recipe (.toml), or a known name (yolov5n)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    parser.add_argument("-o", "--output", metavar="DIR", help="the bundle to write (default: engines/NAME)")
    parser.add_argument(
        "--imgsz",
        metavar="H[,W]",
        default="",
        help="input size in pixels (default: as trained, where told; 640 or 224)",
    )
    parser.add_argument(
        "--batch", metavar="N|1-N", default="", help="fixed batch, or a range such as 1-8 (default: the file's, or 1)"
    )
    parser.add_argument(
        "--precision", metavar="LIST", default="", help=f"any of {','.join(PRECISIONS)} (default: the source's)"
    )
    _add_accuracy(parser)
    _add_variants(parser)
    parser.add_argument(
        "--compile",
        metavar="LIST",
        help="engines too: trt (this GPU), rtx:sm86,rtx:sm89; edgeinfer build has more choice",
    )
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line, in the order of the model's classes")
    parser.add_argument("--name", default="", help="the model's name (default: the file's)")
    _add_import(parser)
    parser.add_argument(
        "--plan", action="store_true", help="show what would be done, and what is missing; write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _add_accuracy(parser: argparse.ArgumentParser) -> None:
    part = parser.add_argument_group("fp16 and int8: every file is compared with float32 before it is let out")
    part.add_argument(
        "--calibrate",
        metavar="DIR",
        default="",
        help="100 or more pictures such as the model will see, for int8; with labels (COCO, YOLO, a folder for each "
        "class) files are judged by mAP or top-1 on a fifth of them",
    )
    part.add_argument(
        "--calibrate-method",
        choices=CALIBRATIONS,
        default=CALIBRATIONS[0],
        help=f"how ranges are chosen (default: {CALIBRATIONS[0]})",
    )
    part.add_argument("--few-calibration-images", action="store_true", help="fewer than 100 are enough")
    part.add_argument("--held-out", metavar="DATASET", default="", help="judge by these pictures instead")
    part.add_argument(
        "--budget", type=_types.points, metavar="PERCENT", help="points of accuracy a file may lose (default: 1.0)"
    )


def _add_variants(parser: argparse.ArgumentParser) -> None:
    part = parser.add_argument_group("what the model does in its own graph, on any server and in any language")
    part.add_argument(
        "--preprocess",
        choices=PLACES,
        default="runtime",
        help="graph: it takes uint8 frames (n, h, w, 3) of its own size (default: runtime)",
    )
    part.add_argument("--frames", choices=COLORS, help="channel order of those frames (default: bgr, as OpenCV reads)")
    part.add_argument(
        "--nms",
        choices=PLACES,
        default="runtime",
        help="graph: it gives num_dets, boxes, scores, classes by the numbers below, fixed (default: runtime)",
    )
    _choosing.add_thresholds(part, "0.25", "0.45")
    part.add_argument("--limit", type=_types.count, metavar="N", help="detectors: the most boxes (default: 300)")
    part.add_argument(
        "--class-agnostic", action="store_true", default=None, help="detectors: boxes of other classes suppress too"
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    part = parser.add_argument_group("what a classifier, or a model of other tools, does not say itself")
    part.add_argument(
        "--resize",
        metavar="N|stretch",
        default="",
        help="classifiers: the shorter side before the crop, or the whole picture stretched (default: as published)",
    )
    part.add_argument(
        "--interpolation",
        metavar="WAY",
        default="",
        help=f"classifiers: {', '.join(INTERPOLATIONS)}, which is timm's bicubic (default: as published)",
    )
    part.add_argument(
        "--normalize", default="", help="what it takes: imagenet, unit (0-1), symmetric (-1-1), none (0-255)"
    )
    part.add_argument(
        "--layout",
        default="",
        help="of an output: yolov5, yolov8, end2end (boxes) or classes; of YOLOv10 and YOLO26, the head to take",
    )
    part.add_argument("--io", default="", help="of an engine: float32 or float16 tensors in and out (default: float32)")
    part.add_argument(
        "--via", metavar="TOOL", default="", help="ultralytics exports the checkpoint; RUNS ITS CODE, so trust it first"
    )
    part.add_argument(
        "--via-python", metavar="PATH", default="", help="the Python that has the tool (default: this one)"
    )


def run(args: argparse.Namespace) -> int:
    args = _recipe.applied(args)
    exporter, heldout = _exporter.part("export"), _exporter.part("heldout")
    targets = _targets(args)
    options = exporter.Options(
        size=_size(args.imgsz),
        batch=_batch(args.batch),
        labels=_labels(args.labels),
        name=args.name,
        precisions=_exporter.precisions(args.precision),
        pictures=heldout.Sources(args.calibrate, args.held_out, args.few_calibration_images),
        method=args.calibrate_method,
        budget=_exporter.part("gate").BUDGET if args.budget is None else args.budget,
        variant=_variant(args),
        told=_exporter.part("told").Told(args.layout, args.normalize, args.io, args.resize, args.interpolation),
        via=_exporter.part("via").check(args.via, args.via_python),
        via_python=args.via_python,
        recipe=args.recipe,
        targets=targets,
    )
    if args.plan:
        return _show(_exporter.part("planning").plan(args.source, args.output, options), args.json)
    progress = _progress if sys.stderr.isatty() else None
    path = exporter.export(args.source, args.output, options, progress=progress, warn=warn, tell=_tell)
    _report(path, args.json)
    if targets:
        _exporter.part("engines").add_engines(path, targets, done=build.printer(args.json))
    return 0


def _variant(args: argparse.Namespace) -> Any:
    if args.frames and args.preprocess == "runtime":
        raise UsageError("--frames is for models that take frames", hint="add --preprocess graph")
    return _exporter.part("graphs").Variant(
        frames=(args.frames or "bgr") if args.preprocess == "graph" else "",
        nms=args.nms == "graph",
        score=args.conf,
        iou=args.iou,
        limit=args.limit,
        class_agnostic=args.class_agnostic,
    )


def _targets(args: argparse.Namespace) -> tuple[Any, ...]:
    """What engines are asked for; those that cannot suppress boxes are refused before a source is looked at."""
    if not args.compile:
        return ()
    targets = _exporter.part("targets")
    wanted: tuple[Any, ...] = targets.parse(args.compile)
    targets.check_nms(wanted, args.nms)
    return wanted


def _size(text: str) -> Size | None:
    if not text:
        return None
    with suppress(ValueError, SpecError):
        sides = [int(side) for side in text.split(",")]
        if len(sides) <= 2 and max(sides) <= MAX_SIDE:
            return Size(sides[0], sides[-1])
    raise UsageError(
        f"--imgsz {text!r} is not H or H,W in pixels, {MAX_SIDE} at most",
        hint="for example --imgsz 640 or --imgsz 384,640",
    )


def _batch(text: str) -> Batch | None:
    if not text:
        return None
    least, dash, most = text.partition("-")
    try:
        return Batch(int(least), int(most if dash else least))
    except (ValueError, SpecError):
        raise UsageError(f"--batch {text!r} is not N or 1-N", hint="for example --batch 4 or --batch 1-8") from None


def _labels(file: str | None) -> tuple[str, ...]:
    if file is None:
        return ()
    hint = "one class name a line, UTF-8"
    lines = _types.text("--labels", Path(file), hint).splitlines()
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise UsageError(f"--labels {file} holds no names", hint=hint)
    return labels


def _progress(name: str, done: int, total: int) -> None:
    share = f"{done / total:4.0%}" if total else f"{done / 1e6:.1f} MB"
    end = "\n" if total and done >= total else ""
    print(f"\rfetching {name} {share}", end=end, file=sys.stderr, flush=True)


def _tell(trial: Any) -> None:
    """What was tried to keep a precision within its budget; nothing where the first try did."""
    if len(trial.attempts) > 1 or trial.artifact is None:
        print(_tables.table(trial.rows()), file=sys.stderr)
        print(_tables.table(trial.sensitivity_rows()), file=sys.stderr)


def _show(plan: Any, as_json: bool) -> int:
    """Print a plan: what is known of the model, what would be written, what is missing."""
    if as_json:
        print(json.dumps(plan.to_json(), ensure_ascii=False))
        return 0
    print(_tables.table(plan.rows()))
    print("nothing was written")
    return 0


def _report(path: Path, as_json: bool) -> None:
    from edgeinfer.bundle import Bundle

    spec = Bundle.open(path).spec
    artifacts: list[dict[str, Any]] = [
        {
            "file": one.file,
            "precision": one.precision,
            "bytes": (path / one.file).stat().st_size,
            **({"accuracy": one.accuracy} if one.accuracy else {}),
        }
        for one in spec.artifacts
    ]
    if as_json:
        print(json.dumps({"bundle": str(path), "name": spec.name, "task": spec.task, "artifacts": artifacts}))
        return
    classes, size = _tables.counted(len(spec.labels), "class"), spec.preprocess.size
    print(_tables.printable(f"{path}: {spec.name}, {spec.task}, {classes}, {size}, batch {spec.batch}"))
    rows = [[one["file"], one["precision"], f"{one['bytes'] / 1e6:.1f} MB"] for one in artifacts]
    print(_tables.table(rows, right=(2,)))
    if spec.provenance.license:
        print(_tables.printable(f"  licence: {spec.provenance.license}"))
    print(_tables.printable(f"next: edgeinfer run {quote(str(path))} IMAGE"))
