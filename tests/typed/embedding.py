"""A program that embeds edgeinfer, as its type checker sees it: run by the tests, and checked by `make types`.

Every annotation below says what a user may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import edgeinfer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Mat = NDArray[np.integer[Any] | np.floating[Any]]  # what OpenCV's own types say of a picture it reads


def boxes_of(model: edgeinfer.Pipeline, image: NDArray[np.uint8]) -> edgeinfer.Detections:
    """What a detector finds."""
    found: edgeinfer.Result = model(image)
    assert isinstance(found, edgeinfer.Detections)
    return found


def handled(found: edgeinfer.Detections, image: Mat) -> list[str]:
    """The labels, by way of all that a result can be asked for."""
    boxes: NDArray[np.float32] = found.boxes
    several: edgeinfer.Detections = found.above(0.5)[:3][np.ones(len(boxes[:3]), bool)][[*range(len(boxes[:3]))]]
    first: tuple[NDArray[np.float32], float, str] = several[0]
    drawn: NDArray[np.uint8] = found.draw(image)
    record: dict[str, Any] = found.to_dict()
    assert drawn.shape[:2] == (record["height"], record["width"])
    return [label for _, _, label in several[1:]] + [first[2]]


def named(classifier: edgeinfer.Pipeline, image: NDArray[np.uint8]) -> str:
    """The best class."""
    said = classifier(image)
    assert isinstance(said, edgeinfer.Classification)
    best: tuple[float, str] = said.above(0)[0]
    return best[1]


def inspected(cascade: edgeinfer.Cascade, image: NDArray[np.uint8]) -> edgeinfer.Classification | None:
    """What the classifier says of the best box."""
    found: edgeinfer.Inspected = cascade.batch([image])[0].above(0.5)[:1]
    return found.classes[0]


def seen(folder: Path, model: edgeinfer.Pipeline) -> Iterator[str]:
    """The source of every picture in a folder, on tiles."""
    tiled = edgeinfer.Tiled(model, "1x2")
    sights: edgeinfer.Stream = edgeinfer.stream(folder, tiled)
    with sights:
        one: edgeinfer.Seen
        for one in sights:
            frame: edgeinfer.Frame = one.frame
            age_ms: float = one.freshness.age_ms
            if age_ms >= 0 and tiled(frame.bgr()).task == one.result.task:
                yield frame.source


def opened(bundle: Path) -> edgeinfer.Pipeline:
    """The model, or the reason and the remedy as one error of the program's own."""
    try:
        return edgeinfer.load(bundle, contexts=2, conf=0.3)
    except edgeinfer.errors.BundleError as error:
        raise SystemExit(f"{error} ({error.hint})") from error
