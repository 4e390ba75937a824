"""`edgeinfer run`: a bundle on pictures, folders, videos and cameras."""

from __future__ import annotations

import itertools
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeinfer import backends, sources
from edgeinfer.cli import _limits
from edgeinfer.errors import SourceError
from edgeinfer.spec import PRECISIONS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterable, Sequence

    from edgeinfer.cli._tally import Tally
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.results import Result
    from edgeinfer.sources import Frame


class Output(Protocol):
    """Takes each result; `closed` when it wants no more."""

    closed: bool

    def add(self, frame: Frame, result: Result) -> None: ...


HELP = "run a bundle on pictures, folders, videos and cameras"
EXAMPLE = """\
edgeinfer run engines/yolov5s bus.jpg
edgeinfer run engines/yolov5s photos/ --save annotated --conf 0.4
edgeinfer run engines/resnet50 'photos/*.jpg' --top 3 --json results.jsonl
edgeinfer run engines/yolov5s camera:0 --show
edgeinfer run engines/yolov5s clip.mp4 --json - | jq .detections"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that edgeinfer export wrote")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a picture, a folder of pictures, a quoted pattern, a video, camera:N, rtsp://..., gst:PIPELINE",
    )
    choosing = parser.add_argument_group("what runs (the best that can run here, unless chosen)")
    choosing.add_argument(
        "--backend",
        choices=["auto", *backends.names()],
        default="auto",
        metavar="NAME",
        help=f"one of {', '.join(backends.names())}",
    )
    choosing.add_argument(
        "--precision",
        choices=["auto", *PRECISIONS],
        default="auto",
        metavar="P",
        help=f"one of {', '.join(PRECISIONS)}",
    )
    choosing.add_argument(
        "--threads", type=_limits.count, default=0, metavar="N", help="CPU threads (default: the backend's choice)"
    )
    keeping = parser.add_argument_group("what is kept (the bundle's own numbers, unless given)")
    keeping.add_argument("--conf", type=_limits.fraction, metavar="F", help="detectors: the lowest score, 0 to 1")
    keeping.add_argument(
        "--iou",
        type=_limits.fraction,
        metavar="F",
        help="detectors: drop a box that overlaps a better one of its class by more, 0 to 1",
    )
    keeping.add_argument("--top", type=_limits.count, metavar="K", help="classifiers: how many classes")
    keeping.add_argument("--max-frames", type=_limits.count, metavar="N", help="stop after so many pictures")
    giving = parser.add_argument_group("where results go (a line for each picture, unless given)")
    giving.add_argument("--json", metavar="FILE|-", help="JSON Lines to a file, or with - to stdout and nothing else")
    giving.add_argument("--save", metavar="DIR", type=Path, help="annotated pictures and videos, under the same names")
    giving.add_argument("--show", action="store_true", help="annotated pictures in a window")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.cli._tally import Tally
    from edgeinfer.loading import load

    said = sys.stderr if args.json == "-" else sys.stdout
    tally = Tally(said, alone=len(args.source) == 1 and not sources.many(args.source[0]))
    thresholds = {name: getattr(args, name) for name in ("conf", "iou", "top")}
    with ExitStack() as stack:
        outputs = _outputs(args, stack)
        model = stack.enter_context(load(args.bundle, args.backend, args.precision, threads=args.threads, **thresholds))
        frames = stack.enter_context(closing(_frames(args.source, tally)))
        interrupted = _work(model, itertools.islice(frames, args.max_frames), outputs, tally)
        if not tally.pictures:
            tally.check()
    print(tally.table(model), file=said)
    tally.check()
    return 130 if interrupted else 0


def _outputs(args: argparse.Namespace, stack: ExitStack) -> list[Output]:
    """Where results go besides the lines for people; each is finished or discarded with the stack."""
    from edgeinfer.cli import _album, _records, _window

    outputs: list[Output] = []
    if args.show:
        outputs.append(stack.enter_context(_window.window()))
    if args.json:
        outputs.append(stack.enter_context(_records.records(args.json)))
    if args.save:
        outputs.append(stack.enter_context(_album.album(args.save, args.source)))
    return outputs


def _frames(names: Sequence[str], tally: Tally) -> Generator[Frame, None, None]:
    """The frames of every source; what cannot be read is tallied, and the rest goes on."""
    for name in names:
        try:
            yield from sources.frames(name, on_error=tally.refuse)
        except SourceError as error:
            tally.refuse(error)


def _work(model: Pipeline, frames: Iterable[Frame], outputs: Sequence[Output], tally: Tally) -> bool:
    """Run the model on every frame; True when the user stopped a camera or stream."""
    moving = False
    try:
        for frame in frames:
            moving = sources.live(frame.source)
            result = model(frame.image)
            for output in outputs:
                output.add(frame, result)
            tally.add(frame, result)
            if any(output.closed for output in outputs):
                break
    except KeyboardInterrupt:
        if not moving:
            raise
        return True
    return False
