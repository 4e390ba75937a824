"""What was counted and timed for one version of a model behind one of its faces."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

STEPS = ("compute_input", "compute_infer", "compute_output")
CACHE = ("cache_hit", "cache_miss")  # clients look for them; there is no cache


class Ran(NamedTuple):
    """One batch that was run: rows, how long each of its requests waited, and nanoseconds of every step."""

    rows: int
    queued_ns: tuple[int, ...]
    steps_ns: tuple[int, int, int]


class Duration:
    """How often, and how long together."""

    def __init__(self) -> None:
        self.count = self.ns = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def as_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class Tally:
    """Counts since the version was opened, as the statistics extension defines them. The event loop's alone."""

    def __init__(self) -> None:
        self._spans = {name: Duration() for name in ("success", "fail", "queue", *STEPS, *CACHE)}
        self._batches: dict[int, dict[str, Duration]] = {}
        self._last = self._rows = self._runs = 0

    def ran(self, batch: Ran) -> None:
        """A batch went through the engine."""
        requests = len(batch.queued_ns)
        self._runs += 1
        self._rows += batch.rows
        self._last = time.time_ns() // 1_000_000
        self._spans["queue"].add(sum(batch.queued_ns), requests)
        sizes = self._batches.setdefault(batch.rows, {name: Duration() for name in STEPS})
        for name, ns in zip(STEPS, batch.steps_ns):
            self._spans[name].add(ns * requests, requests)
            sizes[name].add(ns)

    def answered(self, ns: int, *, success: bool) -> None:
        """A request was answered, so long after it came in."""
        self._spans["success" if success else "fail"].add(ns)

    def as_dict(self) -> dict[str, Any]:
        """The numbers as Triton's ModelStatistics names them, without name and version."""
        return {
            "last_inference": self._last,
            "inference_count": self._rows,
            "execution_count": self._runs,
            "inference_stats": {name: span.as_dict() for name, span in self._spans.items()},
            "batch_stats": [
                {"batch_size": size, **{name: span.as_dict() for name, span in spans.items()}}
                for size, spans in sorted(self._batches.items())
            ],
        }
