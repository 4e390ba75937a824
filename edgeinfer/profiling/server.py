"""The scenario `server`: the highest rate of random arrivals at which 99 of 100 pictures stay within a bound.

Bisected in short trials, which are a search and no result; then measured in full, a step lower where it does not hold.
Chance has a part in it: on a simulated queue the rates found scatter by a tenth about the true one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeinfer.profiling.statistics import percentile

if TYPE_CHECKING:
    from edgeinfer.profiling.samples import Issuer, Load, Samples, Work
    from edgeinfer.progress import Say

PERCENTILE = 99.0
TRIALS, TRIAL_SHARE = 7, 0.25  # a trial's part of the whole time
ATTEMPTS, STEP = 4, 0.9


class Search:
    """What was tried, and how each trial went."""

    def __init__(self, load: Load, issuer: Issuer, work: Work, bound_ms: float, say: Say) -> None:
        self._load, self._issuer, self._work, self._say = load, issuer, work, say
        self.bound_ms = bound_ms
        self.trials: list[dict[str, Any]] = []

    def run(self) -> tuple[Samples, dict[str, Any]]:
        """The samples at the rate found, and the facts for a report. Raises what the work raises."""
        low, high = self._bisect()
        rate = low or high
        for attempt in range(ATTEMPTS if low else 1):
            rate *= STEP if attempt else 1.0
            self._say(f"server: {self._load.seconds:g} s at {rate:.1f} a second")
            samples, holds = self._try(rate, self._load.seconds)
            if holds or samples.interrupted:
                break
        if not (holds or samples.interrupted):
            samples.faults.append(f"no rate found keeps the 99th percentile within {self.bound_ms:.4g} ms")
        facts = {"rate_per_s": rate if holds else None, "latency_bound_ms": self.bound_ms, "trials": self.trials}
        return samples, facts

    def _bisect(self) -> tuple[float, float]:
        """A rate that held in its trial, 0 if none did, and the lowest that did not."""
        low, high = 0.0, self._load.lanes * 1e3 / self._load.expected_ms
        for number in range(1, TRIALS + 1):
            rate = (low + high) / 2
            self._say(f"server: trial {number} of {TRIALS}, {rate:.1f} a second")
            samples, holds = self._try(rate, self._load.seconds * TRIAL_SHARE)
            if samples.interrupted:
                raise KeyboardInterrupt
            low, high = (rate, high) if holds else (low, rate)
        return low, high

    def _try(self, rate: float, seconds: float) -> tuple[Samples, bool]:
        load = replace(self._load, rate=rate, seconds=seconds, seed=len(self.trials))
        samples = self._issuer.issue(load, self._work)
        tail = percentile(sorted(samples.latency_ms), PERCENTILE) if samples.latency_ms else None
        holds = tail is not None and tail <= self.bound_ms
        trial = {"rate_per_s": rate, "seconds": seconds, "samples": len(samples.latency_ms)}
        self.trials.append({**trial, "tail_ms": tail, "within": holds})
        return samples, holds
