"""`edgeinfer triton`: a bundle into the model repository of a Triton Inference Server."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from edgeinfer.cli import _choosing, _exporter, _types
from edgeinfer.spec import COLORS

if TYPE_CHECKING:
    import argparse

HELP = "write a bundle into the model repository of a Triton Inference Server"
EXAMPLE = """\
edgeinfer triton engines/yolov5s -o models
edgeinfer triton engines/yolov5s -o models --ensemble
edgeinfer triton engines/yolov5s -o models --artifact trt-sm86-10.3.0.fp16.plan --instances 2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the model repository")
    parser.add_argument("--name", default="", help="the model's name in it (default: the bundle's)")
    parser.add_argument(
        "--artifact",
        metavar="FILE",
        default="",
        help="the ONNX file or TensorRT engine to serve, as edgeinfer info lists them (default: the most precise ONNX)",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="parts round a model exported without --preprocess graph --nms graph: it takes frames and gives boxes",
    )
    parser.add_argument("--frames", choices=COLORS, default="", help="channel order of those frames (default: bgr)")
    parser.add_argument(
        "--device", choices=("auto", "gpu", "cpu"), default="auto", help="where it runs (default: auto)"
    )
    parser.add_argument(
        "--instances", type=_types.count, metavar="N", default=1, help="how many run at the same time (default: 1)"
    )
    parser.add_argument(
        "--delay", type=int, metavar="US", default=500, help="microseconds to wait for a batch (default: 500)"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.bundle import Bundle

    triton = _exporter.part("triton")
    options = triton.Options(
        artifact=args.artifact,
        name=args.name,
        ensemble=args.ensemble,
        color=args.frames,
        device=args.device,
        instances=args.instances,
        delay_us=args.delay,
    )
    paths = [str(path) for path in triton.write(Bundle.open(args.bundle), Path(args.output), options)]
    if args.json:
        print(json.dumps({"repository": args.output, "models": paths}))
    else:
        print("\n".join([*paths, f"next: tritonserver --model-repository={quote(str(args.output))}"]))
    return 0
