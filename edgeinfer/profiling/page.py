"""The report as one HTML file: no script, no network, light and dark, readable on a phone."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from edgeinfer.profiling import context, plots
from edgeinfer.profiling.axes import number
from edgeinfer.profiling.plots import Series
from edgeinfer.profiling.scenarios import particulars
from edgeinfer.profiling.statistics import PERCENTILES, label, needed
from edgeinfer.profiling.subject import BOUNDARIES

STYLE = Path(__file__).with_name("page.css")
TOP_LAYERS = 15
WAITING = 0.02  # the share of a latency beside its stages from which it is worth a word
# what is drawn beneath the latencies, on each kind of machine
BENEATH = ("{device}.clock_mhz", "{device}.temperature_c", "board.power_w", "gpu.power_w", "cpu.other_percent")
ALWAYS = 2  # of these, the ones drawn even where they cannot be read


def render(data: dict[str, Any]) -> str:
    """A report's JSON object -> the page."""
    title = f"{data['context']['bundle']['name']} on {data['context']['backend']}"
    body = [
        _verdict(data),
        _head(data["context"], title),
        _compared(data.get("comparison")),
        *(_scenario(data, name) for name in data["summary"]),
        *_rival(data),
        _layers(data.get("layers")),
        _notes(data),
        _context(data),
    ]
    return document(f"{title} - latency", "".join(body))


def document(title: str, body: str, style: str = "") -> str:
    """A whole page in the reports' style, and what is given besides."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}{style}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def _verdict(data: dict[str, Any]) -> str:
    if data["valid"]:
        return '<section class="verdict good"><strong>Valid</strong> The machine held still.</section>'
    items = "".join(f"<li>{escape(reason)}</li>" for reason in data["reasons"])
    what = "Partial and not valid" if data["partial"] else "Not valid"
    return f'<section class="verdict bad"><strong>{what}</strong> Do not quote these numbers.<ul>{items}</ul></section>'


def _head(facts: dict[str, Any], title: str) -> str:
    what = f"{facts['boundary']}: {BOUNDARIES[facts['boundary']]}"
    file = f"{facts['bundle']['path']}: {facts['artifact'] or 'no file'}"
    lines = [" · ".join(context.place(facts["device"])), f"{file} · boundary {what}", facts["time"]]
    return f"<header><h1>{escape(title)}</h1>{''.join(f'<p>{escape(line)}</p>' for line in lines)}</header>"


def _scenario(data: dict[str, Any], name: str) -> str:
    summary, facts, samples = data["summary"][name], data["scenarios"][name], data["samples"][name]
    said = "".join(f"<p><b>{escape(words)}</b></p>" for words in particulars(facts))
    parts = [
        f"<h2>{escape(name)}</h2><p>A sample is {escape(facts['sample'])}.</p>{said}",
        _tiles(summary),
        _stages(summary),
    ]
    if samples["latency_ms"]:
        marks = {
            place: summary["latency_ms"][place]
            for place in ("p50", "p90", "p99")
            if summary["latency_ms"][place] is not None
        }
        sensors = _sensors(data)
        drawn = (
            ("Samples by latency, and the share of all up to each", plots.distribution(samples["latency_ms"], marks)),
            (
                "Latency over time, and the machine meanwhile",
                plots.timeline(samples["start_s"], samples["latency_ms"], sensors),
            ),
        )
        figures = "".join(f"<figure><figcaption>{title}</figcaption>{plot}</figure>" for title, plot in drawn)
        parts.append(f'<div class="figures">{figures}</div>')
    return f"<section>{''.join(parts)}</section>"


def _tiles(summary: dict[str, Any]) -> str:
    latency = summary["latency_ms"]
    tiles = [(label(place), latency[label(place)], "ms", f"needs {needed(place)}") for place in PERCENTILES]
    tiles += [
        ("max", latency["max"], "ms", ""),
        ("throughput", summary["throughput_per_s"], "/ s", "not told"),
    ]
    joules = summary["joules_per_inference"]
    tiles.append(("energy", next(iter(joules.values())) if joules else None, "J", "no sensor"))
    cells = []
    for name, value, unit, why in tiles:
        shown = f"{number(value)} <small>{unit}</small>" if value is not None else f"<small>{why}</small>"
        cells.append(f"<div><span>{name}</span><b>{shown}</b></div>")
    mean = f", mean {number(latency['mean'])} ms" if latency["count"] else ""
    return f'<div class="tiles">{"".join(cells)}</div><p class="quiet">{latency["count"]} samples{mean}</p>'


def _stages(summary: dict[str, Any]) -> str:
    means = {name: facts["mean"] for name, facts in summary["stages_ms"].items() if facts["mean"] is not None}
    rest = (summary["latency_ms"]["mean"] or 0.0) - sum(means.values())
    if rest > WAITING * sum(means.values()):
        means["waiting"] = rest
    whole = sum(means.values())
    if not whole:
        return ""
    bar, key = "", ""
    for place, (name, mean) in enumerate(means.items()):
        color = "waiting" if name == "waiting" else f"s{place % 6}"
        bar += f'<i class="{color}" style="flex-grow:{mean / whole:.4f}" title="{escape(name)}"></i>'
        key += f'<li><i class="{color}"></i>{escape(name)} <b>{number(mean)} ms</b> {mean / whole:.0%}</li>'
    return f'<h3>Stages, mean</h3><div class="stack">{bar}</div><ul class="key">{key}</ul>'


def _sensors(data: dict[str, Any]) -> list[Series]:
    """Of the device that ran it; beneath them power and other load where they are known."""
    device = "gpu" if data["context"]["device_kind"] == "gpu" else "cpu"
    record = data["sensors"]
    found = []
    for place, pattern in enumerate(BENEATH):
        name = pattern.format(device=device)
        field = record["fields"].get(name, {"values": None, "reason": "not read here"})
        points = [point for point in zip(record["time_s"], field["values"] or []) if point[1] is not None]
        if points or place < ALWAYS:
            found.append(Series(_spoken(name), points, field.get("reason", "")))
    return found


def _spoken(field: str) -> str:
    """`cpu.clock_mhz` -> `cpu clock, MHz`."""
    words, _, unit = field.replace(".", " ").rpartition("_")
    return f"{words}, {({'mhz': 'MHz', 'c': '°C', 'w': 'W', 'percent': '%'}).get(unit, unit)}"


def _compared(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    items = "".join(f"<li><b>{escape(words)}</b></li>" for words in found["words"])
    return f"<section><h2>Compared</h2><ul>{items}</ul><p>{escape(found['remark'])}.</p></section>"


def _rival(data: dict[str, Any]) -> list[str]:
    """The other bundle of an interleaved measurement."""
    other = data.get("comparison", {}).get("with", {})
    if "summary" not in other:
        return []
    facts = other["context"]
    return [
        _head(facts, f"compared with {facts['bundle']['name']} on {facts['backend']}"),
        *(_scenario(other, name) for name in other["summary"]),
    ]


def _layers(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if not found["layers"]:
        return f"<section><h2>Layers</h2><p>{escape(found['reason'])}</p></section>"
    longest = found["layers"][0]["ms"] or 1.0
    rows = "".join(
        f"<tr><td>{escape(layer['name'])} <small>{escape(layer['kind'])} {escape(layer['precision'])}</small></td>"
        f'<td class="n">{layer["share"]:.1%}</td>'
        f'<td class="b"><i style="width:{100 * layer["ms"] / longest:.1f}%"></i></td></tr>'
        for layer in found["layers"][:TOP_LAYERS]
    )
    more = len(found["layers"]) - TOP_LAYERS
    rest = f'<p class="quiet">and {more} more</p>' if more > 0 else ""
    return (
        "<section><h2>Layers</h2><p>The slowest, timed apart with the profiler on: the shares tell.</p>"
        f'<table class="layers">{rows}</table>{rest}</section>'
    )


def _notes(data: dict[str, Any]) -> str:
    notes = []
    if data["context"]["harness_ms"] is not None:
        cost = number(data["context"]["harness_ms"])
        notes.append(f"{cost} ms of each sample are the measurement's own, found with an engine that does nothing.")
    for name, facts in data["scenarios"].items():
        warm = facts.get("warm_up")
        warmed = f", after a warm-up of {warm['runs']} calls in {warm['seconds']:.1f} s" if warm else ""
        notes.append(f"{name}: issued by {facts['issuer']}{warmed}. No sample is left out.")
    if data["unchecked"]:
        notes.append(f"Not checked, for want of a sensor: {', '.join(data['unchecked'])}.")
    notes.append("A percentile is told where LoadGen's early-stopping rule has samples enough for it.")
    return f"<section><h2>How</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul></section>"


def _context(data: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _flat("", data["context"])
    )
    return f"<section><h2>Context</h2><table>{rows}</table></section>"


def _flat(before: str, facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(f"{before}{name} ", value)
        else:
            rows.append((f"{before}{name}", "none known" if value is None else str(value)))
    return rows
