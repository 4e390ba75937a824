"""`edgeinfer profile`: latency on this machine, what it is made of, and whether the numbers may be trusted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.cli import INTERRUPTED, _choosing, _reports, _types
from edgeinfer.cli._progress import progress
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.profiling.report import Report
    from edgeinfer.progress import Say

HELP = "measure latency, throughput and energy on this machine, honestly"
EXAMPLE = """\
edgeinfer profile engines/yolov5s
edgeinfer profile engines/yolov5s --scenario single-stream,paced,offline --json now.json --html now.html
edgeinfer profile engines/yolov5s --scenario server --latency-bound 50ms
edgeinfer profile engines/yolov5s engines/yolov5s-pruned --fail-if-slower 5%
edgeinfer profile engines/yolov5s --boundary file --source photos/ --layers"""
SCENARIOS = ("single-stream", "multi-stream", "server", "offline", "paced", "cold")
BOUNDARIES = ("engine", "pipeline", "file")
SLOWER = 1
NOT_VALID = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="+", help="the folder that edgeinfer export wrote; of two, B against A"
    )
    _choosing.add_arguments(parser)
    _add_measuring(parser)
    giving = parser.add_argument_group("where results go (a table to the terminal, always)")
    giving.add_argument(
        "--json", metavar="FILE|-", help="everything as one JSON object, raw samples too; with - to stdout alone"
    )
    giving.add_argument("--html", metavar="FILE", help="a page with plots that needs nothing else")
    giving.add_argument("--trace", metavar="FILE", help="the first frames, for ui.perfetto.dev")
    comparing = parser.add_argument_group("comparing")
    comparing.add_argument("--compare", metavar="FILE", type=Path, help="with a report of before, that --json wrote")
    comparing.add_argument(
        "--fail-if-slower",
        type=_share,
        metavar="5%",
        help="exit code 1 when a difference is shown and it is larger than this",
    )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    measuring = parser.add_argument_group("what is measured")
    measuring.add_argument(
        "--scenario",
        type=_scenarios,
        default=["single-stream"],
        metavar="LIST",
        help=f"of {', '.join(SCENARIOS)} (default: single-stream)",
    )
    measuring.add_argument(
        "--boundary",
        choices=BOUNDARIES,
        default="pipeline",
        help="engine: tensors to tensors; pipeline: picture in memory to results; file: encoded file to results "
        "(default: pipeline)",
    )
    measuring.add_argument(
        "--seconds", type=_types.above_zero, default=10.0, metavar="S", help="per scenario (default: 10)"
    )
    measuring.add_argument(
        "--fps", type=_types.above_zero, default=30.0, metavar="F", help="paced: the camera (default: 30)"
    )
    measuring.add_argument(
        "--latency-bound",
        type=_types.milliseconds,
        metavar="MS",
        help="server: what 99 of 100 pictures may take (default: 4 times what one takes that need not wait)",
    )
    measuring.add_argument(
        "--source",
        nargs="+",
        metavar="IMAGE",
        default=[],
        help="pictures, folders, patterns, of which 128 at most are taken (default: the bundle's golden ones)",
    )
    measuring.add_argument("--layers", action="store_true", help="time the engine's layers too, after all else")


def _scenarios(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def _share(text: str) -> float:
    """`5%`, or a share below 1 such as 0.05: a 5 alone was hardly meant as 500 %."""
    if text.endswith("%"):
        return _types.above_zero(text[:-1]) / 100
    share = _types.above_zero(text)
    if share >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share below 1, such as 0.05; for percent write {text}%")
    return share


def run(args: argparse.Namespace) -> int:
    if len(args.bundle) > 2:
        raise UsageError("more than two bundles were given", hint="edgeinfer compare takes any number")
    if args.fail_if_slower is not None and not (args.compare or len(args.bundle) == 2):
        raise UsageError("--fail-if-slower needs something to compare with", hint="--compare FILE, or two bundles")
    _reports.check(args.json, args.html, args.trace)
    with progress() as say:
        report = _against_each_other(args, say) if len(args.bundle) == 2 else _alone(args, say)
    _reports.give(report.table(), (args.json, report.json), (args.html, report.html), (args.trace, report.trace))
    return _code(report, args.fail_if_slower)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    names = ("boundary", "seconds", "source", "fps")
    return {**_choosing.chosen(args), **{name: getattr(args, name) for name in names}}


def _alone(args: argparse.Namespace, say: Say) -> Report:
    from edgeinfer.profiling import comparison
    from edgeinfer.profiling.measuring import profile
    from edgeinfer.profiling.report import Report

    before = Report.read(args.compare) if args.compare else None
    if before:
        comparison.check(before.data, args.boundary, args.scenario)
        if args.fail_if_slower is not None and {*args.scenario} & {*before.data["samples"]} == {comparison.SERVER}:
            hint = "name another too: --scenario server,single-stream"
            raise UsageError("--fail-if-slower compares latencies, and those of server are not compared", hint=hint)
    more = {"scenario": args.scenario, "latency_bound_ms": args.latency_bound, "layers": args.layers}
    report = profile(args.bundle[0], **_common(args), **more, say=say)
    if before and not report.partial:
        report.compare(before)
    return report


def _against_each_other(args: argparse.Namespace, say: Say) -> Report:
    from edgeinfer.profiling.rivals import versus

    if len(args.scenario) != 1 or args.compare or args.layers:
        raise UsageError("two bundles go with one scenario, and without --compare and --layers")
    return versus(*args.bundle, **_common(args), scenario=args.scenario[0], say=say)


def _code(report: Report, limit: float | None) -> int:
    """Numbers that are not valid prove nothing, also not that a model became slower."""
    if report.partial:
        return INTERRUPTED
    if not report.valid:
        return NOT_VALID
    return SLOWER if limit is not None and report.slower_than(limit) else 0
