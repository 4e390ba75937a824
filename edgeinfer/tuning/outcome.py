"""What a tuning found: the winner, and every candidate with its numbers or the reason why it left."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgeinfer import machine
from edgeinfer.profiling import comparison, context
from edgeinfer.profiling.child import Failed
from edgeinfer.profiling.columns import aligned, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeinfer.accuracy import Comparison
    from edgeinfer.bundle import Bundle
    from edgeinfer.errors import EdgeInferError
    from edgeinfer.plans import Choice, Plan
    from edgeinfer.profiling.comparison import Difference
    from edgeinfer.tuning.figures import Figures

SCHEMA = 1
DONE, OVER_BUDGET = "finalist", "over budget"


@dataclass(eq=False)
class Row:
    """A candidate. `state` is empty while it races; then finalist, eliminated, over budget or failed, with `reason`."""

    choice: Choice
    state: str = ""
    reason: str = ""
    round: str = ""
    load_ms: float | None = None
    device: str = "cpu"
    figures: Figures | None = None
    turns_ms: list[float] = field(default_factory=list)
    accuracy: Comparison | None = None

    def leave(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """It leaves where its process fails within."""
        try:
            yield
        except Failed as failure:
            self.leave("failed", str(failure))

    def beats(self, other: Row) -> bool:
        """Whether it is at least as good in everything that is known of both, and better in something."""
        pairs = [(a, b) for a, b in zip(self._costs(), other._costs()) if a is not None and b is not None]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    def _costs(self) -> list[float | None]:
        assert self.figures
        assert self.accuracy
        known = self.figures
        memory = None if known.memory_mb is None else round(known.memory_mb)  # as the table: a few pages are chance
        return [known.p50_ms, 1 / known.per_second, memory, known.joules, self.accuracy.lost]

    def to_dict(self) -> dict[str, Any]:
        found = self.accuracy
        names = ("images", "compared", "agreement", "difference")
        return {
            "name": self.choice.name,
            "choice": asdict(self.choice),
            "state": self.state,
            "reason": self.reason,
            "measured_in": self.round or None,
            "load_ms": self.load_ms,
            **(self.figures.to_dict() if self.figures else {}),
            "accuracy": {name: getattr(found, name) for name in names} if found else None,
        }


@dataclass(eq=False)
class Outcome:
    """The result of `tune`: `winner` is what the plan holds, None where nothing came to the end.

    `unkept` says why the plan could not be written.
    """

    bundle: Bundle
    objective: str
    budget: float
    pictures: str
    reference: str = ""
    device: str = "auto"
    rows: list[Row] = field(default_factory=list)
    finalists: list[Row] = field(default_factory=list)
    baseline: Row | None = None
    winner: Row | None = None
    difference: Difference | None = None
    doubts: list[str] = field(default_factory=list)
    partial: bool = False
    plan: Plan | None = None
    plan_file: Path | None = None
    unkept: EdgeInferError | None = None

    def choose(self) -> None:
        """The best finalist, unless it is not shown to be better than what runs without a plan."""
        self.finalists.sort(key=lambda row: (self._cost(row), row is not self.baseline))
        best = self.finalists[0]
        self.winner = best
        base = self.baseline
        if base is None or base not in self.finalists or best is base:
            return
        if self.objective in ("latency", "throughput"):
            self.difference = comparison.paired(best.choice.name, best.turns_ms, base.turns_ms)
            if not (self.difference.shown and self.difference.ratio < 1):
                self.winner = base

    def _cost(self, row: Row) -> float:
        assert row.figures
        return row.figures.cost(self.objective)

    def pareto(self) -> list[Row]:
        """The finalists that no other beats in everything."""
        return [row for row in self.finalists if not any(other.beats(row) for other in self.finalists)]

    def json(self) -> str:
        best = self.pareto()
        data = {
            "schema": SCHEMA,
            "partial": self.partial,
            "context": context.describe(self.bundle, machine.ordinal(self.device) or 0),
            "objective": self.objective,
            "budget": self.budget,
            "pictures": self.pictures,
            "reference": self.reference,
            "candidates": [{**row.to_dict(), "pareto": row in best} for row in self._ordered()],
            "baseline": self.baseline.choice.name if self.baseline else None,
            "winner": self.winner.choice.name if self.winner else None,
            "difference": self.difference.to_dict() if self.difference else None,
            "doubts": self.doubts,
            "plan": str(self.plan_file) if self.plan_file else None,
        }
        return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"

    def _ordered(self) -> list[Row]:
        """Finalists first, the best of them on top; then by how far they came."""
        rest = [row for row in self.rows if row not in self.finalists]
        far = {"": 0, "eliminated": 1, OVER_BUDGET: 2, "failed": 3}
        return [*self.finalists, *sorted(rest, key=lambda row: (far.get(row.state, 0), _reverse(row.round)))]

    def table(self) -> str:
        """For people: numbers, what left and why, the verdict last."""
        best = self.pareto()
        rows = [["  candidate", "p50 ms", "p99 ms", "per second", "MB", "J each", "accuracy", "measured in"]]
        rows += [_line(row, row in best) for row in self._ordered() if row.figures]
        gone = [
            f"{row.choice.name}: {row.state}, {row.reason}" for row in self._ordered() if not row.figures and row.state
        ]
        parts = [aligned(rows) if len(rows) > 1 else "", *gone, "", *self._verdict()]
        return "\n".join(parts).strip("\n")

    def _verdict(self) -> list[str]:
        lines = ["*: no other finalist is better in everything"] if self.finalists else []
        lines.append(f"accuracy against {self.reference} on {self.pictures}")
        lines += self._coarse()
        lines += [f"in doubt: {doubt}" for doubt in self.doubts]
        if self.partial:
            lines.append("interrupted: partial, and no plan is kept")
        elif not self.winner:
            lines.append("nothing came to the end, so no plan is kept")
        else:
            lines += self._won()
        return lines

    def _coarse(self) -> list[str]:
        """That candidates left because of so few results that no budget above 0 could have been kept with a fault."""
        left = [row.accuracy for row in self.rows if row.state == OVER_BUDGET and row.accuracy]
        few = max((found.compared for found in left if found.difference is None), default=0)
        if not few or not 0 < self.budget < 100 / few:
            return []
        share = f"{few} results judge coarsely, one is {100 / few:.1f} %"
        return [f"{share}: give more pictures, best with labels (--images)"]

    def _won(self) -> list[str]:
        assert self.winner
        lines = []
        if self.difference:
            lines.append(f"against {self.baseline.choice.name if self.baseline else ''}: {self.difference.words()}")
        if self.winner is self.baseline:
            lines.append("nothing is shown to be better than what runs without a plan")
        lines.append(f"best for {self.objective}: {self.winner.choice.name}")
        if self.winner.choice.contexts > 1:
            lines.append("run and serve keep its contexts busy, and so does a program that calls from as many threads")
        if self.plan_file:
            when = "now" if self.device == "auto" else f"with --device {self.device}"
            lines.append(f"plan: {self.plan_file}; every verb uses it {when} (edgeinfer tune --forget removes it)")
        return lines


def _line(row: Row, best: bool) -> list[str]:
    known = row.figures
    assert known
    return [
        f"{'*' if best else ' '} {row.choice.name}",
        f"{known.p50_ms:.2f}",
        shown(known.p99_ms, 2),
        f"{known.per_second:.1f}",
        shown(known.memory_mb, 0),
        shown(known.joules, 3),
        accuracy_words(row.accuracy),
        row.round if row.state != "failed" else f"{row.round}; then {row.reason}",
    ]


def accuracy_words(found: Comparison | None) -> str:
    """`+0.12 points` with labels, `98.4 % agree` without."""
    if found is None:
        return "-"
    if found.difference is not None:
        return f"{found.difference:+.2f} points"
    return f"{100 * found.agreement:.1f} % agree"


def _reverse(text: str) -> int:
    """Later heats first."""
    return -int(text.rpartition(" ")[2]) if text.startswith("heat") else 0
