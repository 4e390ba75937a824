"""A finished comparison: a table, JSON, one HTML page, and the pictures side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeinfer.comparing import beside, page
from edgeinfer.profiling.columns import aligned, shown

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.comparing.agreement import Agreement
    from edgeinfer.comparing.models import Model

SCHEMA = 1
KNOWN, MEASURED = ["parameters", "GFLOPs", "file MB"], ["p50 ms", "p99 ms", "per second", "MB"]
HEAD = ["model", "runs as", "task", *KNOWN, *MEASURED, "accuracy", "licence"]


@dataclass
class Comparison:
    """What each model found in each of `pictures`, and how far those of one task agree; all so far if `partial`.

    `doubts` are what speaks against the times.
    """

    models: list[Model]
    pictures: list[Path]
    agreements: list[Agreement] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    partial: bool = False

    @property
    def faults(self) -> list[str]:
        return [f"{model.title}: {model.fault}" for model in self.models if model.fault]

    def record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "schema": SCHEMA,
            "partial": self.partial,
            "doubts": self.doubts,
            "models": [_facts(model) for model in self.models],
            "agreements": [agreement.to_dict() for agreement in self.agreements],
            "images": [
                {"source": str(path), "results": [_result(model, place) for model in self.models]}
                for place, path in enumerate(self.pictures)
            ],
        }

    def json(self) -> str:
        return json.dumps(self.record(), ensure_ascii=False, allow_nan=False) + "\n"

    def rows(self) -> list[list[str]]:
        """The table's cells, its head first; `-` where a number is not known."""
        return [HEAD, *(_row(model) for model in self.models)]

    def words(self) -> list[str]:
        """What stands below the table."""
        few = [model for model in self.models if model.figures and model.figures.p99_ms is None]
        return [
            *(agreement.words() for agreement in self.agreements),
            *(["p99 -: too few samples for it; more with --seconds"] if few else []),
            *(f"times in doubt: {doubt}" for doubt in self.doubts),
            *self.faults,
            *(["interrupted: partial, what has no numbers here was not measured"] if self.partial else []),
        ]

    def table(self) -> str:
        return "\n".join([aligned(self.rows()), "", *self.words()]).rstrip()

    def html(self) -> str:
        return page.render(self)

    def side_by_side(self, place: int) -> Any:
        """The picture of this number as every model sees it: (h, w, 3) uint8 BGR."""
        return beside.side_by_side(self.pictures[place], self.models, place)


def _facts(model: Model) -> dict[str, Any]:
    known = model.figures.to_dict() if model.figures else {}
    return {**model.facts(), **known, "fault": model.fault or None}


def _result(model: Model, place: int) -> dict[str, Any] | None:
    found = model.found[place] if model.found else None
    if found is None:
        return None
    record = found.to_dict()
    del record["timings_ms"]
    return {"model": model.name, **record}


def _row(model: Model) -> list[str]:
    facts, known = model.facts(), model.figures
    scale = facts["bytes"] / 1e6 if facts["bytes"] else None
    return [
        model.name,
        facts["how"],
        facts["task"],
        f"{facts['parameters']:,}" if facts["parameters"] else "-",
        shown(facts["gflops"], 1),
        shown(scale, 1),
        shown(known.p50_ms if known else None, 2),
        shown(known.p99_ms if known else None, 2),
        shown(known.per_second if known else None, 1),
        shown(known.memory_mb if known else None, 0),
        _accuracy(facts["accuracy"]),
        facts["license"] or "-",
    ]


def _accuracy(known: dict[str, float]) -> str:
    """What the bundle says of a file beside float32: `91.8 % agree, -0.77 points`."""
    share = [f"{100 * known['agreement']:.1f} % agree"] if "agreement" in known else []
    points = [f"{value:+.2f} points" for name, value in known.items() if name.endswith("_delta")]
    return ", ".join(share + points) or "-"
