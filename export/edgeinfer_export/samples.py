"""Golden samples of a bundle: the package's street scenes, and what the model finds in them."""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import TYPE_CHECKING, Any

from edgeinfer import golden
from edgeinfer.bundle import Bundle
from edgeinfer.errors import EngineError, ExportError
from edgeinfer.loading import load, with_thresholds
from edgeinfer.pictures import encode
from edgeinfer.results import Classification
from edgeinfer.sources import picture
from edgeinfer.spec import Boxes, Expected, Golden
from edgeinfer_export import gate
from edgeinfer_export.graphs.ops import DIVERGED

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.pipeline import Pipeline
    from edgeinfer.results import Detections, Result
    from edgeinfer.spec import Artifact, ModelSpec

PICTURES = 2
LIMIT = 20  # the most findings of a sample
SCORES = (0.25, 0.05, 0.01)  # the confidences tried until something is found that every precision must find again


def files() -> tuple[str, ...]:
    """The pictures of a bundle's golden samples."""
    return tuple(f"golden/{place}.png" for place in range(PICTURES))


def recorded(folder: Path, precision: str) -> tuple[Golden, ...]:
    """Run the graph on the packaged pictures and record what it finds."""
    (folder / "golden").mkdir()
    found = []
    scores = _scores(Bundle.open(folder).spec)
    with load(folder, backend="ort", precision=precision, conf=min(scores, default=None)) as pipeline:
        for name, picture in zip(files(), _pictures(), strict=True):
            # encoded here and written by us: libpng tells the terminal, not the caller, that the disk is full
            (folder / name).write_bytes(encode(picture, ".png"))
            found.append(record(name, _seen(pipeline, picture, precision), scores))
    return tuple(found)


def _seen(pipeline: Pipeline, picture: Any, precision: str) -> Result:
    """What the model finds; in float32 it is not the precision that makes numbers overflow."""
    try:
        return pipeline(picture)
    except EngineError as error:
        if precision != "fp32":
            raise
        raise ExportError(f"the model cannot be run on a street scene: {error}", hint=DIVERGED) from error


def found_by_all(
    folder: Path, spec: ModelSpec, samples: tuple[Golden, ...], artifacts: list[Artifact]
) -> tuple[Golden, ...]:
    """The samples less what an artifact does not find: the gate admitted it, and no engine made of it is broken for it.

    A sample that would ask for nothing any more is left as it is.
    """
    shown = with_thresholds(spec, conf=golden.lowest_score(dataclasses.replace(spec, golden=samples)))
    for artifact in artifacts:
        with gate.on_cpu(shown, folder / artifact.file) as pipeline:
            samples = tuple(_less(folder, sample, pipeline, artifact.precision) for sample in samples)
    return samples


def _less(folder: Path, sample: Golden, pipeline: Pipeline, precision: str) -> Golden:
    lost = golden.missing(sample, pipeline(picture(folder / sample.image).image), precision)
    found = tuple(item for item in sample.expect if item not in lost)
    return dataclasses.replace(sample, expect=found or sample.expect)


def untested(spec: ModelSpec) -> str:
    """What to say of precisions whose engines pass the samples whatever they find; empty: of none."""
    if not isinstance(spec.decode, Boxes):
        return ""
    precisions = dict.fromkeys(artifact.precision for artifact in spec.artifacts)
    blind = [one for one in precisions if not any(golden.certain(sample, one) for sample in spec.golden)]
    if not blind:
        return ""
    return (
        f"{spec.name} finds nothing in the golden samples that {', '.join(blind)} must find again: an engine that is "
        "broken passes its self-test too; check it with edgeinfer validate"
    )


def _scores(spec: ModelSpec) -> tuple[float, ...]:
    """The confidences to try; none for a classifier, and none below what a detector's own graph keeps."""
    decode = spec.decode
    if not isinstance(decode, Boxes):
        return ()
    if decode.where == "runtime":
        return SCORES
    return *(score for score in SCORES if score > decode.score), decode.score


def record(name: str, result: Result, scores: tuple[float, ...]) -> Golden:
    """The sample of what was found, at the first of a detector's `scores` where every precision is asked for a box."""
    if isinstance(result, Classification):
        named = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
        return Golden(name, tuple(Expected(class_id, round(score, 5)) for class_id, score in named))
    samples = [_boxes(name, result, least) for least in scores]
    asking = [sample for sample in samples if golden.certain(sample, "int8")] or [one for one in samples if one.expect]
    return (asking or samples[-1:])[0]


def _boxes(name: str, result: Detections, least: float) -> Golden:
    found = result.above(least)
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    # a box that lies beside the picture is clipped to a line, which overlaps with nothing, itself included
    solid = [row for row in rows if min(row[2][2] - row[2][0], row[2][3] - row[2][1]) >= 1]
    expect = [Expected(one, round(score, 5), tuple(round(side, 2) for side in box)) for one, score, box in solid]
    return Golden(name, tuple(expect[:LIMIT]), least)


def _pictures() -> list[Any]:
    """The packaged street scenes, (h, w, 3) uint8 BGR."""
    import cv2
    import numpy as np

    assets = resources.files("edgeinfer_export") / "assets"
    names = sorted(entry.name for entry in assets.iterdir() if entry.name.endswith(".jpg"))[:PICTURES]
    return [cv2.imdecode(np.frombuffer((assets / name).read_bytes(), np.uint8), cv2.IMREAD_COLOR) for name in names]
