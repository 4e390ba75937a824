"""What was measured of candidates that take turns, and what speaks against the numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from edgeinfer.profiling.samples import joined
from edgeinfer.profiling.sensors import METERS
from edgeinfer.profiling.statistics import distribution
from edgeinfer.profiling.validity import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.profiling.sensors import Sensors
    from edgeinfer.tuning.entrants import Entrant


@dataclass(frozen=True)
class Figures:
    """Milliseconds a call (`p99_ms` None where samples are too few), pictures a second, MB, joules a picture."""

    samples: int
    p50_ms: float
    p99_ms: float | None
    per_second: float
    memory_mb: float | None
    joules: float | None = None

    def cost(self, objective: str) -> float:
        """The less the better; infinite where it was not measured."""
        if objective == "throughput":
            return 1 / self.per_second
        value = {"latency": self.p50_ms, "energy": self.joules, "memory": self.memory_mb}[objective]
        return float("inf") if value is None else value

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def figures(entrant: Entrant, watch: Sensors | None = None, device: str = "cpu") -> Figures | None:
    """Of all its turns so far; None if not one call was done. `watch` was open meanwhile, for the power of `device`."""
    whole = joined([turn.samples for turn in entrant.turns])
    if whole.throughput is None:
        return None
    spans = distribution(whole.latency_ms)
    memory = [turn.memory_mb for turn in entrant.turns if turn.memory_mb is not None]
    watts = _watts(entrant, watch, device) if watch else None
    return Figures(
        len(whole.latency_ms),
        median(whole.latency_ms),
        spans["p99"],
        whole.throughput,
        max(memory, default=None),
        watts / whole.throughput if watts else None,
    )


def _watts(entrant: Entrant, watch: Sensors, device: str) -> float | None:
    """The mean of the first meter there is, over this candidate's turns; it includes the idle machine's share."""
    windows = [watch.between(turn.samples.origin, turn.samples.until) for turn in entrant.turns]
    for name in METERS[device]:
        values = [value for window in windows for value in window.values(name)]
        if values:
            return sum(values) / len(values)
    return None


def doubts(entrants: Sequence[Entrant], watch: Sensors, scenario: str, device: str) -> list[str]:
    """What speaks against the numbers of those that took turns, judged by the one with the fewest samples."""
    runs = [joined([turn.samples for turn in entrant.turns]) for entrant in entrants if entrant.turns]
    if not runs:
        return []
    window = watch.between(min(run.origin for run in runs), max(run.until for run in runs))
    fewest = min(runs, key=lambda run: len(run.latency_ms))
    return judge(scenario, fewest, window, device).reasons
