"""What a run did: how many pictures, which errors, the median of every stage."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, TextIO

from edgeinfer.cli import _tables
from edgeinfer.errors import SourceError
from edgeinfer.pipeline import STAGES

if TYPE_CHECKING:
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.results import Result
    from edgeinfer.sources import Frame


class Tally:
    """Counts as the run goes, and tells it line by line to `said`.

    `alone`: a single file or stream, whose error is the run's own; otherwise an error is a warning on the way.
    """

    def __init__(self, said: TextIO, *, alone: bool) -> None:
        self.pictures = 0
        self._said, self._alone = said, alone
        self._errors: list[SourceError] = []
        self._spans: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "total")}

    def add(self, frame: Frame, result: Result) -> None:
        """Count a result and print its line."""
        self.pictures += 1
        for stage in STAGES:
            self._spans[stage].append(result.timings_ms.get(stage, 0.0))
        total = sum(result.timings_ms.values())
        self._spans["total"].append(total)
        name = f"{frame.source} #{frame.index}" if frame.fps else frame.source
        print(f"{name} {result.source}: {_tables.summary(result)}  {total:.1f} ms", file=self._said)

    def refuse(self, error: SourceError) -> None:
        """Count a source that cannot be read."""
        self._errors.append(error)
        if not self._alone:
            print(f"warning: {error}", file=sys.stderr)

    def check(self) -> None:
        """Raise if any source could not be read."""
        if self._errors and self._alone:
            raise self._errors[0]
        if self._errors:
            count = _tables.counted(len(self._errors), "source")
            raise SourceError(f"{count} could not be read", hint="the warnings above say which, and why")

    def medians(self) -> dict[str, float]:
        """Median milliseconds by stage, and of the whole."""
        return {stage: statistics.median(spans) if spans else 0.0 for stage, spans in self._spans.items()}

    def table(self, model: Pipeline) -> str:
        """The closing lines of a run."""
        done = f"{_tables.counted(self.pictures, 'picture')}, {_tables.counted(len(self._errors), 'error')}"
        ran = f"{model.backend} {model.artifact}".strip()
        rows = [("median", "ms"), *((stage, f"{span:.2f}") for stage, span in self.medians().items())]
        return f"\n{done}; ran on {ran}\n{_tables.table(rows, right=[1])}"
