"""Whether one measurement is slower than another, with an interval; or that no difference is shown.

Latencies that follow each other are alike, so single samples would promise too much. They are cut into
blocks of consecutive ones; the bootstrap draws whole blocks, and the median of the blocks' medians is compared.
Turns taken side by side are compared turn by turn: what met both of a round cancels.
"""

from __future__ import annotations

from math import comb
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BLOCKS, FEWEST_BLOCKS = 30, 5
FEWEST_TURNS = 6  # the interval of fewer would be less than 95 %
RESAMPLES = 4000
SERVER = "server"
APART = "taken apart: what the machine did differently in between is not in the interval"


class Difference(NamedTuple):
    """`ratio` of this latency to the other's (above 1: this is slower), and its 95 % interval."""

    scenario: str
    ratio: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1 <= self.high

    def words(self) -> str:
        interval = f"{self.ratio:.3f} times the time, 95 % interval {self.low:.3f} to {self.high:.3f}"
        if not self.shown:
            return f"{self.scenario}: no difference shown ({interval})"
        change = f"{abs(self.ratio - 1):.1%} {'slower' if self.ratio > 1 else 'faster'}"
        return f"{self.scenario}: {change} ({interval})"

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "shown": self.shown}


def check(other: dict[str, Any], boundary: str, scenarios: Sequence[str]) -> None:
    """Raise UsageError where a measurement to come could not be compared with the report `other`."""
    there = other["context"]["boundary"]
    if boundary != there:
        raise UsageError(f"the boundary is {boundary} here, {there} there", hint=f"measure with --boundary {there}")
    if not set(scenarios) & set(other["samples"]):
        names = ",".join(other["samples"])
        raise UsageError("the report to compare with has none of these scenarios", hint=f"--scenario {names}")


def compare(this: dict[str, Any], other: dict[str, Any]) -> list[Difference]:
    """The JSON objects of two reports -> a difference for each scenario of which both have samples enough.

    None of a server: its latencies belong to the rate that was found, and are the longer the more it could take.
    """
    shared = [name for name in this["samples"] if name in other["samples"] and name != SERVER]
    pairs = [(name, blocks(_per_image(this, name)), blocks(_per_image(other, name))) for name in shared]
    return [difference(*pair) for pair in pairs if min(map(len, pair[1:])) >= FEWEST_BLOCKS]


def apart(this: dict[str, Any], other: dict[str, Any]) -> str:
    """The remark on two reports not taken side by side: in what their contexts differ, and an `other` not valid."""
    here, there = _facts(this["context"]), _facts(other["context"])
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    differing = [
        f"{name} is {here.get(name) or 'unknown'} here, {there.get(name) or 'unknown'} there" for name in names
    ]
    return "; ".join([APART, *differing, *([] if other["valid"] else ["that report is not valid"])])


def _facts(context: dict[str, Any]) -> dict[str, Any]:
    """What latencies depend on, by what it is called."""
    parts = (context.get(name) for name in ("bundle", "device", "power", "libraries"))
    bundle, device, power, libraries = (part if isinstance(part, dict) else {} for part in parts)
    return {
        "the bundle": f"{bundle.get('name')} {str(bundle.get('sha256'))[:8]}",
        **{name: context.get(name) for name in ("backend", "artifact", "threads", "contexts", "pictures")},
        **{name: device.get(name) for name in ("board", "cpu", "cores", "gpu", "driver")},
        "CPU quota": device.get("quota_cpus"),
        "power mode": power.get("mode"),
        **libraries,
    }


def record(found: Sequence[Difference], this: dict[str, Any], other: dict[str, Any], remark: str) -> dict[str, Any]:
    """As JSON, for the report `this`: what was found, in numbers and words, and what it was compared with."""
    told = {one.scenario for one in found}
    words = [one.words() for one in found]
    words += [f"{name}: {_why_not(name, this, other)}" for name in this["samples"] if name not in told]
    context = {"context": other["context"], "valid": other["valid"]}
    return {"differences": [one.to_dict() for one in found], "words": words, "remark": remark, "with": context}


def _why_not(name: str, this: dict[str, Any], other: dict[str, Any]) -> str:
    """Why a scenario of this report is not compared."""
    if name not in other["samples"]:
        return "not in that report"
    if name == SERVER:
        return f"{_served(this)} here, {_served(other)} there; latencies at different rates are not compared"
    return "too few samples to compare"


def _served(data: dict[str, Any]) -> str:
    facts = data.get("scenarios", {}).get(SERVER, {})
    rate, bound = facts.get("rate_per_s"), facts.get("latency_bound_ms")
    return f"{rate:.1f} a second within {bound:.4g} ms" if rate and bound else "no rate"


def _per_image(data: dict[str, Any], name: str) -> list[float]:
    """Milliseconds a picture: calls of several pictures may be of different sizes."""
    latencies = data["samples"][name]["latency_ms"]
    images = data["summary"][name]["images"] / len(latencies) if latencies else 1.0
    return [latency / images for latency in latencies]


def blocks(latencies: Sequence[float]) -> list[float]:
    """The medians of consecutive blocks."""
    count = min(MOST_BLOCKS, len(latencies))
    bounds = [round(place * len(latencies) / count) for place in range(count + 1)] if count else []
    return [median(latencies[start:end]) for start, end in zip(bounds, bounds[1:])]


def difference(scenario: str, this: Sequence[float], other: Sequence[float]) -> Difference:
    """Medians of blocks, this and the other's -> their ratio, with the bootstrap's interval."""
    import numpy as np

    chance = np.random.default_rng(0)
    places = [chance.integers(len(values), size=(RESAMPLES, len(values))) for values in (this, other)]
    drawn = [np.median(np.asarray(values)[place], axis=1) for values, place in zip((this, other), places)]
    low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
    return Difference(scenario, median(this) / median(other), float(low), float(high))


def paired(scenario: str, this: Sequence[float], other: Sequence[float]) -> Difference:
    """Medians of turns taken side by side, `FEWEST_TURNS` or more -> the median of each round's ratio.

    The interval is that of the sign test: each round is above the true median as often as below, so at least 95 % of
    the time it lies between the ratios of these two ranks, however they are distributed.
    """
    ratios = sorted(one / two for one, two in zip(this, other))
    count = len(ratios)
    beyond = [sum(comb(count, place) for place in range(rank + 1)) / 2**count for rank in range(count // 2)]
    rank = sum(chance <= 0.025 for chance in beyond) - 1
    return Difference(scenario, median(ratios), ratios[rank], ratios[count - 1 - rank])
