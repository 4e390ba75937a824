"""What is asked of a model (`Load`), and what was measured (`Samples`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Callable, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

# how many pictures of the set a call is for, by their numbers -> milliseconds by stage
Work = Callable[[list[int]], dict[str, float]]
STREAMS = 8  # pictures in a multi-stream query, as MLPerf has it
MOST_QUERIES = 100_000


@dataclass(frozen=True)
class Load:
    """How work arrives.

    `kind` single-stream: the next picture when the last is done; multi-stream: STREAMS pictures at once, the
    next when all are done; offline: all pictures at once, worked off in calls of `images`; server: pictures
    at random (Poisson), `rate` a second on average, of which as many as `lanes` are worked on at the same time;
    paced: a picture every 1 / `rate` seconds, dropped when the one before is not done by then. `expected_ms` is
    what a query is thought to take (of offline, a call), `pictures` how many different ones there are.
    """

    kind: str
    seconds: float
    expected_ms: float = 1.0
    rate: float = 0.0
    images: int = 1
    seed: int = 0
    pictures: int = 1
    lanes: int = 1


@dataclass
class Samples:
    """One entry a query: when it was due (seconds from `origin`), its latency from then, its stages (ms).

    `origin` is on the clock of `time.perf_counter`; `images` are those of all queries; `elapsed_s` runs from
    the first being due to the last being done. `backwards` counts queries done before they were due: the clock
    was set back; `faults` says what else went wrong.
    """

    origin: float
    start_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    images: int = 0
    elapsed_s: float = 0.0
    dropped: int = 0
    backwards: int = 0
    interrupted: bool = False
    faults: list[str] = field(default_factory=list)

    def add(self, start_s: float, latency_ms: float, stages: dict[str, float], images: int) -> None:
        self.start_s.append(start_s)
        self.latency_ms.append(latency_ms)
        self.backwards += latency_ms < 0
        self.images += images
        for stage, span in stages.items():
            self.stages_ms.setdefault(stage, []).append(span)

    @property
    def until(self) -> float:
        """When the last was done, on the clock of `origin`."""
        if not self.start_s:
            return self.origin + self.elapsed_s
        return self.origin + max(self.elapsed_s, self.start_s[-1] + self.latency_ms[-1] / 1e3)

    @property
    def throughput(self) -> float | None:
        """Pictures a second."""
        return self.images / self.elapsed_s if self.images and self.elapsed_s > 0 else None


def joined(turns: Sequence[Samples]) -> Samples:
    """All turns as one, on the clock of the first; `elapsed_s` is that of the turns alone."""
    whole = Samples(turns[0].origin if turns else 0.0)
    for one in turns:
        shift = one.origin - whole.origin
        for place, (start, latency) in enumerate(zip(one.start_s, one.latency_ms)):
            whole.add(shift + start, latency, {name: spans[place] for name, spans in one.stages_ms.items()}, 0)
        whole.images += one.images
        whole.elapsed_s += one.elapsed_s
        whole.dropped += one.dropped
    return whole


def medians(turns: Sequence[Samples]) -> list[float]:
    """Milliseconds a picture: the median of each turn in which anything was done."""
    return [median(one.latency_ms) * len(one.latency_ms) / one.images for one in turns if one.latency_ms]


class Issuer(Protocol):
    """Lets work arrive and times it. A module with these two names is one."""

    NAME: str

    def issue(self, load: Load, work: Work) -> Samples:
        """Raises what `work` raises; an interruption by the keyboard ends it early, marked."""
