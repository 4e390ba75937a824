"""`edgeinfer run`: a bundle on pictures, folders, videos and cameras."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeinfer import sources
from edgeinfer.cli import INTERRUPTED, _choosing, _reports, _types
from edgeinfer.cli._faults import Faults
from edgeinfer.errors import SourceError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterable, Sequence

    from edgeinfer.cascade import Cascade
    from edgeinfer.cli._tally import Tally
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.streams import Model, Seen, Stream
    from edgeinfer.tiling import Tiled


class Output(Protocol):
    """Takes each result; `closed` when it wants no more."""

    closed: bool

    def add(self, seen: Seen) -> None: ...


HELP = "run a bundle on pictures, folders, videos and cameras"
EXAMPLE = """\
edgeinfer run engines/yolov5s bus.jpg
edgeinfer run engines/yolov5s photos/ --save annotated --conf 0.4
edgeinfer run engines/resnet50 'photos/*.jpg' --top 3 --json results.jsonl
edgeinfer run engines/yolov5s camera:0 --show
edgeinfer run engines/yolov5s rtsp://10.0.0.5/door rtsp://10.0.0.6/yard --max-age 200ms --json -
edgeinfer run engines/yolov5s bus.jpg --classify engines/resnet50
edgeinfer run engines/yolov5s aerial.png --tile 640:0.2 --classify engines/resnet50
edgeinfer run engines/yolov5s clip.mp4 --json - | jq .detections"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a picture or video, here or at http://..., a folder, a quoted pattern; camera:N, rtsp://..., gst:...",
    )
    choosing = _choosing.add_arguments(parser)
    choosing.add_argument(
        "--contexts",
        type=_types.count,
        default=1,
        metavar="N",
        help="pictures at the same time, if the plan has no more (default: 1); with --threads 1 as many as cores suit "
        "video files",
    )
    choosing.add_argument(
        "--build",
        choices=["never", "background"],
        default="never",
        metavar="HOW",
        help="background: where no engine fits this GPU, build one meanwhile and go over to it (default: never)",
    )
    choosing.add_argument(
        "--no-self-test", action="store_true", help="on a GPU, run engines that were not seen to find golden samples"
    )
    _add_keeping(parser)
    doing = parser.add_argument_group("what else is done")
    doing.add_argument("--classify", metavar="BUNDLE", help="run this classifier on what is in each box")
    doing.add_argument("--tile", metavar="RxC|SIDE", help="look at large pictures in tiles too: 2x2, 640 or 640:0.2")
    giving = parser.add_argument_group("where results go (a line for each picture, unless given)")
    giving.add_argument("--json", metavar="FILE|-", help="JSON Lines to a file, or with - to stdout and nothing else")
    giving.add_argument("--save", metavar="DIR", type=Path, help="annotated pictures and videos, under the same names")
    giving.add_argument("--show", action="store_true", help="annotated pictures in a window")


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    keeping = parser.add_argument_group("what is kept (the bundle's own numbers, unless given)")
    _choosing.add_thresholds(keeping)
    keeping.add_argument("--top", type=_types.count, metavar="K", help="classifiers: how many classes")
    keeping.add_argument("--max-frames", type=_types.count, metavar="N", help="stop after so many pictures")
    keeping.add_argument(
        "--max-age",
        type=_types.milliseconds,
        default=0,
        metavar="MS",
        help="of cameras: drop results older than this, such as 200ms",
    )


def run(args: argparse.Namespace) -> int:
    from edgeinfer.cli._tally import Tally

    _reports.check_name(args.json)
    said = _reports.aside(args.json)
    tally = Tally(said)
    faults = Faults("source", "", alone=len(args.source) == 1 and not sources.is_folder_or_pattern(args.source[0]))
    code = 0
    try:
        with ExitStack() as stack:
            outputs = _outputs(args, stack)
            model = _model(args)
            stack.callback(model.close)
            sights = stack.enter_context(closing(_sights(args, model, faults)))
            _work(itertools.islice(sights, args.max_frames), outputs, tally)
            if not tally.pictures:
                faults.check()
    except KeyboardInterrupt:
        if not tally.live:  # there is no other end of a camera
            raise
        code = INTERRUPTED
    print(tally.table(model, faults.count), file=said)
    faults.check()
    return code


def _model(args: argparse.Namespace) -> Pipeline | Tiled | Cascade:
    """The bundle, with its classifier or on tiles where that was asked for: they are all called alike."""
    from edgeinfer import cascade, tiling
    from edgeinfer.loading import load

    of_classifier = {"top": args.top} if args.classify else {}
    of_model = {name: getattr(args, name) for name in ("conf", "iou", "top") if name not in of_classifier}
    how = {**_choosing.chosen(args), "contexts": args.contexts, "build": args.build, "self_test": not args.no_self_test}
    with ExitStack() as undo:
        plain = undo.enter_context(load(args.bundle, **how, **of_model))
        detector = tiling.Tiled(plain, args.tile) if args.tile else plain
        model: Pipeline | Tiled | Cascade = detector
        if args.classify:
            alike = {name: how[name] for name in ("threads", "plan", "device")}
            classifier = load(args.classify, contexts=plain.contexts, **alike, **of_classifier)
            model = cascade.Cascade(detector, classifier)
        undo.pop_all()
    return model


def _outputs(args: argparse.Namespace, stack: ExitStack) -> list[Output]:
    """Where results go besides the lines for people; each is finished or discarded with the stack."""
    from edgeinfer.cli import _album, _records, _window

    outputs: list[Output] = []
    if args.show:
        outputs.append(stack.enter_context(_window.window()))
    if args.save:
        outputs.append(stack.enter_context(_album.album(args.save, args.source)))
    # last: when a signal comes in between, a picture that has its line has been kept
    if args.json:
        outputs.append(stack.enter_context(_records.records(args.json)))
    return outputs


def _sights(args: argparse.Namespace, model: Model, faults: Faults) -> Generator[Seen, None, None]:
    """What is seen in every source; what cannot be read is noted, and the rest goes on.

    Cameras and streams are read at the same time, files one after the other.
    """
    from edgeinfer.streams import Stream

    together = len(args.source) > 1 and any(map(_endless, args.source))
    for names in [args.source] if together else [[name] for name in args.source]:
        with Stream(names, model, max_age_ms=args.max_age, on_error=faults.add) as stream, _told(stream):
            yield from stream


def _endless(source: str) -> bool:
    """Whether this is a camera or stream, or an address that does not answer, which may be one."""
    try:
        return sources.live(source)
    except SourceError:
        return True


def _told(stream: Stream) -> AbstractContextManager[object]:
    """Says when a camera falls ill or recovers, while the block lasts."""
    from edgeinfer.cli._watch import Watch

    return Watch(stream) if stream.live else nullcontext()


def _work(sights: Iterable[Seen], outputs: Sequence[Output], tally: Tally) -> None:
    """Hand every result on."""
    for seen in sights:
        for output in outputs:
            output.add(seen)
        tally.add(seen)
        if any(output.closed for output in outputs):
            break
