"""From a source to a bundle: read the checkpoint, build the graph, check it, record golden samples, write."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeinfer
from edgeinfer import modeljson
from edgeinfer.bundle import SPEC_FILE, Bundle, sha256_of, writing
from edgeinfer.errors import ExportError, UsageError
from edgeinfer.loading import load
from edgeinfer.results import Classification
from edgeinfer.spec import Artifact, Batch, Boxes, Expected, Golden, Size
from edgeinfer_export import checkpoint, fetch, graphs, zoo

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec

ONE = Batch(1, 1)
PLAIN = graphs.Variant()
# a golden sample's most findings, and the confidences tried until something is found
GOLDEN_LIMIT = 20
GOLDEN_SCORES = (0.25, 0.05, 0.01)
LICENSES = {
    "yolov5": "AGPL-3.0 (weights)",
    "ultralytics": "AGPL-3.0 (weights)",
}


@dataclass(frozen=True)
class Options:
    """How a model is exported: input size (None: the family's own), batch, labels (empty: the checkpoint's).

    `variant`: what is moved into the graph, and a detector's thresholds.
    """

    size: Size | None = None
    batch: Batch = ONE
    labels: tuple[str, ...] = ()
    name: str = ""
    precisions: tuple[str, ...] = ("fp32",)
    variant: graphs.Variant = PLAIN


def export(
    source: str | Path,
    out: str | Path | None = None,
    options: Options = Options(),
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Export a checkpoint file or a known name to the bundle `out` (default engines/NAME); gives its path.

    Raises CheckpointError, ExportError, FetchError, BundleError.
    """
    unknown = set(options.precisions) - {"fp32"}
    if unknown:
        raise ExportError(f"precision {', '.join(sorted(unknown))} is not built yet", hint="use --precision fp32")
    path, known = _locate(source, progress)
    weights = checkpoint.read(path)
    name = _plain(options.name or (known.name if known else path.stem))
    built = graphs.build(
        weights,
        size=options.size,
        batch=options.batch,
        labels=options.labels,
        name=name,
        resize=known.resize if known else 0,
    )
    built = graphs.vary(built, options.variant)
    provenance = dataclasses.replace(
        built.spec.provenance,
        source=path.name,
        sha256=weights.sha256,
        license=weights.license or (known.license if known else "") or _license_of(weights.origin),
        edgeinfer=edgeinfer.__version__,
    )
    spec = dataclasses.replace(built.spec, provenance=provenance)
    return write_bundle(built.model, spec, Path(out) if out else Path("engines") / name)


def write_bundle(model: onnx.ModelProto, spec: ModelSpec, target: Path) -> Path:
    """Write a graph, its golden samples and its spec as the bundle `target`, all or nothing; gives its path."""
    with writing(target) as folder:
        file = folder / "model.fp32.onnx"
        file.write_bytes(model.SerializeToString(deterministic=True))
        artifact = Artifact(file.name, "onnx", "fp32", sha256_of(file))
        spec = dataclasses.replace(spec, artifacts=(artifact,))
        modeljson.write(spec, folder / SPEC_FILE)
        modeljson.write(dataclasses.replace(spec, golden=_golden_samples(folder)), folder / SPEC_FILE)
    return target


def _locate(source: str | Path, progress: Callable[[str, int, int], None] | None) -> tuple[Path, zoo.Known | None]:
    """The file to read: the source itself, or the download of a known name."""
    path = Path(source)
    if path.exists():
        return path, None
    known = zoo.find(str(source))
    if known is None:
        names = ", ".join(zoo.names())
        raise ExportError(
            f"{source} is neither a file nor a known name",
            hint=f"give a .pt, .pth or .safetensors file, or one of {names}",
        )
    return fetch.fetch(known, progress=progress), known


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not plain:
        raise UsageError(f"{name!r} gives no name for the bundle", hint="say --name NAME")
    return plain


def _license_of(origin: str) -> str:
    """Whole pickled models tell by their classes whose training code, hence whose licence, made them."""
    family = origin.split(".", maxsplit=1)[0]
    return LICENSES.get("yolov5" if family == "models" else family, "")


def _golden_samples(folder: Path) -> tuple[Golden, ...]:
    """Run the float32 graph on the packaged pictures and record what it finds."""
    import cv2

    (folder / "golden").mkdir()
    samples = []
    scores = _scores(Bundle.open(folder).spec)
    with load(folder, backend="ort", precision="fp32", conf=min(scores, default=None)) as pipeline:
        for place, picture in enumerate(_pictures()):
            name = f"golden/{place}.png"
            if not cv2.imwrite(str(folder / name), picture):
                raise ExportError(f"{name} cannot be written", hint="check free space, then run again")
            samples.append(_record(name, pipeline(picture), scores))
    return tuple(samples)


def _scores(spec: ModelSpec) -> tuple[float, ...]:
    """The confidences to try; none for a classifier, and none below what a detector's own graph keeps."""
    decode = spec.decode
    if not isinstance(decode, Boxes):
        return ()
    if decode.where == "runtime":
        return GOLDEN_SCORES
    return *(score for score in GOLDEN_SCORES if score > decode.score), decode.score


def _record(name: str, result: Result, scores: tuple[float, ...]) -> Golden:
    if isinstance(result, Classification):
        named = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
        return Golden(name, tuple(Expected(class_id, round(score, 5)) for class_id, score in named))
    for least in scores:
        found = result.above(least)
        if len(found):
            break
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    expect = [Expected(one, round(score, 5), tuple(round(side, 2) for side in box)) for one, score, box in rows]
    return Golden(name, tuple(expect[:GOLDEN_LIMIT]), least)


def _pictures() -> list[Any]:
    """The packaged street scenes, (h, w, 3) uint8 BGR."""
    import cv2
    import numpy as np

    assets = resources.files("edgeinfer_export") / "assets"
    files = sorted(entry.name for entry in assets.iterdir() if entry.name.endswith(".jpg"))[:2]
    return [cv2.imdecode(np.frombuffer((assets / file).read_bytes(), np.uint8), cv2.IMREAD_COLOR) for file in files]
