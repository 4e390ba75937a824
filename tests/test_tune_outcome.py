"""The outcome: figures of all turns, what is lost, who wins, and the table that says so."""

import dataclasses
from math import inf
from types import SimpleNamespace

import pytest

from edgeinfer.accuracy import Comparison
from edgeinfer.plans import Choice
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.sensors import Reading, Sensors
from edgeinfer.tuning.budget import over_budget
from edgeinfer.tuning.entrants import Turn
from edgeinfer.tuning.figures import Figures, doubts, figures
from edgeinfer.tuning.outcome import Outcome, Row, accuracy_words


def turn(origin, latency_ms, memory_mb):
    return Turn(Samples(origin, [0.0, 0.5], [latency_ms] * 2, {}, 4, 1.0), memory_mb)


@pytest.mark.parametrize(("device", "watts"), [("cpu", 30.0), ("gpu", 80.0)])
def test_figures_are_of_all_turns_and_energy_is_that_of_the_device_that_ran(device, watts):
    turns = [turn(0.0, 200.0, None), turn(2.0, 300.0, 90.0), turn(4.0, 400.0, 80.0)]
    read = [(0.5, 20.0), (1.5, 900.0), (2.5, 40.0)]  # the second between two turns
    watch = Sensors([])
    watch.readings = [Reading(at, {"gpu.power_w": 80.0, "cpu.package_power_w": power}) for at, power in read]
    found = figures(SimpleNamespace(turns=turns), watch, device)
    assert (found.samples, found.p50_ms, found.per_second, found.memory_mb) == (6, 300.0, 4.0, 90.0)
    assert found.joules == watts / 4


def test_who_did_not_one_call_has_no_figures():
    assert figures(SimpleNamespace(turns=[Turn(Samples(0.0), 90.0)])) is None
    assert doubts([SimpleNamespace(turns=[])], Sensors([]), "single-stream", "cpu") == []


def test_what_no_turn_tells_is_no_figure():
    found = figures(SimpleNamespace(turns=[turn(0.0, 200.0, None)]))
    assert (found.memory_mb, found.joules, found.cost("memory"), found.cost("throughput")) == (None, None, inf, 1 / 4)


def test_a_race_is_judged_by_the_one_with_the_fewest_samples():
    many, few = (SimpleNamespace(turns=[turn(0.0, 200.0, None)] * count) for count in (3, 2))
    (told,) = doubts([many, few, many], Sensors([]), "single-stream", "cpu")
    assert told.startswith("too few samples: 4, and ")


@pytest.mark.parametrize(
    ("agreement", "difference", "budget", "words"),
    [
        (0.99, None, 1.0, ""),
        (0.97, None, 1.0, "3.0 % of the results differ"),
        (0.95, None, 5.0, ""),  # 100 * (1 - 0.95) is 5.000000000000004
        (0.5, -0.9, 1.0, ""),
        (0.5, 100 * (0.87 - 0.88), 1.0, ""),  # -1.0000000000000009
        (0.5, 3.0, 0.0, ""),
        (1.0, -1.2, 1.0, "loses 1.20 points"),
    ],
)
def test_the_budget_is_of_points_with_labels_and_of_agreement_without(agreement, difference, budget, words):
    assert over_budget(Comparison(10, 10, agreement, difference), budget) == words


def finished(*spans, objective="latency"):
    """An outcome whose finalists took these milliseconds in each of ten turns; the first is the baseline."""
    outcome = Outcome(None, objective, 1.0, "pictures")
    for place, span in enumerate(spans):
        turns = [span * (1 + 0.01 * (turn % 3)) for turn in range(10)]
        known = Figures(20, span, None, 1e3 / span, 100.0 - place)
        accuracy = Comparison(1, 1, 1.0)
        row = Row(Choice("ort", f"{place}"), "finalist", figures=known, turns_ms=turns, accuracy=accuracy)
        outcome.finalists.append(row)
    outcome.rows, outcome.baseline = list(outcome.finalists), outcome.finalists[0]
    return outcome


def test_the_fastest_wins_where_it_is_shown_to_be_faster():
    outcome = finished(20, 10, 15)
    outcome.choose()

    assert outcome.winner.choice.artifact == "1"
    assert outcome.difference.shown


def test_what_is_not_shown_to_be_faster_does_not_replace_the_usual_way():
    outcome = finished(20, 19.99)
    outcome.finalists[1].turns_ms = [19.99 * (0.9 if turn % 2 else 1.1) for turn in range(10)]
    outcome.choose()

    assert outcome.winner is outcome.baseline
    assert "nothing is shown to be better" in outcome.table()


def test_where_nothing_was_measured_of_what_is_asked_for_the_usual_way_wins():
    outcome = finished(20, 10, objective="energy")
    outcome.baseline = outcome.finalists[1]
    outcome.choose()

    assert outcome.winner is outcome.baseline
    assert "nothing is shown to be better" in outcome.table()


@pytest.mark.parametrize("objective", ["latency", "memory"])
def test_where_the_usual_way_did_not_come_to_the_end_the_best_wins(objective):
    for baseline in (None, Row(Choice("ort", "lost"), "failed")):
        outcome = finished(20, 20, objective=objective)
        outcome.baseline = baseline
        outcome.choose()
        assert (outcome.winner, outcome.difference) == (outcome.finalists[0], None)


@pytest.mark.parametrize("known", [0, 1])
def test_what_is_known_of_one_alone_makes_it_neither_better_nor_worse(known):
    outcome = finished(20, 10)
    row = outcome.finalists[known]
    row.figures = dataclasses.replace(row.figures, joules=3.0)
    assert outcome.pareto() == [outcome.finalists[1]]


def test_what_its_turns_show_to_be_slower_does_not_win_by_its_other_numbers():
    outcome = finished(20, 10)
    outcome.finalists[1].turns_ms = [30.0] * 10
    outcome.choose()

    assert outcome.difference.shown
    assert outcome.winner is outcome.baseline


def test_the_table_has_the_best_on_top_and_the_others_by_how_far_they_came():
    outcome = finished(20, 10)
    outcome.reference = "ort model.fp32.onnx"
    known = outcome.finalists[0].figures
    for name, heat, state, reason in (
        ("broken", "", "failed", "crashed: SIGSEGV"),
        ("early", "heat 1", "eliminated", "after heat 1"),
        ("lossy", "", "over budget", "loses 2.00 points"),
        ("late", "heat 10", "eliminated", "after heat 10"),
    ):
        row = Row(Choice("ov", name), state, reason, heat, figures=known if heat else None)
        outcome.rows.append(row)
    outcome.choose()
    lines = outcome.table().splitlines()

    assert [line[:10].rstrip() for line in lines[1:5]] == ["* ort 1", "  ort 0", "  ov late", "  ov early"]
    assert lines[5:10] == [
        "ov lossy: over budget, loses 2.00 points",
        "ov broken: failed, crashed: SIGSEGV",
        "",
        "*: no other finalist is better in everything",
        "accuracy against ort model.fp32.onnx on pictures",
    ]
    assert lines[10].startswith("against ort 0: ort 1: 50.0% faster (")
    assert lines[11:] == ["best for latency: ort 1"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "-"),
        (Comparison(9, 9, 0.9841), "98.4 % agree"),
        (Comparison(9, 9, 0.5, 0.125), "+0.12 points"),
        (Comparison(9, 9, 0.5, -2.0), "-2.00 points"),
    ],
)
def test_accuracy_is_told_in_points_with_labels_and_in_agreement_without(found, words):
    assert accuracy_words(found) == words


def test_what_failed_after_a_heat_is_shown_with_both():
    outcome = finished(20)
    lost = Row(Choice("ov", "late"), "failed", "crashed: SIGSEGV", "heat 2", figures=outcome.finalists[0].figures)
    outcome.rows.append(lost)
    assert "heat 2; then crashed: SIGSEGV" in outcome.table()


@pytest.mark.parametrize(
    ("partial", "told"),
    [(True, "interrupted: partial, and no plan is kept"), (False, "nothing came to the end, so no plan is kept")],
)
def test_where_nothing_was_measured_the_table_is_of_words_alone(partial, told):
    outcome = Outcome(None, "latency", 1.0, "pictures", "ort model.fp32.onnx", partial=partial)
    outcome.rows = [Row(Choice("ort", "0"))]
    assert outcome.table().splitlines() == ["accuracy against ort model.fp32.onnx on pictures", told]


@pytest.mark.parametrize(
    ("compared", "difference", "budget", "told"),
    [(26, None, 1, True), (26, None, 4, False), (200, None, 1, False), (26, None, 0, False), (26, -2.0, 1, False)],
)
def test_who_is_judged_by_few_results_is_told_to_give_more_pictures(compared, difference, budget, told):
    outcome = finished(20, 10)
    outcome.choose()
    outcome.budget = budget
    lost = Row(Choice("ov", "int8"), accuracy=Comparison(3, compared, 0.8, difference))
    lost.leave("over budget", "20.0 % of the results differ")
    words = "26 results judge coarsely, one is 3.8 %: give more pictures, best with labels (--images)"

    assert words not in outcome.table()
    outcome.rows.append(lost)
    assert (words in outcome.table()) is told


def test_the_least_memory_wins_where_memory_is_the_objective():
    outcome = finished(10, 20, 30, objective="memory")
    outcome.choose()

    assert outcome.winner.choice.artifact == "2"


def test_the_front_holds_only_what_nothing_beats_in_everything():
    outcome = finished(10, 20)
    assert len(outcome.pareto()) == 2

    slow = outcome.finalists[1]
    slow.figures = dataclasses.replace(slow.figures, memory_mb=200.0)
    assert outcome.pareto() == [outcome.finalists[0]]


def test_a_few_pages_of_memory_put_nothing_slower_on_the_front():
    outcome = finished(10, 20)
    for row, memory_mb in zip(outcome.finalists, (146.95, 146.92), strict=True):
        row.figures = dataclasses.replace(row.figures, memory_mb=memory_mb)
    assert outcome.pareto() == [outcome.finalists[0]]
