"""Which bundle is meant, which way of running it, and what of its boxes is kept: the same words in every verb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer import backends
from edgeinfer.cli import _types
from edgeinfer.spec import PRECISIONS

if TYPE_CHECKING:
    import argparse


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that edgeinfer export wrote")


def add_device(parser: argparse._ActionsContainer) -> None:
    told = "of several GPUs the one that CUDA gives this number, from gpu:0"
    parser.add_argument("--device", default="auto", metavar="gpu:N", help=told)


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The group they stand in."""
    group = parser.add_argument_group("what runs (the best that can run here, unless chosen)")
    add_way(group)
    add_no_plan(group)
    return group


def add_no_plan(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--no-plan", action="store_true", help="pass over what edgeinfer tune found best here")


def add_thresholds(group: argparse._ArgumentGroup, score: str = "the bundle's", overlap: str = "the bundle's") -> None:
    """`--conf` and `--iou`, with what holds where they are not given."""
    for flag, reason, default in (
        ("--conf", "whose score is less", score),
        ("--iou", "that overlaps a better one of its class by more", overlap),
    ):
        told = f"detectors: drop a box {reason}, 0 to 1 (default: {default})"
        group.add_argument(flag, type=_types.fraction, metavar="F", help=told)


def add_way(group: argparse._ArgumentGroup) -> None:
    """Backend, precision, GPU and threads."""
    for flag, word, known in (("--backend", "NAME", backends.names()), ("--precision", "P", PRECISIONS)):
        told = f"one of {', '.join(known)}"
        group.add_argument(flag, choices=["auto", *known], default="auto", metavar=word, help=told)
    add_device(group)
    group.add_argument(
        "--threads",
        type=_types.count,
        default=0,
        metavar="N",
        help="CPU threads (default: the backend's choice, or as many as a CPU quota has)",
    )


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The same as keywords of `load`."""
    given = {name: getattr(args, name) for name in ("backend", "precision", "device", "threads")}
    return {**given, "plan": not args.no_plan}
