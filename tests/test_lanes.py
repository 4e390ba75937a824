"""Lanes: calls from many threads, waiting, swapping and closing."""

import threading

import pytest

from edgeinfer import lanes, load
from edgeinfer.errors import InputError
from helpers import bundles
from helpers.patience import LONG_S, until


@pytest.mark.parametrize("contexts", [1, 3])
def test_results_never_mix_between_threads(detector, contexts):
    wrong, rounds = [], 60

    def work(color):
        picture = bundles.picture(color, 40 + len(color), 50)
        for _ in range(rounds):
            found = model(picture)
            if [label for _, _, label in found] != [color] or found.source.height != 40 + len(color):
                wrong.append(color)

    with load(detector, contexts=contexts) as model:
        threads = [threading.Thread(target=work, args=(color,)) for color in bundles.COLORS * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_closed_pipeline_says_so(detector):
    model = load(detector)
    model.close()
    model.close()

    with pytest.raises(InputError, match="closed") as refused:
        model(bundles.picture())
    assert refused.value.hint == "load the bundle again"


def test_one_caller_has_the_same_lane_every_time(detector):
    with load(detector, contexts=2) as model:
        assert {model._lanes.leased(lambda lane: lane) for _ in range(3)} == {model._lanes.first}


def test_a_caller_that_waits_while_the_pipeline_closes_is_told_before_the_call_it_waits_for_ends(detector, monkeypatch):
    monkeypatch.setattr(lanes, "LOOK_S", 2 * LONG_S)
    model = load(detector)
    outcome = []

    def call():
        try:
            model(bundles.picture())
        except InputError as error:
            outcome.append(str(error))

    waiter, closer = (threading.Thread(target=one, daemon=True) for one in (call, model.close))

    def meanwhile(_):
        waiter.start()
        until(lambda: model._lanes._changed._waiters)
        closer.start()
        waiter.join(LONG_S)
        assert outcome == ["the pipeline is closed"]

    model._lanes.leased(meanwhile)
    closer.join(LONG_S)
    assert not closer.is_alive()


WAITING = {
    "call": lambda model, _: model(bundles.picture()),
    "close": lambda model, _: model.close(),
    "swap": lambda model, other: model.swap(other),
    "be swapped": lambda model, other: other.swap(model),
}


@pytest.mark.parametrize("what", WAITING.values(), ids=WAITING)
def test_who_waits_for_a_call_goes_on_when_it_ends_and_not_at_the_next_look(detector, monkeypatch, what):
    monkeypatch.setattr(lanes, "LOOK_S", 2 * LONG_S)
    with load(detector) as model, load(detector) as other:
        waiter = threading.Thread(target=what, args=(model, other), daemon=True)
        model._lanes.leased(lambda _: waiter.start() or until(lambda: model._lanes._changed._waiters))
        waiter.join(LONG_S)
        assert not waiter.is_alive()


def test_who_waits_for_a_lane_gets_one_that_takes_over_while_the_call_before_still_runs(detector, monkeypatch):
    monkeypatch.setattr(lanes, "LOOK_S", 2 * LONG_S)
    found = []
    with load(detector) as model, load(detector) as other:
        waiter = threading.Thread(target=lambda: found.append(model(bundles.picture())), daemon=True)
        swapper = threading.Thread(target=model.swap, args=(other,), daemon=True)

        def meanwhile(_):
            waiter.start()
            until(lambda: model._lanes._changed._waiters)
            swapper.start()
            waiter.join(LONG_S)
            assert len(found) == 1

        model._lanes.leased(meanwhile)
        swapper.join(LONG_S)


def test_lanes_are_swapped_under_concurrent_calls_without_a_failed_or_mixed_one(detector, classifier):
    """Two pipelines trade places many times; every call sees one of them whole."""
    wrong, done = [], threading.Event()
    model = load(detector, contexts=2)

    def work(color):
        while not done.is_set():
            results = model.batch([bundles.picture(color)] * 3)
            kinds = {type(result).__name__ for result in results}
            if len(kinds) != 1 or any(next(iter(result))[-1 if len(result) == 1 else 1] != color for result in results):
                wrong.append(results)

    threads = [threading.Thread(target=work, args=(color,)) for color in bundles.COLORS]
    for thread in threads:
        thread.start()
    old = [lane.engine for lane in model._lanes._fleet.lanes]
    for turn in range(20):
        model.swap(load(classifier, contexts=2) if turn % 2 else load(detector))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(engine._session is None for engine in old)
    assert model.contexts == 2
    model.close()


def test_a_pipeline_that_nobody_has_any_more_closes_its_engines_as_close_does(detector):
    model = load(detector, contexts=2)
    lanes = model._lanes._fleet.lanes
    del model

    assert [lane.engine._session for lane in lanes] == [None, None]
    assert [lane.device._tensor.size for lane in lanes] == [0, 0]


def test_a_closed_pipeline_takes_nothing_over(detector):
    model, other = load(detector), load(detector)
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.swap(other)
    assert len(other(bundles.picture())) == 1
    other.close()


def test_a_pipeline_that_is_closed_while_it_waits_for_another_frees_what_it_was_to_take_over(detector):
    model, other = load(detector), load(detector)
    engine = other.engine
    swapper = threading.Thread(target=model.swap, args=(other,), daemon=True)

    def meanwhile(_):
        swapper.start()
        until(lambda: other._lanes._changed._waiters)
        model.close()

    other._lanes.leased(meanwhile)
    swapper.join(LONG_S)
    assert engine._session is None


def test_a_pipeline_that_gave_its_lanes_away_is_closed(detector):
    with load(detector) as model, load(detector) as other:
        model.swap(other)
        with pytest.raises(InputError, match="closed"):
            other(bundles.picture())
        assert len(model(bundles.picture())) == 1
