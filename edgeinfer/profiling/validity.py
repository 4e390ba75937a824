"""Whether numbers may be trusted: what the machine did while they were taken, and whether there are enough."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer.profiling.sensors.nvml import THROTTLES
from edgeinfer.profiling.statistics import label, needed

if TYPE_CHECKING:
    from edgeinfer.profiling.samples import Samples
    from edgeinfer.profiling.sensors import Window

CLOCK_SPREAD = 0.05
OTHER_PERCENT = 5.0
# the percentile a scenario is judged by, as in MLPerf; of offline, the median of its calls
TARGETS = {"single-stream": 90.0, "multi-stream": 99.0, "server": 99.0, "offline": 50.0, "paced": 90.0, "cold": 50.0}
# scenarios with gaps, in which a governor lowers clocks: that belongs to what they measure
GAPS = ("paced", "cold", "server")


class Verdict(NamedTuple):
    """`reasons` why the numbers are not valid, none if they are; `unchecked`, what no sensor could tell."""

    reasons: list[str]
    unchecked: list[str]


def judge(scenario: str, samples: Samples, window: Window, device: str) -> Verdict:
    """One scenario on `device` ("cpu", "gpu"), with what the sensors read during it."""
    verdict = Verdict(_counted(scenario, samples), [])
    _throttled(window, verdict, device)
    if scenario not in GAPS:
        _steady(window, verdict, f"{device}.clock_mhz")
    for part in dict.fromkeys(("cpu", device)):
        _alone(window, verdict, f"{part}.other_percent")
    pages = window.counted("memory.swapped_pages")
    if pages is None:
        verdict.unchecked.append("swapping (memory.swapped_pages)")
    elif pages > 0:
        verdict.reasons.append(f"{pages:.0f} pages were swapped")
    return verdict


def _counted(scenario: str, samples: Samples) -> list[str]:
    target, count = TARGETS[scenario], len(samples.latency_ms)
    reasons = list(samples.faults)
    if count < needed(target):
        reasons.append(
            f"too few samples: {count}, and {label(target)} needs {needed(target)}; measure longer (--seconds)"
        )
    if samples.backwards:
        reasons.append(f"the clock went backwards {samples.backwards} times")
    if samples.interrupted:
        reasons.append("interrupted")
    return reasons


def _throttled(window: Window, verdict: Verdict, device: str) -> None:
    bits = window.values("gpu.throttle_bits")
    times = {part: window.counted(f"{part}.throttled_count") for part in ("cpu", "board")}
    for part, name in (("cpu", "processor"), ("board", "board")):
        if times[part]:  # not how often: every core counts what all of them are told of
            verdict.reasons.append(f"the {name} throttled")
    stopped_ms = window.counted("cpu.quota_stopped_ms")
    if stopped_ms:
        remedy = "give it more, or use fewer threads (--threads)"
        verdict.reasons.append(f"the process's CPU quota stopped it for {stopped_ms:.0f} ms: {remedy}")
    if device == "gpu":
        names = [name for bit, name in THROTTLES.items() if any(int(value) & bit for value in bits)]
        if names:
            verdict.reasons.append(f"the GPU throttled: {', '.join(names)}")
    looked = times["board"] is not None or (bits if device == "gpu" else times["cpu"] is not None)
    if not looked:
        verdict.unchecked.append("throttling")


def _steady(window: Window, verdict: Verdict, field: str) -> None:
    clocks = window.values(field)
    if not clocks:
        verdict.unchecked.append(f"steady clocks ({field})")
        return
    low, high = min(clocks), max(clocks)
    if low < (1 - CLOCK_SPREAD) * high:
        moved = f"{1 - low / high:.0%}, from {low:.0f} to {high:.0f} MHz"
        verdict.reasons.append(f"the clock moved by {moved} ({field})")


def _alone(window: Window, verdict: Verdict, field: str) -> None:
    shares = window.values(field)
    if not shares:
        verdict.unchecked.append(f"load of other processes ({field})")
        return
    mean = math.fsum(shares) / len(shares)
    if mean > OTHER_PERCENT:
        what = "processor" if field.startswith("cpu") else "GPU"
        verdict.reasons.append(f"other processes took {mean:.0f} % of the {what}")
