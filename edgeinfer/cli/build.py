"""`edgeinfer build`: engines for a bundle, compiled from its own ONNX."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import machine
from edgeinfer.cli import _choosing, _exporter, _types
from edgeinfer.cli._progress import CLEAR, clear
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

HELP = "compile a bundle's ONNX into TensorRT engines, for this device or for desktop RTX GPUs"
EXAMPLE = """\
edgeinfer build engines/yolov5s --compile trt
edgeinfer build engines/yolov5s --compile rtx:sm86,rtx:sm89 --precision fp16
edgeinfer build engines/yolov5s --compile trt --precision int8 --dla 0"""
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    parser.add_argument(
        "--compile",
        metavar="LIST",
        required=True,
        help="trt for the GPU of this machine; rtx:sm86 or, several GPUs in one engine, rtx:sm80+sm86+sm89",
    )
    _choosing.add_device(parser)
    parser.add_argument("--precision", metavar="LIST", default="", help="default: every precision the bundle holds")
    parser.add_argument(
        "--batch", metavar="N,N,N", help="smallest, usual, largest batch of a model with an open one (default: its own)"
    )
    parser.add_argument(
        "--workspace", metavar="MIB", type=_types.count, help="most memory a layer may use while it runs"
    )
    parser.add_argument("--level", metavar="0-5", type=int, choices=range(6), help="how hard the builder tries")
    parser.add_argument("--version-compatible", action="store_true", help="for later TensorRT releases too (8.6 on)")
    parser.add_argument("--hardware-compatible", action="store_true", help="for every GPU from Ampere on (8.6 on)")
    parser.add_argument("--dla", metavar="CORE", type=int, help="a Jetson's DLA core, the GPU for what it cannot do")
    parser.add_argument("--no-tf32", action="store_true", help="compute float32 in full, not in TF32")
    parser.add_argument("--timing-cache", metavar="FILE", help="default: BUNDLE.timing-cache")
    parser.add_argument("--log", metavar="FILE", help="append all that the library says")
    parser.add_argument("--json", action="store_true", help="print what was built as JSON Lines")


def run(args: argparse.Namespace) -> int:
    targets, engines, options = (_exporter.part(name) for name in ("targets", "engines", "buildoptions"))
    chosen = options.Options(
        workspace_bytes=args.workspace * MIB if args.workspace is not None else None,
        optimization_level=args.level,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        dla_core=args.dla,
        tf32=not args.no_tf32,
        gpu=machine.ordinal(args.device) or 0,
        timing_cache=Path(args.timing_cache) if args.timing_cache else None,
        log_file=Path(args.log) if args.log else None,
    )
    engines.add_engines(
        Path(args.bundle),
        targets.parse(args.compile),
        chosen,
        precisions=_exporter.precisions(args.precision),
        batch=_batch(args.batch),
        progress=_progress if sys.stderr.isatty() else None,
        done=printer(args.json),
    )
    return 0


def _batch(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--batch {text!r} is not three numbers", hint="for example --batch 1,4,8") from None
    return least, usual, most


def _progress(phase: str, done: int, total: int) -> None:
    print(f"{CLEAR}{phase} {done}/{total}", end="", file=sys.stderr, flush=True)


def printer(as_json: bool) -> Callable[[Any], None]:
    return _print_json if as_json else _print_line


def _print_json(built: Any) -> None:
    clear()
    facts = {"file": built.path.name, "precision": built.precision, "bytes": built.size_bytes}
    more = {"seconds": round(built.elapsed_s, 3), "built_with": built.built_with, "target": built.target}
    print(json.dumps({**facts, **more, "on_gpu": built.on_gpu, "warnings": built.warnings}), flush=True)


def _print_line(built: Any) -> None:
    clear()
    size, seconds = built.size_bytes / 1e6, built.elapsed_s
    print(f"{built.path}  {built.precision}  {size:.1f} MB  {seconds:.1f} s  {built.built_with}", flush=True)
    if built.on_gpu:
        shown = ", ".join(built.on_gpu[:10]) + (", ..." if len(built.on_gpu) > 10 else "")
        print(f"  {len(built.on_gpu)} layers run on the GPU, not on the DLA: {shown}")
