"""`edgeinfer validate`: how right a bundle is on labelled pictures."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

from edgeinfer.cli import _choosing, _reports, _tables, _types
from edgeinfer.cli._faults import Faults
from edgeinfer.cli._progress import CLEAR
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    import argparse

    from edgeinfer.accuracy import Score
    from edgeinfer.datasets import Dataset
    from edgeinfer.pipeline import Pipeline

HELP = "measure a bundle's accuracy on labelled pictures: mAP of a detector, top-1 and top-5 of a classifier"
EXAMPLE = """\
edgeinfer validate engines/yolov5s coco/annotations/instances_val2017.json
edgeinfer validate engines/yolov5s coco128/ --precision int8 --limit-images 64
edgeinfer validate engines/resnet50 imagenet/val --backend ort --json accuracy.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a detector: COCO .json, YOLO data.yaml, or a folder of either; "
        "a classifier: a folder with a sub-folder of pictures for each class",
    )
    parser.add_argument(
        "--limit-images", type=_types.count, metavar="N", help="only so many pictures, evenly spread over the data set"
    )
    _choosing.add_arguments(parser)
    parser.add_argument("--json", metavar="FILE|-", help="the numbers as one JSON object, with - to stdout alone")


def run(args: argparse.Namespace) -> int:
    from edgeinfer import accuracy, datasets
    from edgeinfer.bundle import Bundle
    from edgeinfer.loading import load

    _reports.check(args.json)
    bundle, faults = Bundle.open(args.bundle), Faults()
    dataset = datasets.read(args.dataset, bundle.spec)
    _reports.check_apart(args.json, dataset.path)
    accuracy.check(dataset, bundle.spec.task)
    dataset = dataset.spread(args.limit_images or len(dataset))
    options = accuracy.thresholds(bundle.spec)
    with load(bundle, **_choosing.chosen(args), **options) as model:
        progress = _progress if sys.stderr.isatty() else None
        score = accuracy.evaluate(model, dataset, progress, faults.add)
        report = _report(args, model, dataset, score, faults.count)
    indent = None if args.json == "-" else 2
    _reports.write(args.json, lambda: json.dumps(report, ensure_ascii=False, indent=indent) + "\n")
    _print(report, score, _reports.aside(args.json))
    faults.check()
    return 0


def _progress(done: int, total: int) -> None:
    width = 30
    bar = ("#" * (width * done // total)).ljust(width, ".")
    end = CLEAR if done == total else ""
    print(f"\r{bar} {done}/{total}{end}", end="", file=sys.stderr, flush=True)


def _report(args: argparse.Namespace, model: Pipeline, dataset: Dataset, score: Score, faults: int) -> dict[str, Any]:
    """The JSON object: what was measured on what, by which thresholds, and the numbers."""
    decode = model.spec.decode
    boxes = {"conf": decode.score, "iou": decode.iou, "limit": decode.limit} if isinstance(decode, Boxes) else {}
    each = {
        label: {"objects": one.objects, "ap50": _short(one.ap50), "ap50_95": _short(one.ap50_95)}
        for label, one in score.classes.items()
    }
    return {
        "bundle": str(args.bundle),
        "dataset": str(dataset.path),
        "layout": dataset.layout,
        "matched": dataset.matched,
        "task": model.spec.task,
        "backend": model.backend,
        "artifact": model.artifact,
        **boxes,
        "images": score.images,
        "unreadable": faults,
        **{name: _short(value) for name, value in score.numbers.items()},
        **({"classes": each} if each else {}),
    }


def _short(value: float) -> float:
    return round(value, 6)


def _print(report: dict[str, Any], score: Score, said: TextIO) -> None:
    rows = _rows(score)
    print(_tables.table(rows, right=(1, 2, 3) if score.classes else (0, 1)), file=said)
    read = f"{_tables.counted(report['images'], 'picture')}, {_tables.counted(report['unreadable'], 'error')}"
    with_ = f"; conf {report['conf']:g}, iou {report['iou']:g}, limit {report['limit']}" if "conf" in report else ""
    ran = _tables.line(f"{report['backend']} {report['artifact']}".strip())
    print(f"\n{read} ({report['layout']}, classes {report['matched']}){with_}; ran on {ran}", file=said)


def _rows(score: Score) -> list[tuple[str, ...]]:
    """The table's head, and a line for each class of a detector."""
    whole = _percents(*score.numbers.values())
    if not score.classes:
        return [("top-1", "top-5"), whole]
    each = [(label, str(one.objects), *_percents(one.ap50, one.ap50_95)) for label, one in score.classes.items()]
    objects = sum(one.objects for one in score.classes.values())
    return [("class", "objects", "AP50", "AP50-95"), *each, ("all", str(objects), *whole)]


def _percents(*shares: float) -> tuple[str, ...]:
    return tuple(f"{100 * share:.1f}" for share in shares)
