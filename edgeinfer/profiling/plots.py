"""Plots as inline SVG, drawn for the width of a phone; colours and type are the page's."""

from __future__ import annotations

import math
from bisect import bisect_right
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer.profiling.axes import Axis, around, number, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, LEFT, RIGHT = 400, 44, 10
MOST_BINS = 110
MOST_POINTS = 1200


class Series(NamedTuple):
    """A sensor's readings, each with its time in seconds; or none, and the reason."""

    name: str
    points: list[tuple[float, float]]
    reason: str = ""


def distribution(latencies: Sequence[float], marks: dict[str, float]) -> str:
    """A histogram and, on the same axis below it, the share of samples up to each latency; `marks` are percentiles."""
    ordered = sorted(latencies)
    x = spread(ordered, LEFT, WIDTH - RIGHT)
    parts = [*_histogram(ordered, x), *_cumulated(ordered, x)]
    for place, (name, value) in enumerate(marks.items()):
        at = x.place(value)
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{4 + 13 * place}" y2="290"/>')
        side = "end" if at > WIDTH - 90 else "start"
        shift = -3 if side == "end" else 3
        parts.append(_text(at + shift, 13 + 13 * place, f"{name} {number(value)}", "marked", side))
    parts += _ticks_below(x, 290, "ms")
    return _svg(318, "Histogram of latencies, and the share of samples up to each", parts)


def _histogram(ordered: list[float], x: Axis) -> list[str]:
    edges = x.edges(min(MOST_BINS, max(12, round(4 * len(ordered) ** (1 / 3)))))
    # each sample is in one bin, the slowest in the last
    below = [0, *(bisect_right(ordered, edge) for edge in edges[1:-1]), len(ordered)]
    counts = [after - before for before, after in zip(below, below[1:])]
    y = Axis(0, max(counts) * 1.05, 160, 50)
    parts = _ticks_left(y, 3)
    for count, left, right in zip(counts, edges, edges[1:]):
        if count:
            begin, end, top = x.place(left), x.place(right), y.place(count)
            hover = f"<title>{number(left)} to {number(right)} ms: {count}</title>"
            height = max(160 - top, 1.2)  # a single slow sample is still seen
            size = f'width="{max(end - begin - 0.5, 0.5):.2f}" height="{height:.2f}"'
            parts.append(f'<rect class="bar" x="{begin}" y="{160 - height:.2f}" {size}>{hover}</rect>')
    return parts


def _cumulated(ordered: list[float], x: Axis) -> list[str]:
    """The share of samples up to each latency; each nine more is as high as the one before, so the tail shows."""
    count = len(ordered)
    nines = [0.5, *(1 - 10.0**-power for power in range(1, 6) if 10**power <= count)]
    y = Axis(0.0, math.log(count + 1), 290, 185)
    places = sorted({*_thinned(list(range(count)), 300), *_thinned(list(range(max(0, count - 100), count)), 100)})
    steps = [f"{x.place(ordered[at])},{y.place(math.log((count + 1) / (count - at)))}" for at in places]
    parts = []
    for share in nines:
        parts += _line_left(y.place(-math.log(1 - share)), f"{100 * share:g}%")
    line = " ".join([f"{x.place(ordered[0])},290", *steps])
    return [*parts, f'<polyline class="line" points="{line}"/>']


def timeline(starts: Sequence[float], latencies: Sequence[float], sensors: Sequence[Series]) -> str:
    """Every latency at its time, and beneath it what sensors read meanwhile."""
    origin = starts[0] if starts else 0.0
    times = [start - origin for start in starts]
    x = Axis(0, max([*times, 1e-3]), LEFT, WIDTH - RIGHT)
    meanwhile = [_during(series, origin, x.high) for series in sensors]
    y = spread(list(latencies), 150, 24)
    parts = [_text(LEFT, 14, "latency, ms", "unit"), *_ticks_left(y, 4)]
    radius = 2 if len(times) < 300 else 1.3
    parts += [
        f'<circle class="dot" cx="{x.place(times[place])}" cy="{y.place(latencies[place])}" r="{radius}"/>'
        for place in _shown(latencies, MOST_POINTS)
    ]
    floor = 150
    for series in meanwhile:
        parts += _panel(series, x, floor + 34)
        floor += 34 + (40 if series.points else 0)
    return _svg(floor + 30, "Latency over time, with sensor readings", [*parts, *_ticks_below(x, floor, "s")])


def _during(series: Series, origin: float, seconds: float) -> Series:
    """Its readings in the `seconds` from `origin` on, with times from there."""
    points = [(at - origin, value) for at, value in series.points if 0 <= at - origin <= seconds]
    return Series(series.name, points, series.reason or "not read meanwhile")


def _panel(series: Series, x: Axis, top: float) -> list[str]:
    if not series.points:
        return [_text(LEFT, top - 6, f"{series.name}: {series.reason}", "unit")]
    y = around([value for _, value in series.points], top + 40, top)
    line = " ".join(f"{x.place(at)},{y.place(value)}" for at, value in series.points)
    parts = [_text(LEFT, top - 6, series.name, "unit"), *_ticks_left(y, 2)]
    return [*parts, f'<polyline class="line second" points="{line}"/>']


def _shown(values: Sequence[float], most: int) -> list[int]:
    """Places to draw: all where they fit, else evenly many, and the slowest of all: no outlier is lost."""
    every = list(range(len(values)))
    if len(every) <= most:
        return every
    slowest = sorted(every, key=values.__getitem__)[-(most // 5) :]
    return sorted({*_thinned(every, most - len(slowest)), *slowest})


def _thinned(places: list[int], most: int) -> list[int]:
    """Evenly, with the first and the last."""
    if len(places) <= most:
        return places
    return sorted({places[round(at * (len(places) - 1) / (most - 1))] for at in range(most)})


def _ticks_left(y: Axis, count: int) -> list[str]:
    parts = []
    for value in y.ticks(count):
        parts += _line_left(y.place(value), number(value))
    return parts


def _line_left(at: float, words: str) -> list[str]:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
    return [line, _text(LEFT - 4, at + 3, words, "tick", "end")]


def _ticks_below(x: Axis, floor: float, unit: str) -> list[str]:
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>']
    parts += [_text(x.place(value), floor + 13, number(value), "tick", "middle") for value in x.ticks(5)]
    return [*parts, _text(WIDTH - RIGHT, floor + 25, unit, "unit", "end")]


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
