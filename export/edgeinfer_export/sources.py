"""A source of any kind as a graph and a spec: a checkpoint, an ONNX file, a known name, or by way of Ultralytics."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer import cache
from edgeinfer.bundle import check_named, sha256_of
from edgeinfer.errors import ExportError, UsageError
from edgeinfer.spec import Size
from edgeinfer_export import checkpoint, fetch, graphs, onnxsource, timmconfig, via, zoo

if TYPE_CHECKING:
    from edgeinfer.spec import Provenance
    from edgeinfer_export.export import Options
    from edgeinfer_export.fetch import Progress
    from edgeinfer_export.graphs import Built
    from edgeinfer_export.timmconfig import Config
    from edgeinfer_export.told import Told

KINDS = "a .pt, .pth, .safetensors, .onnx or .engine file, a recipe (.toml)"
# layouts of which a checkpoint may have a head each
HEADS = ("yolov8", "end2end")
USUAL = (Size(224, 224), Size(640, 640))
# by whom models are pickled that are AGPL: YOLOv5 in its own checkout, as a package, Ultralytics
AGPL = ("models", "yolov5", "ultralytics")


def read(source: str | Path, options: Options, progress: Progress | None = None) -> Built:
    """The graph of a source and its spec, named, with the file it came from.

    Raises CheckpointError, ExportError, FetchError.
    """
    path, known = find(source)
    if known:
        fetch.fetch(known, path, progress)
    _check_told(path, options)
    if options.via:
        return _via(path, bundle_name(options.name or path.stem), options)
    if path.suffix.lower() == ".onnx":
        return _onnx(path, bundle_name(options.name) if options.name else "", options)
    return _checkpoint(path, known, options)


def _checkpoint(path: Path, known: zoo.Known | None, options: Options) -> Built:
    weights, config = checkpoint.read(path), timmconfig.beside(path)
    # the file may have been fetched by hand, and its name says nothing
    published = known or zoo.published(weights.sha256)
    name = options.name or (known.name if known else config.architecture if config else "") or path.stem
    built = graphs.build(
        dataclasses.replace(weights, architecture=config.architecture) if config else weights,
        size=options.size or (config.size if config else weights.size),
        batch=options.batch or graphs.ONE,
        labels=options.labels,
        name=bundle_name(name),
        told=_completed(options, published, config),
    )
    provenance = dataclasses.replace(
        built.spec.provenance,
        source=path.name,
        sha256=weights.sha256,
        license=weights.license
        or (published.license if published else "")
        or (config.license if config else "")
        or license_of(weights.origin),
    )
    notes = (*built.notes, *(() if config else _sized(weights, options)))
    return dataclasses.replace(_coming_from(built, provenance), notes=notes)


def _sized(weights: checkpoint.Checkpoint, options: Options) -> tuple[str, ...]:
    """The note on a size that is not the usual one, and comes from the checkpoint."""
    if options.size or weights.size in (None, *USUAL):
        return ()
    return (f"{weights.path.name}: its input is {weights.size}, at which it was trained; --imgsz takes another",)


def _check_told(path: Path, options: Options) -> None:
    """What is told of a model that says it itself would be passed over: that is refused."""
    told, hint = options.told, "leave it out"
    if told.io:
        raise UsageError(f"--io tells of an engine, which {path.name} is not", hint=hint)
    if path.suffix.lower() != ".onnx" and not options.via and told.layout not in ("", *HEADS):
        raise UsageError(
            f"--layout {told.layout} tells of an .onnx file or an engine, which {path.name} is not", hint=hint
        )


def _completed(options: Options, published: zoo.Known | None, config: Config | None) -> Told:
    """What the user says, or else what is known of a published checkpoint, or else what lies beside the file."""
    known: dict[str, str] = {}
    if published and published.resize:
        known = {"resize": str(published.resize)}
    elif config:
        known = config.told(options.size or config.size)
    return dataclasses.replace(
        options.told, **{fact: getattr(options.told, fact) or said for fact, said in known.items()}
    )


def find(source: str | Path) -> tuple[Path, zoo.Known | None]:
    """The file a source is, or the known name with the place where its download is kept."""
    path = Path(source)
    check_named(path)
    if path.exists():
        return path, None
    known = zoo.find(str(source))
    if known is None:
        raise ExportError(
            f"{source} is neither a file nor a known name",
            hint=f"give {KINDS}, or a known name such as {', '.join(zoo.near(str(source)[:100]))}",
        )
    return cache.home() / known.file, known


def bundle_name(name: str) -> str:
    """The name of letters, digits, dots, underscores and hyphens that a bundle has for this one. Raises UsageError."""
    found = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not found:
        raise UsageError(f"{name!r} gives no name for the bundle", hint="say --name NAME")
    return found


def license_of(origin: str) -> str:
    """Whole pickled models tell by their classes whose training code, hence whose licence, made them."""
    return "AGPL-3.0 (weights)" if origin.partition(".")[0] in AGPL else ""


def _onnx(path: Path, name: str, options: Options) -> Built:
    return onnxsource.build(
        path, size=options.size, batch=options.batch, labels=options.labels, name=name, told=options.told
    )


def _via(path: Path, name: str, options: Options) -> Built:
    """A checkpoint as Ultralytics exports it; the bundle's source is still the checkpoint."""
    with via.exported(path, options.size, options.batch or graphs.ONE, python=options.via_python) as file:
        try:
            built = _onnx(file, name, options)
        except ExportError as error:
            told = str(error).replace(str(file), file.name)
            raise ExportError(f"{path.name}, exported by {options.via}: {told}", hint=error.hint) from error
    return _coming_from(built, dataclasses.replace(built.spec.provenance, source=path.name, sha256=sha256_of(path)))


def _coming_from(built: Built, provenance: Provenance) -> Built:
    return dataclasses.replace(built, spec=dataclasses.replace(built.spec, provenance=provenance))
