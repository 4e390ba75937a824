"""The first frames of a report as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

A frame lasts from when it was due to its result; its stages lie at the end of it, so that what is left
before them is waiting. What the sensors read is drawn as counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAMES = 200


def events(data: dict[str, Any]) -> dict[str, Any]:
    """A report's JSON object -> the trace's, times in microseconds from the report's origin."""
    found: list[dict[str, Any]] = [_named("process_name", 0, f"edgeinfer: {data['context']['bundle']['name']}")]
    last = 0.0
    for track, (name, samples) in enumerate(data["samples"].items(), 1):
        found.append(_named("thread_name", track, name))
        found += _frames(track, name, samples)
        shown = samples["start_s"][:FRAMES]
        last = max([last, *(start + span / 1e3 for start, span in zip(shown, samples["latency_ms"]))])
    return {"displayTimeUnit": "ms", "traceEvents": [*found, *_counters(data["sensors"], last)]}


def _named(kind: str, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": 1, "tid": track, "args": {"name": name}}


def _frames(track: int, scenario: str, samples: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stages = samples["stages_ms"]
    for frame, (start, span) in enumerate(zip(samples["start_s"][:FRAMES], samples["latency_ms"])):
        due, done = start * 1e6, start * 1e6 + span * 1e3
        # frames of a queue overlap: as asynchronous events they may
        whole = {"name": f"{scenario} {frame}", "cat": "frame", "id": f"{track}.{frame}", "pid": 1, "tid": track}
        yield {**whole, "ph": "b", "ts": due}
        yield {**whole, "ph": "e", "ts": done}
        at = done - 1e3 * sum(spans[frame] for spans in stages.values())
        for stage, spans in stages.items():
            width = 1e3 * spans[frame]
            yield {"name": stage, "cat": "stage", "ph": "X", "ts": at, "dur": width, "pid": 1, "tid": track}
            at += width


def _counters(sensors: dict[str, Any], until_s: float) -> Iterator[dict[str, Any]]:
    for name, field in sensors["fields"].items():
        for at, value in zip(sensors["time_s"], field["values"] or []):
            if value is not None and at <= until_s + 1:
                yield {"name": name, "ph": "C", "ts": at * 1e6, "pid": 1, "args": {"value": value}}
