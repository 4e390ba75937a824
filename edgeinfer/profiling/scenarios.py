"""The scenarios of a loaded model: warm up, let work arrive, find the rate a server can take."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from edgeinfer import given
from edgeinfer.errors import BackendUnavailable
from edgeinfer.profiling import loop
from edgeinfer.profiling.samples import STREAMS, Load
from edgeinfer.profiling.server import PERCENTILE, Search
from edgeinfer.profiling.statistics import needed
from edgeinfer.profiling.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.pipeline import Pipeline
    from edgeinfer.profiling.samples import Issuer, Samples
    from edgeinfer.profiling.subject import Picture
    from edgeinfer.progress import Say

# name -> what one sample is
NAMES = {
    "single-stream": "one picture, the next when it is done",
    "multi-stream": f"{STREAMS} pictures at once, the next when all are done",
    "server": "one picture of those that come at random",
    "offline": "one call of each context; all pictures are there at the start",
    "paced": "one picture of a camera",
    "cold": "from the start of a process to its first result",
}
OWN = ("paced", "cold")  # what LoadGen does not have
WARM_UP_S, WARM_UP_RUNS = 1.0, 5
# the latency a server may have where none is asked for, in times of what a picture takes that need not wait
USUAL_BOUND = 4.0


@dataclass
class Run:
    """One scenario as it was run; `facts` are for the report."""

    scenario: str
    samples: Samples
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the caller asks of a scenario."""

    seconds: float = 10.0
    fps: float = 30.0
    latency_bound_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "fps", "latency_bound_ms"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, given.above_zero(name, value))


def issuer_of(scenario: str) -> Issuer:
    """LoadGen for its own scenarios; our loop for paced arrivals, and where LoadGen is not installed.

    The report names which it was.
    """
    if scenario in OWN:
        return loop
    try:
        return importlib.import_module("edgeinfer.profiling.loadgen")
    except BackendUnavailable:
        return loop


def issuer_name(scenario: str) -> str:
    """The issuer, and why it is not LoadGen where that was to be expected."""
    issuer = issuer_of(scenario)
    return f"{issuer.NAME}, for LoadGen is not installed" if issuer is loop and scenario not in OWN else issuer.NAME


def subject_of(scenario: str, model: Pipeline, boundary: str, pictures: Sequence[Picture]) -> Subject:
    """The model as a scenario calls it: on all of its lanes where there are, or may be, pictures enough at once."""
    group, lanes = group_of(scenario, model.group), 1
    if boundary != "engine":
        most = {"offline": model.contexts, "server": model.contexts, "multi-stream": STREAMS // group}
        lanes = min(model.contexts, most.get(scenario, 1))
    return Subject(model, boundary, pictures, group, lanes)


def group_of(scenario: str, batch: int) -> int:
    """How many pictures a call of the model takes, given its largest batch."""
    if scenario == "offline":
        return batch
    if scenario == "multi-stream":
        return max(size for size in range(1, min(batch, STREAMS) + 1) if STREAMS % size == 0)
    return 1


def measure(scenario: str, subject: Subject, asked: Asked, say: Say) -> Run:
    """Run one scenario on a warm model. Raises what the model raises."""
    issuer = issuer_of(scenario)
    say(f"{scenario}: warming up")
    warm = warm_up(subject)
    load = load_of(scenario, subject, asked.seconds, warm["median_ms"], asked.fps)
    facts = {"sample": NAMES[scenario], "issuer": issuer_name(scenario), "warm_up": warm, "seconds": asked.seconds}
    if scenario == "server":
        bound = asked.latency_bound_ms or USUAL_BOUND * load.expected_ms
        samples, found = Search(load, issuer, subject, bound, say).run()
        return Run(scenario, samples, {**facts, **found})
    say(f"{scenario}: {load.seconds:g} s")
    samples = issuer.issue(load, subject)
    if scenario == "paced":
        facts.update(fps=asked.fps, dropped=samples.dropped)
    return Run(scenario, samples, facts)


def load_of(scenario: str, subject: Subject, seconds: float, call_ms: float, fps: float) -> Load:
    """The load of a scenario, given what one call of the model takes."""
    images = subject.reach if scenario == "offline" else 1
    calls = -(-STREAMS // subject.reach) if scenario == "multi-stream" else 1
    rate = fps if scenario == "paced" else 0.0
    lanes = subject.reach if scenario == "server" else 1
    return Load(scenario, seconds, call_ms * calls, rate, images, pictures=subject.pictures, lanes=lanes)


def warm_up(subject: Subject, least_s: float = WARM_UP_S) -> dict[str, float]:
    """Calls that do not count: how many, how long in all, the first, and the median of the later half (ms)."""
    spans: list[float] = []
    begin = time.perf_counter()
    while len(spans) < WARM_UP_RUNS or time.perf_counter() - begin < least_s:
        start = time.perf_counter()
        subject(list(range(subject.reach)))
        spans.append((time.perf_counter() - start) * 1e3)
    later = sorted(spans[len(spans) // 2 :])
    return {
        "runs": len(spans),
        "seconds": time.perf_counter() - begin,
        "first_ms": spans[0],
        "median_ms": later[len(later) // 2],
    }


def particulars(facts: dict[str, Any]) -> list[str]:
    """What a scenario found besides its samples, in words, from a report's facts about it."""
    words = []
    if "dropped" in facts:
        words.append(f"{facts['dropped']} pictures dropped")
    if facts.get("after_idle_ms"):
        second, idle = median(facts["second_ms"]), median(facts["after_idle_ms"])
        words.append(f"then a second result in {second:.2f} ms, and {idle:.2f} ms after {facts['idle_s']:g} s idle")
    if "latency_bound_ms" in facts:
        rate = facts["rate_per_s"]
        found = f"{rate:.1f} a second" if rate else "no rate"
        count = facts["trials"][-1]["samples"]
        doubt = f", as far as {count} samples tell" if rate and count < needed(PERCENTILE) else ""
        words.append(f"{found} within {facts['latency_bound_ms']:.4g} ms at the 99th percentile{doubt}")
    return words
