"""What a run did: how many pictures, and the median of every stage."""

from __future__ import annotations

import shutil
import statistics
from collections import deque
from typing import TYPE_CHECKING, TextIO

from edgeinfer.cli import _tables
from edgeinfer.devices import STAGES
from edgeinfer.wholefile import write_errors

if TYPE_CHECKING:
    from edgeinfer.composite import Composite
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.streams import Seen

RECENT = 10_000  # pictures whose times are kept: a camera may run for months


class Tally:
    """Counts as the run goes, and tells it line by line to `said`; `live` once a camera was among the sources."""

    def __init__(self, said: TextIO) -> None:
        self.pictures, self.live = 0, False
        self._said = said
        self._spans: dict[str, deque[float]] = {}
        self._unfinished = False

    def add(self, seen: Seen) -> None:
        """Count a result and print its line."""
        frame, result = seen.frame, seen.result
        self.pictures, self.live = self.pictures + 1, self.live or seen.live
        total = sum(result.timings_ms.values())
        for stage, span in {**result.timings_ms, "total": total}.items():
            self._spans.setdefault(stage, deque(maxlen=RECENT)).append(span)
        name = f"{frame.source} #{frame.index}" if frame.fps else frame.source
        age = f", {seen.freshness.age_ms:.0f} ms old" if seen.live else ""
        line = f"{_tables.line(name)} {result.source}: {_tables.summary(result)}  {total:.1f} ms{age}"
        with write_errors("standard output"):
            if frame.total and self._said.isatty():
                self._replace(f"{100 * min(frame.index + 1, frame.total) // frame.total:3d} % {line}")
            else:
                self._tell(line)

    def _replace(self, line: str) -> None:
        """Show the line in the place of the one before: a video is one line on a terminal."""
        width = (shutil.get_terminal_size().columns or 80) - 1  # Python 3.10 gives 0 where a terminal does not say
        print(f"\r{line[:width]:<{width}}", end="", file=self._said, flush=True)
        self._unfinished = True

    def _tell(self, line: str) -> None:
        if self._unfinished:
            print(file=self._said)
        self._unfinished = False
        print(line, file=self._said)

    def medians(self) -> dict[str, float]:
        """Median milliseconds by stage, and of the whole."""
        stages = [stage for stage in self._spans if stage != "total"] or STAGES
        return {stage: statistics.median(self._spans.get(stage, [0.0])) for stage in (*stages, "total")}

    def table(self, model: Pipeline | Composite, errors: int) -> str:
        """The closing lines of a run."""
        done = f"{_tables.counted(self.pictures, 'picture')}, {_tables.counted(errors, 'error')}"
        ran = f"{model.backend} {model.artifact}".strip() + (f" ({model.plan})" if model.plan else "")
        ran += f", up to {model.group} pictures a run" if model.group > 1 else ""
        rows = [("median", "ms"), *((stage, f"{span:.2f}") for stage, span in self.medians().items())]
        return f"\n{done}; ran on {_tables.line(ran)}\n{_tables.table(rows, right=[1])}"
