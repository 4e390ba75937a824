"""The report as a page: what stands in it, and how it looks in a browser."""

import random
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer.profiling import plots
from edgeinfer.profiling.axes import Axis, around, number, spread
from edgeinfer.profiling.plots import Series
from edgeinfer.profiling.report import Report
from edgeinfer.profiling.statistics import distribution

BLUE = (0xD6, 0x78, 0x2A)  # BGR of bars in the light
LATENCIES = st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=300)


def made(count=2000, **changes):
    """A report of made-up numbers, with a tail."""
    chance = random.Random(0)
    latencies = [5 + chance.random() + 20 * (chance.random() < 0.01) for _ in range(count)]
    starts = [sum(latencies[:place]) / 1e3 for place in range(count)]
    stages = {"preprocess": [1.0] * count, "infer": [4.0] * count}
    times = [0.2 * place for place in range(60)]
    data = {
        "schema": 1,
        "valid": True,
        "partial": False,
        "reasons": [],
        "unchecked": ["throttling"],
        "context": {
            "bundle": {"path": "x", "name": "yolov5n", "sha256": "0" * 64},
            "backend": "ort",
            "artifact": "model.fp32.onnx",
            "boundary": "pipeline",
            "device_kind": "cpu",
            "device": {"board": None, "gpu": None, "cpu": "Fast CPU", "cores": 4},
            "time": "2025-01-01T00:00:00+00:00",
            "harness_ms": 0.01,
            "power": {"mode": None},
        },
        "scenarios": {
            "single-stream": {
                "sample": "one picture",
                "issuer": "MLPerf LoadGen",
                "warm_up": {"runs": 9, "seconds": 1.0, "first_ms": 9.0, "median_ms": 5.0},
            }
        },
        "summary": {
            "single-stream": {
                "latency_ms": distribution(latencies),
                "throughput_per_s": 190.0,
                "stages_ms": {name: distribution(spans) for name, spans in stages.items()},
                "joules_per_inference": None,
            }
        },
        "samples": {"single-stream": {"start_s": starts, "latency_ms": latencies, "stages_ms": stages}},
        "sensors": {
            "period_s": 0.2,
            "time_s": times,
            "fields": {
                "cpu.clock_mhz": {"values": [2000.0] * 60},
                "cpu.temperature_c": {"values": None, "reason": "no thermal zone"},
                "cpu.other_percent": {"values": [None] + [1.0] * 59},
            },
        },
        "layers": {"layers": [{"name": "conv", "kind": "Conv", "precision": "fp32", "ms": 2.0, "share": 1.0}]},
    }
    return Report({**data, **changes})


class Reader(HTMLParser):
    """Text and tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_the_verdict_comes_first_with_its_reasons():
    page = made(valid=False, reasons=["the clock moved by 9%"]).html().partition("<main>")[2]
    assert [word.strip() for word in Reader(page).words][:4] == [
        "Not valid",
        "Do not quote these numbers.",
        "the clock moved by 9%",
        "yolov5n on ort",
    ]
    assert "Valid" in Reader(made().html()).words


def test_numbers_that_are_not_known_are_words():
    words = " ".join(Reader(made(count=100).html()).words)
    assert "needs 662" in words
    assert "no sensor" in words
    assert "cpu temperature, °C: no thermal zone" in words
    assert not re.search(r"\b(nan|None|null)\b", words)


def test_the_mean_stands_beside_the_number_of_samples():
    report = made(count=100)
    mean = report.data["summary"]["single-stream"]["latency_ms"]["mean"]
    assert f"100 samples, mean {mean:.4g} ms" in Reader(report.html()).words


def test_time_beside_the_stages_is_waiting():
    report = made()
    assert "waiting" in " ".join(Reader(report.html().partition("<main>")[2]).words)  # of 5.7 ms, 5 are in stages
    report.data["summary"]["single-stream"]["latency_ms"]["mean"] = 5.05
    assert "waiting" not in " ".join(Reader(report.html().partition("<main>")[2]).words)


def test_what_a_scenario_found_is_told():
    report = made()
    trials = [{"samples": 662}]
    report.data["scenarios"]["single-stream"].update(rate_per_s=12.5, latency_bound_ms=40.0, trials=trials)
    assert "12.5 a second within 40 ms at the 99th percentile" in Reader(report.html()).words
    assert "; 12.5 a second within 40 ms at the 99th percentile\n" in report.table()
    trials[-1]["samples"] = 661
    assert "at the 99th percentile, as far as 661 samples tell" in report.table()


def test_the_page_needs_nothing_else():
    reader = Reader(made().html())
    assert not [tag for tag, _ in reader.tags if tag in {"script", "link", "img", "iframe", "object"}]
    assert not [facts for _, facts in reader.tags if facts.keys() & {"src", "href"}]
    assert "url(" not in made().html()


def test_names_from_a_bundle_are_text_not_markup():
    evil = '<script>alert("x")</script>'
    report = made()
    report.data["context"]["bundle"]["name"] = evil
    report.data["layers"]["layers"][0]["name"] = evil
    assert "script" not in {tag for tag, _ in Reader(report.html()).tags}


@given(LATENCIES)
def test_every_sample_is_in_the_histogram(latencies):
    drawn = plots.distribution(latencies, {})
    assert sum(map(int, re.findall(r"ms: (\d+)</title>", drawn))) == len(latencies)


@given(LATENCIES, st.integers(10, 100))
@example([1.0] * 18 + [2.0, 2.0, 1.0, 3.0, 1.0], 12)
def test_a_thinned_timeline_keeps_the_slowest(latencies, most):
    shown = plots._shown(latencies, most)
    assert len(shown) <= most
    assert max(latencies) in [latencies[place] for place in shown]


def test_a_plot_of_one_sample_is_drawn():
    assert "<svg" in plots.distribution([5.0], {"p50": 5.0})
    assert "<svg" in plots.timeline([0.0], [5.0], [Series("cpu clock, MHz", [(0.0, 2000.0)])])


def test_what_sensors_read_before_and_after_a_scenario_is_not_beneath_it():
    clock = Series("cpu clock, MHz", [(0.0, 800.0), (2.0, 2000.0), (3.0, 2001.0), (9.0, 5000.0)])
    drawn = plots.timeline([2.0, 3.0], [5.0, 5.0], [clock])
    ticks = {float(tick) for tick in re.findall(r">([\d.]+)</text>", drawn)}
    assert max(ticks) in range(2000, 2002)
    unread = plots.timeline([4.0, 5.0], [5.0, 5.0], [clock])
    assert "cpu clock, MHz: not read meanwhile" in unread


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_lie_on_the_axis_and_are_few(low, length, count):
    axis = Axis(low, low + length, 0, 100)
    ticks = axis.ticks(count)
    assert len(ticks) <= 2 * count + 1
    assert all(-0.1 <= axis.place(tick) <= 100.1 for tick in ticks)


@given(LATENCIES)
def test_an_axis_holds_all_values_in_their_order(values):
    for axis in (around(values, 0, 100), spread(values, 0, 100)):
        places = [axis.place(value) for value in sorted(values)]
        assert places == sorted(places)
        assert -0.01 <= places[0] <= places[-1] <= 100.01


def test_a_long_tail_makes_the_axis_logarithmic():
    assert spread([1.0] * 99 + [50.0], 0, 100).logarithmic
    assert spread([1.0, 50.0, 90.0], 0, 100).ticks() == [0.0, 20.0, 40.0, 60.0, 80.0]


@pytest.mark.parametrize(("value", "shown"), [(0.25, "0.25"), (12.0, "12"), (1500.4, "1500"), (0.00123456, "0.001235")])
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_the_page_looks_right_on_a_desk_on_a_phone_and_in_the_dark(browser, tmp_path):
    page = tmp_path / "report.html"
    made(valid=False, reasons=["other processes took 30 % of the processor " * 3]).write(page)
    desk, phone, dark = (
        cv2.imread(str(browser.screenshot(page.as_uri(), *size, dark=night)))
        for size, night in (((1100, 1500), False), ((500, 2600), False), ((1100, 1500), True))
    )
    assert desk.shape == (1500, 1100, 3)
    for picture in (desk, phone):
        assert (np.abs(picture.astype(int) - BLUE).max(axis=2) < 12).sum() > 3000  # bars, line and stages
        assert np.ptp(picture[:, -5:].astype(int)) < 8  # nothing sticks out to the right
    assert desk[:, 5].mean() > 200 > 60 > dark[:, 5].mean()
    # two plots beside each other on a desk, one above the other on a phone
    assert _rows_of_blue(phone) > _rows_of_blue(desk)


@pytest.mark.parametrize("width", [390, 1280])
def test_numbers_of_every_length_fit_their_tiles(browser, tmp_path, width):
    report = made()
    report.data["summary"]["single-stream"]["latency_ms"].update(p50=0.1656, p90=0.9248, p99=1234.5678)
    target = tmp_path / "report.html"
    report.write(target)
    page = browser.open(target.as_uri(), width)
    try:
        page.until("document.querySelectorAll('.tiles div').length > 5")
        wide = "[...document.querySelectorAll('.tiles div')].filter(tile => tile.scrollWidth > tile.clientWidth).length"
        assert page.evaluate(wide) == 0
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    finally:
        page.close()


def _rows_of_blue(picture):
    """How many rows hold anything blue."""
    return int((np.abs(picture.astype(int) - BLUE).max(axis=2) < 12).any(axis=1).sum())
