"""A finished measurement: the facts as JSON, and as a table for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeinfer.errors import UsageError
from edgeinfer.profiling import comparison, context, page, trace
from edgeinfer.profiling.columns import aligned, shown
from edgeinfer.profiling.scenarios import particulars
from edgeinfer.profiling.statistics import PERCENTILES, label, needed
from edgeinfer.profiling.subject import BOUNDARIES
from edgeinfer.wholefile import whole

SCHEMA = 1
TOP = 10
MAKE = "make one: edgeinfer profile BUNDLE --json FILE"
MOST = 1e12  # more milliseconds or pictures than any measurement has


class Report:
    """`data` is the JSON object: schema, valid, reasons, context, scenarios, summary, samples, sensors."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """A report that `write` wrote as JSON. Raises UsageError."""
        source = Path(path)
        try:
            data = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse)
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror or error}", hint=MAKE) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{source} is not JSON: {error}", hint=MAKE) from error
        fault = _fault(data)
        if fault:
            raise UsageError(f"{source} is no report: {fault}", hint=MAKE)
        return cls(data)

    @property
    def valid(self) -> bool:
        """Whether the machine held still and there are samples enough; `reasons` says why not."""
        return bool(self.data["valid"])

    @property
    def reasons(self) -> list[str]:
        return list(self.data["reasons"])

    @property
    def partial(self) -> bool:
        """Whether Ctrl-C ended it early."""
        return bool(self.data["partial"])

    def compare(self, before: Report) -> None:
        """Tell from now on what differs from a report of before. Raises UsageError where nothing can be compared."""
        comparison.check(before.data, self.data["context"]["boundary"], list(self.data["samples"]))
        found = comparison.compare(self.data, before.data)
        remark = comparison.apart(self.data, before.data)
        self.data["comparison"] = comparison.record(found, self.data, before.data, remark)

    def slower_than(self, limit: float) -> bool:
        """Whether the comparison shows a scenario to be slower by more than this share."""
        found = self.data.get("comparison", {}).get("differences", [])
        return any(one["shown"] and one["ratio"] > 1 + limit for one in found)

    def write(self, path: str | Path) -> None:
        """Write FILE.html as a page and any other as JSON; whole or not at all. Raises EdgeInferError."""
        target = Path(path)
        made = self.html() if target.suffix == ".html" else self.json()
        with whole(target) as part:
            part.write_text(made, encoding="utf-8", errors="backslashreplace")

    def html(self) -> str:
        """One page that needs nothing else."""
        return page.render(self.data)

    def json(self) -> str:
        return json.dumps(self.data, ensure_ascii=False, allow_nan=False) + "\n"

    def trace(self) -> str:
        """The first frames, for Perfetto."""
        return json.dumps(trace.events(self.data), ensure_ascii=False) + "\n"

    def table(self) -> str:
        """The verdict first, then the numbers."""
        other = self.data.get("comparison", {}).get("with", {})
        before = [_headline(other["context"]), _numbers(other), *_found(other)] if "summary" in other else []
        parts = [
            self.verdict(),
            *before,
            _headline(self.data["context"]),
            _numbers(self.data),
            _layers(self.data.get("layers")),
            *self._remarks(),
        ]
        return "\n".join(part for part in parts if part)

    def verdict(self) -> str:
        """The first line, and a line for each reason."""
        if self.valid:
            return "VALID: the machine held still"
        head = "INVALID, PARTIAL" if self.partial else "INVALID"
        return "\n".join([f"{head}: do not quote these numbers", *(f"  {reason}" for reason in self.reasons)])

    def _remarks(self) -> list[str]:
        facts, lines = self.data["context"], []
        if facts["harness_ms"] is not None:
            lines.append(
                f"harness: {facts['harness_ms']:.4f} ms of each sample are the measurement's own (null backend)"
            )
        for name, run in self.data["scenarios"].items():
            warm = run.get("warm_up")
            warmed = f", warmed up by {warm['runs']} calls in {warm['seconds']:.1f} s" if warm else ""
            words = [f"{name}: a sample is {run['sample']}", f"issued by {run['issuer']}{warmed}", *particulars(run)]
            lines.append("; ".join(words))
        missing = {
            place
            for summary in self.data["summary"].values()
            for place in PERCENTILES
            if summary["latency_ms"][label(place)] is None
        }
        if missing:
            wants = ", ".join(f"{label(place)} {needed(place)}" for place in sorted(missing))
            lines.append(f"-: too few samples for LoadGen's early-stopping rule, which asks for: {wants}")
        lines += _compared(self.data.get("comparison"))
        if self.data["unchecked"]:
            lines.append(f"not checked, for want of a sensor: {', '.join(self.data['unchecked'])}")
        return ["", *lines]


def _headline(facts: dict[str, Any]) -> str:
    what = facts["boundary"]
    bundle = facts["bundle"]
    name = f"{bundle['name']} ({bundle['path']}) on {facts['backend']} {facts['artifact'] or ''}".rstrip()
    return f"{name}, boundary {what}: {BOUNDARIES[what]}\n{', '.join(context.place(facts['device']))}"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _fault(data: Any) -> str:
    """What keeps this JSON from being compared with a report; empty if nothing does."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        return f"it is not of schema {SCHEMA}"
    try:
        spans = {name: samples["latency_ms"] for name, samples in data["samples"].items()}
        numbers = [data["summary"][name]["images"] for name in spans if spans[name]]
        numbers += [span for name in spans for span in spans[name]]
        served = data.get("scenarios", {}).get("server", {})
        numbers += [served[name] for name in ("rate_per_s", "latency_bound_ms") if served.get(name) is not None]
        words = [data["context"]["boundary"], data["context"]["device"]["cpu"], str(data["valid"])]
    except (KeyError, TypeError, AttributeError) as error:
        return f"a part is missing ({error})"
    # a clock that was set back may have left a latency below 0, which compares with nothing
    sound = all(type(value) in (int, float) and 0 < value < MOST for value in numbers)
    return "" if sound and all(isinstance(word, str) for word in words) else "a number is none, or not above 0"


def _numbers(data: dict[str, Any]) -> str:
    """Milliseconds by percentile, a line a scenario and below it a line a stage."""
    places = ["p50", "p90", "p95", "p99", "p99.9", "max", "mean"]
    rows = [["ms", "samples", *places, "per second", "J each"]]
    for name, summary in data["summary"].items():
        rate, joules = summary["throughput_per_s"], summary["joules_per_inference"]
        energy = next(iter(joules.values())) if joules else None
        spans = [shown(summary["latency_ms"][place]) for place in places]
        rows.append([name, str(summary["latency_ms"]["count"]), *spans, shown(rate, 1), shown(energy, 4)])
        for stage, facts in summary["stages_ms"].items():
            rows.append([f"  {stage}", "", *(shown(facts[place]) for place in places), "", ""])
    return aligned(rows)


def _found(data: dict[str, Any]) -> list[str]:
    """What each scenario found besides its numbers."""
    words = {name: particulars(run) for name, run in data["scenarios"].items()}
    return ["; ".join([f"{name}: {told[0]}", *told[1:]]) for name, told in words.items() if told]


def _compared(found: dict[str, Any] | None) -> list[str]:
    return [f"compared: {words}" for words in (*found["words"], found["remark"])] if found else []


def _layers(found: dict[str, Any] | None) -> str:
    """The slowest ten, with the profiler on."""
    if found is None:
        return ""
    if not found["layers"]:
        return f"\nlayers: {found['reason']}"
    rows = [["layer", "kind", "precision", "share", "ms"]]
    rows += [
        [layer["name"], layer["kind"], layer["precision"], f"{layer['share']:.1%}", f"{layer['ms']:.3f}"]
        for layer in found["layers"][:TOP]
    ]
    more = len(found["layers"]) - TOP
    return f"\n{aligned(rows)}" + (f"\nand {more} more" if more > 0 else "")
