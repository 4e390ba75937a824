"""How work is laid out, and how a server's rate is found; on a simulated clock where time matters."""

from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest

from edgeinfer.profiling import loop, scenarios
from edgeinfer.profiling.samples import Load
from edgeinfer.profiling.server import Search
from edgeinfer.profiling.statistics import percentile
from edgeinfer.profiling.subject import Picture
from helpers.patience import LONG_S


class Simulated:
    """An issuer, and a subject that takes `span_s` a call, on a clock of their own."""

    NAME = "simulated"
    reach, pictures = 1, 1

    def __init__(self, span_s, day=0):
        """Each `day` pictures come at other times."""
        self.span_s, self.day, self.now = span_s, day, 0.0

    def wait(self, seconds):
        self.now += seconds

    def __call__(self, numbers):
        self.wait(self.span_s)
        return {"infer": self.span_s * 1e3}

    def issue(self, load, work):
        load = replace(load, seed=100 * self.day + load.seed)
        return loop.issue(load, work, clock=lambda: self.now, sleep=self.wait)

    def tail(self, rate):
        samples = self.issue(Load("server", 100.0, rate=rate, seed=99), self)
        return percentile(sorted(samples.latency_ms), 99.0)


def found(bound_ms):
    server = Simulated(0.01)
    load = Load("server", 100.0, expected_ms=10.0)
    return server, *Search(load, server, server, bound_ms, lambda _: None).run()


@pytest.mark.parametrize("bound_ms", [25.0, 40.0, 100.0])
def test_a_servers_rate_is_the_highest_within_the_bound(bound_ms):
    server, samples, facts = found(bound_ms)
    rate = facts["rate_per_s"]
    assert percentile(sorted(samples.latency_ms), 99.0) <= bound_ms
    assert server.tail(rate * 0.8) <= bound_ms < server.tail(rate * 1.3)
    assert all(trial["within"] == (trial["tail_ms"] <= bound_ms) for trial in facts["trials"])
    assert facts["trials"][-1]["within"]
    assert facts["trials"][-1]["samples"] == len(samples.latency_ms)
    assert samples.faults == []


def test_a_looser_bound_allows_a_higher_rate():
    rates = [found(bound_ms)[2]["rate_per_s"] for bound_ms in (25.0, 40.0, 100.0)]
    assert rates == sorted(rates)
    assert 0 < rates[0] < rates[-1] <= 100  # a picture takes 10 ms


def test_a_rate_is_found_whatever_chance_brings():
    load, days = Load("server", 20.0, expected_ms=10.0), [Simulated(0.01, day) for day in range(50)]
    rates = [Search(load, server, server, 40.0, lambda _: None).run()[1]["rate_per_s"] for server in days]
    assert rates.count(None) == 0


def test_a_bound_below_what_one_picture_takes_cannot_be_kept():
    _, samples, facts = found(9.0)
    assert facts["rate_per_s"] is None
    assert samples.faults == ["no rate found keeps the 99th percentile within 9 ms"]


def test_without_a_bound_it_is_four_times_what_a_picture_takes(monkeypatch):
    monkeypatch.setattr(scenarios, "warm_up", lambda _: {"median_ms": 10.0})
    monkeypatch.setattr(scenarios, "issuer_of", lambda _: server)
    server = Simulated(0.01)
    run = scenarios.measure("server", server, scenarios.Asked(10.0), lambda _: None)
    assert run.facts["latency_bound_ms"] == 40.0


@pytest.mark.parametrize(
    ("scenario", "batch", "group"),
    [
        ("single-stream", 8, 1),
        ("server", 8, 1),
        ("paced", 8, 1),
        ("offline", 6, 6),
        ("multi-stream", 1, 1),
        ("multi-stream", 3, 2),
        ("multi-stream", 6, 4),
        ("multi-stream", 32, 8),
    ],
)
def test_calls_take_what_the_model_can_and_queries_divide_into(scenario, batch, group):
    assert scenarios.group_of(scenario, batch) == group


class Meeting:
    """A model with two contexts, each of whose calls ends when the other has come too."""

    group, contexts = 2, 2

    def __init__(self):
        self.both, self.asked = Barrier(2, timeout=LONG_S), []

    def batch(self, images):
        self.asked.append(len(images))
        self.both.wait()
        return [SimpleNamespace(timings_ms={"infer": 10.0})]


def test_pictures_that_are_there_at_once_are_worked_on_in_every_context():
    model = Meeting()
    subject = scenarios.subject_of("offline", model, "pipeline", [Picture(None)])
    assert subject(list(range(8))) == {"infer": 20.0}  # the mean of two contexts with two calls each
    assert model.asked == [2] * 4


@pytest.mark.parametrize(
    ("scenario", "boundary", "contexts", "reach"),
    [
        ("offline", "pipeline", 3, 12),
        ("offline", "engine", 3, 4),
        ("multi-stream", "file", 3, 8),
        ("multi-stream", "pipeline", 1, 4),
        ("single-stream", "pipeline", 3, 1),
        ("paced", "pipeline", 3, 1),
        ("server", "pipeline", 3, 3),
        ("server", "engine", 3, 1),
    ],
)
def test_only_pictures_that_may_be_there_at_once_meet_several_contexts(scenario, boundary, contexts, reach):
    device = SimpleNamespace(preprocess=lambda images: (images, []))
    model = SimpleNamespace(group=4, contexts=contexts, device=device)
    assert scenarios.subject_of(scenario, model, boundary, [Picture(None, Path("x"))]).reach == reach
