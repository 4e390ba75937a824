"""`edgeinfer compare`: the same pictures through several models, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli import INTERRUPTED, _choosing, _reports, _types
from edgeinfer.cli._faults import Faults
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.wholefile import check_folder

if TYPE_CHECKING:
    import argparse

    from edgeinfer.comparing.comparison import Comparison

HELP = "run several models on the same pictures: what each finds, how far they agree, what each costs"
EXAMPLE = """\
edgeinfer compare engines/yolov5n engines/yolov5s photos/ --save compared
edgeinfer compare engines/yolov5s@ort engines/yolov5s@ov,int8 bus.jpg
edgeinfer compare engines/resnet50 engines/yolov5s bus.jpg --html compared.html
edgeinfer compare engines/yolov5s@ort,fp32 engines/yolov5s@ort,int8 bus.jpg --parity"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="+",
        help="a folder that edgeinfer export wrote; BUNDLE@ov, BUNDLE@int8 or BUNDLE@ov,int8 says how it runs",
    )
    parser.add_argument("source", metavar="SOURCE", help="a picture, a folder of pictures, a quoted pattern")
    parser.add_argument("--parity", action="store_true", help="two ways of one model: how far their tensors differ")
    parser.add_argument(
        "--seconds", type=_types.above_zero, metavar="S", default=3.0, help="of timing for each model (default: 3)"
    )
    _choosing.add_device(parser)
    _choosing.add_no_plan(parser)
    giving = parser.add_argument_group("where results go (a table to the terminal, always)")
    giving.add_argument(
        "--save", metavar="DIR", type=Path, help="the pictures as each model sees them, side by side, once all have"
    )
    giving.add_argument("--json", metavar="FILE|-", help="everything as one JSON object, with - to stdout alone")
    giving.add_argument("--html", metavar="FILE", help="a page with the pictures that needs nothing else")


def run(args: argparse.Namespace) -> int:
    _reports.check(args.json, args.html)
    if args.save:
        check_folder(args.save)
    if args.parity:
        return _parity(args)
    from edgeinfer.cli._progress import progress
    from edgeinfer.comparing.compare import compare

    faults, how = Faults(), {"plan": not args.no_plan, "device": args.device}
    with progress() as say:
        found = compare(args.bundle, args.source, seconds=args.seconds, **how, say=say, on_error=faults.add)
    _reports.give(found.table(), (args.json, found.json), (args.html, found.html))
    if found.partial:
        return INTERRUPTED
    if args.save:
        _save(found, args.save)
    if found.faults:
        raise EngineError(
            f"{len(found.faults)} of {len(found.models)} models did not come to the end: {found.faults[0]}",
            hint="edgeinfer verify BUNDLE says what is wrong with it",
        )
    faults.check()
    return 0


def _parity(args: argparse.Namespace) -> int:
    from edgeinfer.cli._progress import progress
    from edgeinfer.comparing.parity import parity

    if args.html or args.save:
        raise UsageError("--parity compares tensors, and has no pictures to --save or show in --html")
    faults, how = Faults(), {"plan": not args.no_plan, "device": args.device}
    with progress() as say:
        found = parity(args.bundle, args.source, **how, say=say, on_error=faults.add)
    _reports.give(found.table(), (args.json, found.json))
    if found.partial:
        return INTERRUPTED
    faults.check()
    return 0


def _save(found: Comparison, folder: Path) -> None:
    """A PNG for each picture, under its own name; those of one name in different folders are told apart by numbers."""
    from edgeinfer import pictures
    from edgeinfer.wholefile import whole

    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    for place, path in enumerate(found.pictures):
        taken[path.stem] = taken.get(path.stem, 0) + 1
        number = f"-{taken[path.stem]}" if taken[path.stem] > 1 else ""
        data = pictures.encode(found.side_by_side(place), ".png")
        with whole(folder / f"{path.stem}{number}.png") as part:
            part.write_bytes(data)
