"""`edgeinfer tune`: the fastest way to run a bundle on this machine that keeps its accuracy."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from edgeinfer.cli import INTERRUPTED, _choosing, _reports, _types
from edgeinfer.errors import BackendUnavailable, EdgeInferError, UsageError

if TYPE_CHECKING:
    import argparse

    from edgeinfer.bundle import Bundle

HELP = "find the fastest way to run a bundle on this machine that keeps its accuracy, and use it from then on"
EXAMPLE = """\
edgeinfer tune engines/yolov5s
edgeinfer tune engines/yolov5s --images coco128/ --budget 0.5
edgeinfer tune engines/yolov5s --objective throughput --json tuned.json
edgeinfer tune engines/yolov5s --forget"""
OBJECTIVES = ("latency", "throughput", "energy", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="latency", help="what is to be least, or most (default: latency)"
    )
    parser.add_argument(
        "--budget",
        type=_types.points,
        metavar="PERCENT",
        default=1.0,
        help="what may be lost: points of mAP or top-1 with labels, else percent of what the float32 reference "
        "finds (default: 1)",
    )
    parser.add_argument(
        "--images",
        "--dataset",
        metavar="PATH",
        help="a folder of pictures, or a data set as of edgeinfer validate (default: the bundle's golden pictures)",
    )
    parser.add_argument(
        "--seconds",
        type=_types.above_zero,
        metavar="S",
        default=10.0,
        help="of measuring for each finalist (default: 10)",
    )
    _choosing.add_device(parser)
    parser.add_argument("--json", metavar="FILE|-", help="everything as one JSON object, with - to stdout alone")
    parser.add_argument("--forget", action="store_true", help="remove the plan of this bundle, and measure nothing")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.bundle import Bundle

    _reports.check(args.json)
    bundle = Bundle.open(args.bundle)
    if args.forget:
        return _forget(bundle, args.device)
    from edgeinfer.cli._progress import progress
    from edgeinfer.tuning.tune import tune

    names = ("images", "objective", "budget", "seconds", "device")
    with progress() as say:
        outcome = tune(bundle, **{name: getattr(args, name) for name in names}, say=say)
    _reports.give(outcome.table(), (args.json, outcome.json))
    if outcome.partial:
        return INTERRUPTED
    if not outcome.winner:
        raise BackendUnavailable("no candidate came to the end", hint="the lines above say why")
    if outcome.unkept:
        raise EdgeInferError(f"the plan could not be kept: {outcome.unkept}", hint=outcome.unkept.hint)
    return 0


def _forget(bundle: Bundle, device: str) -> int:
    from edgeinfer import machine, plans

    how = f"{quote(str(bundle.path))}{'' if device == 'auto' else f' --device {device}'}"
    if not plans.forget(bundle, machine.ordinal(device)):
        raise UsageError(f"{bundle.path} has no plan on this machine", hint=f"make one: edgeinfer tune {how}")
    print(f"the plan of {bundle.path} is forgotten: the best by order runs again (edgeinfer info {how})")
    return 0
