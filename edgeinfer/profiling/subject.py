"""What is measured: a loaded model between two named boundaries, on a set of pictures."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer import sources
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.bundle import Bundle
    from edgeinfer.pipeline import Pipeline

BOUNDARIES = {
    "engine": "tensors in, tensors out",
    "pipeline": "picture in memory to results",
    "file": "encoded file to results",
}
SYNTHETIC = (720, 1280)
MOST = 128  # pictures that are measured on: they lie in memory


class Picture(NamedTuple):
    """image (h, w, 3) uint8 BGR, and the file it is from, if it is from one."""

    image: Any
    path: Path | None = None


class PictureSet(NamedTuple):
    """The pictures of a measurement, and in words where they are from."""

    pictures: list[Picture]
    origin: str


def listed(source: str | Path | Sequence[str | Path]) -> list[str]:
    """The names of one source of pictures, or of several."""
    return [str(one) for one in ([source] if isinstance(source, (str, PathLike)) else source)]


def picture_set(bundle: Bundle, named: Sequence[str | Path], most: int = MOST) -> PictureSet:
    """The pictures named, else the bundle's golden ones, of many so many evenly spread; else one of noise.

    Raises SourceError, UsageError.
    """
    paths = [path for name in named for path in sources.files(name)]
    if named and not paths:
        raise UsageError("cameras and streams cannot be measured", hint="--source takes pictures and folders")
    origin = "given" if named else "golden of the bundle"
    paths = paths or [bundle.file(sample.image) for sample in bundle.spec.golden]
    if paths:
        kept = [paths[len(paths) * place // most] for place in range(most)] if len(paths) > most else paths
        count = str(len(paths)) if kept is paths else f"{most} of {len(paths)}"
        return PictureSet([_read(path) for path in kept], f"{count} {origin}")
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (*SYNTHETIC, 3), np.uint8)
    return PictureSet([Picture(noise)], f"noise, {SYNTHETIC[1]}x{SYNTHETIC[0]}")


def _read(path: Path) -> Picture:
    return Picture(next(sources.frames(path)).image, path)


class Subject:
    """Calls the model for pictures by their numbers; gives the milliseconds of each stage.

    `group` is the most pictures a call of the model takes, `lanes` how many calls of it run at the same time: what
    stages take is then the mean of the lanes. Any number is fine: the set is gone through again.
    """

    def __init__(
        self, model: Pipeline, boundary: str, pictures: Sequence[Picture], group: int = 1, lanes: int = 1
    ) -> None:
        self._model, self._pictures, self._group, self._lanes = model, pictures, group, lanes
        self._callers = ThreadPoolExecutor(lanes, thread_name_prefix="edgeinfer-caller")
        self._run = {"engine": self._engine, "pipeline": self._pipeline, "file": self._file}[boundary]
        if boundary == "file" and any(picture.path is None for picture in pictures):
            raise UsageError("the boundary `file` needs picture files", hint="name some: --source IMAGE")
        if boundary == "engine":
            images = [pictures[place % len(pictures)].image for place in range(group)]
            self._tensors, _ = model.device.preprocess(images)

    @property
    def reach(self) -> int:
        """How many pictures it works on at the same time."""
        return self._group * self._lanes

    @property
    def pictures(self) -> int:
        """How many different ones there are."""
        return len(self._pictures)

    def __call__(self, numbers: list[int]) -> dict[str, float]:
        chosen = [self._pictures[number % len(self._pictures)] for number in numbers]
        calls = [chosen[start : start + self._group] for start in range(0, len(chosen), self._group)]
        lanes = min(self._lanes, len(calls))
        total: dict[str, float] = {}
        for spans in self._callers.map(self._run, calls) if lanes > 1 else map(self._run, calls):
            for stage, span in spans.items():
                total[stage] = total.get(stage, 0.0) + span / lanes
        return total

    def _engine(self, _: list[Picture]) -> dict[str, float]:
        device = self._model.device
        start = device.mark()
        self._model.engine.run(self._tensors)
        return {"infer": device.elapsed_ms(start, device.mark())}

    def _pipeline(self, chosen: list[Picture]) -> dict[str, float]:
        return self._results([picture.image for picture in chosen])

    def _file(self, chosen: list[Picture]) -> dict[str, float]:
        start = time.perf_counter()
        images = [next(sources.frames(picture.path)).image for picture in chosen if picture.path]
        decoded_ms = (time.perf_counter() - start) * 1e3
        return {"decode": decoded_ms, **self._results(images)}

    def _results(self, images: list[Any]) -> dict[str, float]:
        return dict(self._model.batch(images)[0].timings_ms)
