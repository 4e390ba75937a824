"""What was measured of one candidate."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from edgeinfer.profiling.samples import joined
from edgeinfer.profiling.sensors import METERS
from edgeinfer.profiling.statistics import distribution

if TYPE_CHECKING:
    from edgeinfer.profiling.samples import Samples
    from edgeinfer.profiling.sensors import Sensors
    from edgeinfer.tuning.entrants import Entrant


@dataclass(frozen=True)
class Figures:
    """Milliseconds a call (`p99_ms` None where samples are too few), pictures a second, MB, joules a picture."""

    samples: Samples
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
        names = ("p50_ms", "p99_ms", "per_second", "memory_mb", "joules")
        return {"samples": len(self.samples.latency_ms), **{name: getattr(self, name) for name in names}}


def figures(entrant: Entrant, watch: Sensors | None = None, device: str = "cpu") -> Figures | None:
    """Of all its turns so far; None if not one call was done. `watch` was open meanwhile, for the power of `device`."""
    whole = joined([turn.samples for turn in entrant.turns])
    if not whole.latency_ms or whole.throughput is None:
        return None
    spans = distribution(whole.latency_ms)
    memory = [turn.memory_mb for turn in entrant.turns if turn.memory_mb is not None]
    watts = _watts(entrant, watch, device) if watch else None
    return Figures(
        whole,
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
