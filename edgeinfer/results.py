"""What a model says about one picture: `Detections` or `Classification`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from edgeinfer.spec import Size


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes found in one picture, best first.

    boxes (n, 4) float32 x1 y1 x2 y2 in source pixels, clipped to the source; scores (n,) float32 0-1;
    class_ids (n,) int32 into `labels`.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    labels: tuple[str, ...]
    source: Size
    timings_ms: dict[str, float] = field(default_factory=dict)

    task = "detect"

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], float, str]]:
        """(box, score, label) of each."""
        for box, score, class_id in zip(self.boxes, self.scores, self.class_ids):
            yield box, float(score), self.labels[class_id]

    def above(self, score: float) -> Detections:
        """Only those with at least this score."""
        keep = self.scores >= score
        return Detections(
            self.boxes[keep],
            self.scores[keep],
            self.class_ids[keep],
            self.labels,
            self.source,
            self.timings_ms,
        )

    def captions(self) -> list[str]:
        """What stands beside each box in a drawing."""
        return [f"{label} {score:.2f}" for _, score, label in self]

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the picture with its boxes and labels drawn on it."""
        from edgeinfer import drawing

        return drawing.draw(image, self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one image, without `source` and `index`."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist())
        found = [
            {
                "class_id": class_id,
                "label": self.labels[class_id],
                "score": round(score, 4),
                "box": [round(side, 2) for side in box],
            }
            for box, score, class_id in rows
        ]
        return _record(self, "detections", found)


@dataclass(frozen=True, eq=False)
class Classification:
    """The best classes of one picture, best first: class_ids (k,) int32 into `labels`, scores (k,) float32."""

    class_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    source: Size
    timings_ms: dict[str, float] = field(default_factory=dict)

    task = "classify"

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[float, str]]:
        """(score, label) of each."""
        for score, class_id in zip(self.scores, self.class_ids):
            yield float(score), self.labels[class_id]

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the picture with its best classes drawn on it."""
        from edgeinfer import drawing

        return drawing.draw(image, self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one image, without `source` and `index`."""
        rows = zip(self.scores.tolist(), self.class_ids.tolist())
        found = [
            {"class_id": class_id, "label": self.labels[class_id], "score": round(score, 4)} for score, class_id in rows
        ]
        return _record(self, "classes", found)


Result = Union[Detections, Classification]


def _record(result: Result, key: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "height": result.source.height,
        "width": result.source.width,
        "task": result.task,
        key: found,
        "timings_ms": {stage: round(span, 3) for stage, span in result.timings_ms.items()},
    }
