"""What a model says about one picture: `Detections` or `Classification`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, Union, overload

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from edgeinfer.spec import Size

Found = TypeVar("Found", bound="Detections")
NAMED = 5  # the best of a result, which its repr names


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Boxes found in one picture, best first; the arrays are the result's own.

    boxes (n, 4) float32 x1 y1 x2 y2 in source pixels, clipped to the source; scores (n,) float32 0-1;
    class_ids (n,) int32 into `labels`; `source` is the picture's size; `timings_ms` by stage, of the run it was in.

    `found[0]` is (box, score, label) of the best; what NumPy takes for several gives the result with these alone:
    `found[:3]`, `found[found.class_ids == 2]`.
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

    @overload
    def __getitem__(self, which: int) -> tuple[NDArray[np.float32], float, str]: ...

    @overload
    def __getitem__(self: Found, which: slice | list[int] | NDArray[Any]) -> Found: ...

    def __getitem__(self, which: Any) -> Any:
        scores = self.scores[which]
        if scores.ndim == 0:
            return self.boxes[which], float(scores), self.labels[self.class_ids[which]]
        return self._part(which)

    def _part(self: Found, which: Any) -> Found:
        return replace(self, boxes=self.boxes[which], scores=self.scores[which], class_ids=self.class_ids[which])

    def above(self: Found, score: float) -> Found:
        """Only those with at least this score."""
        return self[self.scores >= score]

    def __repr__(self) -> str:
        return _shown(self)

    def captions(self) -> list[str]:
        """What stands beside each box in a drawing."""
        return [f"{label} {score:.2f}" for _, score, label in self]

    def draw(self, image: Any) -> NDArray[np.uint8]:
        """A copy (h, w, 3) uint8 BGR of the picture with its boxes and labels on it.

        image (h, w, 3) uint8 BGR, (h, w) grey or (h, w, 4) BGRA. Raises InputError.
        """
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


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """The best classes of one picture, best first: class_ids (k,) int32 into `labels`, scores (k,) float32.

    `said[0]` is (score, label) of the best; `source` is the picture's size; `timings_ms` by stage, of its run.
    """

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

    @overload
    def __getitem__(self, which: int) -> tuple[float, str]: ...

    @overload
    def __getitem__(self, which: slice | list[int] | NDArray[Any]) -> Classification: ...

    def __getitem__(self, which: Any) -> Any:
        scores = self.scores[which]
        if scores.ndim == 0:
            return float(scores), self.labels[self.class_ids[which]]
        return replace(self, scores=scores, class_ids=self.class_ids[which])

    def above(self, score: float) -> Classification:
        """Only those with at least this score."""
        return self[self.scores >= score]

    def __repr__(self) -> str:
        return _shown(self)

    def draw(self, image: Any) -> NDArray[np.uint8]:
        """A copy (h, w, 3) uint8 BGR of the picture with its best classes on it.

        image (h, w, 3) uint8 BGR, (h, w) grey or (h, w, 4) BGRA. Raises InputError.
        """
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


def _shown(result: Result) -> str:
    """In one line, without a thousand labels: `<Detections in 480x640: bus 0.91, car 0.80>`."""
    best = [f"{result.labels[one]} {score:.2f}" for one, score in zip(result.class_ids[:NAMED], result.scores)]
    rest = [f"{len(result) - NAMED} more"] if len(result) > NAMED else []
    return f"<{type(result).__name__} in {result.source}: {', '.join(best + rest) or 'nothing'}>"


def ious(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.float64]:
    """Boxes (n, 4) and (m, 4) x1 y1 x2 y2 -> intersection over union (n, m); 0 for boxes without area."""
    import numpy as np

    first, second = one[:, None].astype(np.float64), two[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = sides.clip(0).prod(-1)
    union = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - shared
    found: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def _record(result: Result, key: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "height": result.source.height,
        "width": result.source.width,
        "task": result.task,
        key: found,
        "timings_ms": {stage: round(span, 3) for stage, span in result.timings_ms.items()},
    }
