"""`edgeinfer demo`: the whole way, from a checkpoint to annotated pictures, with what the package brings."""

from __future__ import annotations

import importlib
import statistics
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer.cli import _tables
from edgeinfer.devices import STAGES
from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    import argparse

    from edgeinfer.cli._album import Album
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.results import Result

HELP = "export a small trained model, run it on street scenes, and write annotated pictures"
EXAMPLE = """\
edgeinfer demo
edgeinfer demo --save /tmp/demo --keep"""
NAME = "pictograms"


class Row(NamedTuple):
    """One source of the demo: what was found in it, and the median milliseconds of every stage."""

    source: str
    found: str
    spans: tuple[float, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save", metavar="DIR", type=Path, default=Path("demo-output"), help="where to write (default: demo-output)"
    )
    parser.add_argument("--keep", action="store_true", help="run the bundle of an earlier demo in DIR, not a new one")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.cli._album import album
    from edgeinfer.loading import load

    assets, bundle = _assets(), args.save / NAME
    files = sorted(path for path in assets.iterdir() if path.name.startswith("street"))
    with ExitStack() as stack:
        opened = stack.enter_context(album(args.save, [str(path) for path in files]))
        if not (args.keep and bundle.is_dir()):
            bundle = _export(assets / f"{NAME}.pt", bundle)
        model = stack.enter_context(load(bundle, backend="ort"))
        rows = [_row(model, path, opened) for path in files]
    print(_table(rows))
    print(f"\nran on {model.backend} {model.artifact}; annotated pictures and a video are in {args.save}/")
    print(_next_steps(bundle))
    return 0


def _assets() -> Path:
    try:
        return Path(str(resources.files("edgeinfer_export"))) / "assets"
    except ModuleNotFoundError as missing:
        raise _needs_export(missing) from missing


def _export(checkpoint: Path, bundle: Path) -> Path:
    """The bundle, exported anew."""
    try:
        exporter = importlib.import_module("edgeinfer_export.export")
    except ModuleNotFoundError as missing:
        raise _needs_export(missing) from missing
    print(f"exporting {checkpoint.name}, the checkpoint of a small detector of ten street things")
    path: Path = exporter.export(checkpoint, bundle)
    print(f"wrote the bundle {path}\n")
    return path


def _needs_export(missing: ModuleNotFoundError) -> BackendUnavailable:
    return BackendUnavailable(
        f"the demo needs {missing.name}, which is not installed", hint='pip install "edgeinfer[export]"'
    )


def _row(model: Pipeline, path: Path, album: Album) -> Row:
    """Run one picture or video and keep it in the album."""
    from edgeinfer.streams import stream

    results: list[Result] = []
    with stream(path, model) as opened:
        for seen in opened:
            album.add(seen)
            results.append(seen.result)
    spans = tuple(statistics.median(result.timings_ms[stage] for result in results) for stage in STAGES)
    found = _tables.summary(results[0])
    if len(results) > 1:
        objects = sum(len(result) for result in results)
        found = f"{objects / len(results):.1f} objects a frame, {len(results)} frames"
    return Row(path.name, found, spans)


def _table(rows: list[Row]) -> str:
    head = ("picture", "found", *STAGES, "ms in all")
    cells = [(row.source, row.found, *(f"{span:.1f}" for span in row.spans), f"{sum(row.spans):.1f}") for row in rows]
    return _tables.table([head, *cells], right=range(2, len(head)), indent="")


def _next_steps(bundle: Path) -> str:
    named = quote(str(bundle))
    steps = [
        (f"edgeinfer info {named}", "what is in the bundle, and what would run here"),
        (f"edgeinfer run {named} YOUR.jpg --save out", "your own picture, video or camera:0"),
        (f"edgeinfer verify {named}", "hashes and golden samples on this machine"),
        ("edgeinfer export yolov5s", "a model that knows 80 everyday things"),
        ("edgeinfer doctor", "what this machine can use, and what it lacks"),
    ]
    return f"\nnext:\n{_tables.table(steps)}"
