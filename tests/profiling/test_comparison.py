"""Ratios with their intervals, on made-up latencies and on the command line."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer import cli
from edgeinfer.errors import UsageError
from edgeinfer.profiling.comparison import (
    APART,
    FEWEST_TURNS,
    Difference,
    apart,
    blocks,
    check,
    compare,
    difference,
    paired,
    record,
)
from edgeinfer.profiling.report import Report


def latencies(count=600, middle=5.0, noise=0.2, seed=0):
    chance = random.Random(seed)
    return [chance.gauss(middle, noise) for _ in range(count)]


def report(values, scenario="single-stream", images=None, boundary="pipeline"):
    return {
        "schema": 1,
        "valid": True,
        "context": {"boundary": boundary, "device": {"cpu": "a"}},
        "summary": {scenario: {"images": images or len(values)}},
        "samples": {scenario: {"latency_ms": values}},
    }


def test_a_difference_is_found_with_its_size():
    (found,) = compare(report(latencies(middle=5.5)), report(latencies(seed=1)))
    assert found.shown
    assert found.ratio == pytest.approx(1.1, abs=0.01)
    assert found.low < found.ratio < found.high
    assert found.words().startswith("single-stream: 9.4% slower (1.094 times the time, 95 % interval")


def test_blocks_are_consecutive_as_even_as_can_be_and_leave_out_nothing():
    assert blocks(range(60)) == [2 * place + 0.5 for place in range(30)]
    assert blocks([7.0, 1.0, 5.0]) == [7.0, 1.0, 5.0]
    assert len(blocks([0.0] * 59 + [9.0])) == 30
    assert blocks([*[0.0] * 59, 9.0])[-1] == 4.5
    assert blocks([]) == []


@pytest.mark.parametrize(("count", "compared"), [(4, 0), (5, 1)])
def test_five_samples_of_both_are_compared_and_fewer_named_as_too_few(count, compared):
    few, many = report(latencies(count), "cold"), report(latencies(seed=1), "cold")
    for this, other in ((few, many), (many, few)):
        found = compare(this, other)
        words = [one.words() for one in found] or ["cold: too few samples to compare"]
        assert (len(found), record(found, this, other, "")["words"]) == (compared, words)


def test_the_same_latencies_show_no_difference():
    (found,) = compare(report(latencies(seed=1)), report(latencies(seed=2)))
    assert not found.shown
    assert found.words().startswith("single-stream: no difference shown")


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    hits = sum(
        one.low <= 1 <= one.high
        for seed in range(100)
        for one in compare(report(latencies(120, seed=seed)), report(latencies(120, seed=1000 + seed)))
    )
    assert 85 <= hits <= 100


def test_drift_within_a_run_widens_the_interval():
    steady = latencies(900, noise=0.05)
    drifting = [value + place / 900 for place, value in enumerate(latencies(900, noise=0.05, seed=2))]
    narrow, wide = (difference("x", blocks(one), blocks(steady)) for one in (latencies(900, 5.5, 0.05, 3), drifting))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


@given(st.floats(1.01, 3.0))
def test_swapping_the_two_inverts_the_ratio(factor):
    one, other = latencies(200), [value * factor for value in latencies(200, seed=4)]
    (there,), (back,) = compare(report(one), report(other)), compare(report(other), report(one))
    assert there.ratio * back.ratio == pytest.approx(1.0)
    assert there.shown == back.shown


def test_calls_of_several_pictures_are_compared_by_the_picture():
    single, quad = report(latencies(100), "offline"), report(latencies(100, 20.0, 0.8), "offline", images=400)
    (found,) = compare(quad, single)
    assert not found.shown


@given(st.integers(0, 50))
def test_blocks_side_by_side_cancel_what_met_both(seed):
    drift = [1 + place / 10 for place in range(20)]
    this = [5.1 * factor + noise for factor, noise in zip(drift, latencies(20, 0, 0.01, seed), strict=True)]
    other = [5.0 * factor for factor in drift]
    found = paired("x", this, other)
    assert found.shown
    assert found.ratio == pytest.approx(1.02, abs=0.003)
    assert found.high - found.low < 0.01
    assert not difference("x", this, other).shown


@pytest.mark.parametrize("count", [FEWEST_TURNS, 10, 20])
def test_the_same_side_by_side_is_taken_for_different_at_most_one_time_in_twenty(count):
    chance = random.Random(count)

    def turns(middles):  # now and then a turn is disturbed
        return [middle * chance.lognormvariate(0, 0.03) * chance.choice([1, 1, 1, 1.5]) for middle in middles]

    shown = 0
    for _ in range(1000):
        middles = [chance.lognormvariate(0, 0.2) for _ in range(count)]
        shown += paired("x", turns(middles), turns(middles)).shown
    assert shown <= 70  # of 1000; 50 and three standard deviations


def test_the_interval_of_few_turns_reaches_from_the_least_to_the_most():
    found = paired("x", [float(place) for place in range(1, FEWEST_TURNS + 1)], [1.0] * FEWEST_TURNS)
    assert (found.low, found.ratio, found.high) == (1.0, 3.5, FEWEST_TURNS)


def test_the_interval_leaves_out_only_what_one_time_in_forty_lies_beyond():
    for count, rank in ((8, 0), (9, 1)):  # beyond the second of 8: 9 of 256; of 9: 10 of 512
        found = paired("x", [float(place) for place in range(1, count + 1)], [1.0] * count)
        assert (found.low, found.high) == (1 + rank, count - rank)


@pytest.mark.parametrize(
    ("one", "slower"),
    [
        (Difference("x", 1.2, 1.1, 1.3), True),
        (Difference("x", 1.2, 0.9, 1.5), False),  # not shown
        (Difference("x", 1.04, 1.03, 1.05), False),  # shown, but small
        (Difference("x", 0.8, 0.7, 0.9), False),
    ],
)
def test_slower_is_shown_and_large(one, slower):
    compared = record([one], report([1.0], "x"), report([1.0], "x"), "")
    assert Report({"comparison": compared}).slower_than(0.05) is slower


def served(rate, bound=60.0, middle=20.0):
    """A server's report."""
    found = report(latencies(middle=middle), "server")
    return {**found, "scenarios": {"server": {"rate_per_s": rate, "latency_bound_ms": bound}}}


def test_a_server_that_takes_more_is_not_called_slower_for_its_queue():
    faster = Report(served(61.9, middle=30.0))
    faster.compare(Report(served(43.4, 40.0)))
    assert not faster.slower_than(0.0)
    (words,) = faster.data["comparison"]["words"]
    assert words.startswith("server: 61.9 a second within 60 ms here, 43.4 a second within 40 ms there; latencies at")
    faster.compare(Report(served(None)))
    assert "60 ms here, no rate there; " in faster.data["comparison"]["words"][0]


def test_a_scenario_that_only_one_report_has_is_not_said_to_have_too_few_samples():
    more, other = report(latencies()), report(latencies())
    more["samples"]["offline"] = {"latency_ms": latencies()}
    assert record(compare(more, other), more, other, "")["words"][1:] == ["offline: not in that report"]


def test_what_two_reports_differ_in_besides_the_time_is_told():
    this, other = report([1.0]), report([1.0])
    assert apart(this, other) == APART
    this["context"].update(bundle={"name": "a", "sha256": "12345678ab"}, backend="ov", power={"mode": "15W"})
    other["context"].update(bundle={"name": "b", "sha256": "87654321ab"}, backend="ort", libraries={"numpy": "2.0"})
    other["context"]["device"] = {"cpu": "b"}
    assert apart(this, other).split("; ") == [
        APART,
        "the bundle is a 12345678 here, b 87654321 there",
        "backend is ov here, ort there",
        "cpu is a here, b there",
        "power mode is 15W here, unknown there",
        "numpy is unknown here, 2.0 there",
    ]
    assert apart(report([1.0]), {**report([1.0]), "valid": False}) == f"{APART}; that report is not valid"


def test_what_cannot_be_compared_is_said_before_it_is_measured():
    with pytest.raises(UsageError, match="pipeline here, engine there"):
        check(report([1.0], boundary="engine"), "pipeline", ["single-stream"])
    with pytest.raises(UsageError, match="none of these scenarios"):
        check(report([1.0]), "pipeline", ["offline"])


def test_reports_of_different_boundaries_are_not_compared():
    with pytest.raises(UsageError, match="pipeline here, engine there"):
        Report(report(latencies())).compare(Report(report(latencies(), boundary="engine")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2}',
        '{"schema": 1, "samples": {"a": {}}}',
        '{"schema": 1, "samples": [1]}',
        json.dumps(report(["x"])),
        json.dumps(report([None])),
        json.dumps(report([0.0] * 100)),
        json.dumps(report([10**400] * 100)),
        json.dumps(report([1.0] * 100)).replace('"valid": true', '"valid": NaN'),
        json.dumps(report([1.0] * 100)).replace('"valid": true, ', ""),
        json.dumps(report([1.0] * 100)).replace('"images": 100', '"images": 0'),
        json.dumps(served("many")),
        json.dumps({**served(1.0), "scenarios": []}),
    ],
)
def test_a_file_that_is_no_report_is_one_error(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match=r"r\.json is (no report|not JSON)"):
        Report.read(tmp_path / "r.json")


@pytest.mark.usefixtures("ticking")
def test_the_command_line_fails_when_it_became_slower(detector, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.profiling.sensors.here", lambda *_: [])
    monkeypatch.setattr("edgeinfer.profiling.scenarios.WARM_UP_S", 0.02)
    target = tmp_path / "before.json"
    common = ["profile", str(detector), "--backend", "null", "--seconds", "0.3"]
    assert cli.main([*common, "--json", str(target)]) == 0
    before = json.loads(target.read_text())
    compared = [*common, "--compare", str(target), "--fail-if-slower", "5%"]
    for factor, code, words in ((0.01, 1, "slower"), (100.0, 0, "faster")):
        values = [latency * factor for latency in before["samples"]["single-stream"]["latency_ms"]]
        changed = {**before, "samples": {"single-stream": {"latency_ms": values}}}
        target.write_text(json.dumps(changed))
        assert cli.main(compared) == code
        assert f"% {words} (" in capsys.readouterr().out


def test_a_limit_without_something_to_compare_with_is_wrong_usage(detector, capsys):
    assert cli.main(["profile", str(detector), "--fail-if-slower", "5%"]) == 2
    assert "--compare FILE" in capsys.readouterr().err


def test_a_limit_that_no_scenario_is_held_to_is_wrong_usage(detector, tmp_path, capsys):
    (tmp_path / "before.json").write_text(json.dumps(served(43.4)))
    compared = ["--compare", str(tmp_path / "before.json"), "--fail-if-slower", "5%"]
    assert cli.main(["profile", str(detector), "--scenario", "server", *compared]) == 2
    assert "error: --fail-if-slower compares latencies, and those of server are not" in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "taken"), [("0.05", True), ("900%", True), ("5", False), ("1", False)])
def test_a_limit_of_1_or_more_says_that_it_is_in_percent(detector, capsys, limit, taken):
    assert cli.main(["profile", str(detector), "--fail-if-slower", limit]) == 2
    assert ("--compare FILE" if taken else f"for percent write {limit}%\n") in capsys.readouterr().err
