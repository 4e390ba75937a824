"""A candidate in a process of its own, which may crash or hang without harm."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.profiling.child import Child
from edgeinfer.profiling.samples import Samples
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgeinfer.bundle import Bundle
    from edgeinfer.plans import Choice
    from edgeinfer.results import Result

# seconds: to load and warm up (engines may be optimised then), and of silence beyond what was asked for
LOADING_S, SILENCE_S = 180.0, 60.0


class Turn(NamedTuple):
    """What a candidate did in one go; `memory_mb` is the most its process ever had."""

    samples: Samples
    memory_mb: float | None


class Entrant(Child):
    """A process that runs one choice."""

    def __init__(self, bundle: Bundle, choice: Choice, work: str, device: str = "auto", **asked: Any) -> None:
        self.choice = choice
        self.turns: list[Turn] = []
        told = {"bundle": str(bundle.path), "choice": asdict(choice), "work": work, "device": device, **asked}
        super().__init__("edgeinfer.tuning._entrant", told, quiet=True)

    def wait_ready(self) -> dict[str, Any]:
        """Once it has loaded and is warm: what it says about itself."""
        facts: dict[str, Any] = self._heard(LOADING_S)["ready"]
        return facts

    def turn(self, seconds: float) -> Turn:
        """Let it work for so long."""
        self._say(seconds)
        said = self._heard(seconds + SILENCE_S)
        self.turns.append(Turn(Samples(**said["samples"]), said["memory_mb"]))
        return self.turns[-1]

    def answers(self, bundle: Bundle, seconds: float) -> list[Result | None]:
        """What it found in each picture; it may take so long."""
        return [_result(record, bundle) for record in self._heard(seconds)["answers"]]

    def files(self, seconds: float) -> list[str]:
        """What it wrote; it may take so long."""
        return [str(name) for name in self._heard(seconds)["files"]]


def _result(record: dict[str, Any] | None, bundle: Bundle) -> Result | None:
    if record is None:
        return None
    labels, source = bundle.spec.labels, Size(*record["source"])
    scores, class_ids = np.array(record["scores"], np.float32), np.array(record["class_ids"], np.int32)
    if "boxes" not in record:
        return Classification(class_ids, scores, labels, source)
    return Detections(np.array(record["boxes"], np.float32).reshape(-1, 4), scores, class_ids, labels, source)


@contextlib.contextmanager
def entered(
    bundle: Bundle, choice: Choice, work: str, pictures: Sequence[Path], device: str = "auto", **asked: Any
) -> Iterator[Entrant]:
    """An entrant on these pictures while the block lasts; what else it is `asked` stands in `_entrant`."""
    names = [str(path.absolute()) for path in pictures]
    entrant = Entrant(bundle, choice, work, device=device, pictures=names, **asked)
    try:
        yield entrant
    finally:
        entrant.close()
