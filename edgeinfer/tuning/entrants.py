"""A candidate in a process of its own, which may crash or hang without harm."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.profiling.child import LOADING_S, SILENCE_S, Child
from edgeinfer.profiling.samples import Samples
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.bundle import Bundle
    from edgeinfer.plans import Choice
    from edgeinfer.results import Result

PICTURE_S = 10.0  # the most that is waited for what is found in one


class Turn(NamedTuple):
    """What a candidate did in one go; `memory_mb` is the most its process ever had."""

    samples: Samples
    memory_mb: float | None


class Entrant(Child):
    """A process that runs one choice on these pictures; what else it is `asked` stands in `_entrant`."""

    def __init__(
        self, bundle: Bundle, choice: Choice, work: str, pictures: Sequence[Path], device: str = "auto", **asked: Any
    ) -> None:
        self.turns: list[Turn] = []
        self._bundle, self._work_s = bundle, PICTURE_S * len(pictures)
        told = {"bundle": str(bundle.path), "choice": asdict(choice), "work": work, "device": device}
        names = [str(path.absolute()) for path in pictures]
        super().__init__("edgeinfer.tuning._entrant", {**told, "pictures": names, **asked}, quiet=True)

    def wait_ready(self) -> dict[str, Any]:
        """Once it has loaded and is warm: what it says about itself."""
        facts: dict[str, Any] = self.heard(LOADING_S)["ready"]
        return facts

    def turn(self, seconds: float) -> None:
        """Let it work for so long."""
        self.say(seconds)
        said = self.heard(seconds + SILENCE_S)
        self.turns.append(Turn(Samples(**said["samples"]), said["memory_mb"]))

    def answers(self) -> list[Result | None]:
        """What it found in each picture."""
        return [_result(record, self._bundle) for record in self.heard(self._work_s + SILENCE_S)["answers"]]

    def files(self) -> list[str]:
        """What it wrote."""
        return [str(name) for name in self.heard(self._work_s + SILENCE_S)["files"]]


def _result(record: dict[str, Any] | None, bundle: Bundle) -> Result | None:
    if record is None:
        return None
    labels, source = bundle.spec.labels, Size(*record["source"])
    scores, class_ids = np.array(record["scores"], np.float32), np.array(record["class_ids"], np.int32)
    if "boxes" not in record:
        return Classification(class_ids, scores, labels, source)
    return Detections(np.array(record["boxes"], np.float32).reshape(-1, 4), scores, class_ids, labels, source)
