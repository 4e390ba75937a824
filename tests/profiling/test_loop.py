"""Our own issuer, on a clock that is simulated: every number is exact."""

import itertools
import os
import signal
import threading

import pytest

from edgeinfer.profiling import loop
from edgeinfer.profiling.samples import Load, Samples
from helpers.patience import LONG_S


class Clock:
    """Seconds that pass only when someone sleeps or works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds

    def issue(self, load, spans):
        """Work of these spans, one after the other, the last for ever."""
        left = list(spans)

        def work(numbers):
            self.seen = numbers
            self.pass_(left.pop(0) if len(left) > 1 else left[0])
            return {"infer": 1.0}

        return loop.issue(load, work, clock=self, sleep=self.pass_)


@pytest.fixture
def clock():
    return Clock()


def test_in_a_single_stream_the_next_picture_is_due_when_the_last_is_done(clock):
    samples = clock.issue(Load("single-stream", 1.0), [0.25, 0.5])
    assert samples.start_s == [0.0, 0.25, 0.75]
    assert samples.latency_ms == [250.0, 500.0, 500.0]
    assert (samples.images, samples.elapsed_s) == (3, 1.25)


def test_however_short_the_time_one_picture_is_measured(clock):
    moments = itertools.count(100.0, 0.001)
    samples = loop.issue(Load("single-stream", 1e-9), lambda _: {"infer": 1.0}, clock=lambda: next(moments))
    assert len(samples.latency_ms) == 1


def test_a_multi_stream_query_is_eight_pictures(clock):
    samples = clock.issue(Load("multi-stream", 1.0), [0.5])
    assert (len(samples.latency_ms), samples.images, clock.seen) == (2, 16, list(range(8, 16)))
    assert samples.throughput == 16


def test_offline_counts_every_picture_of_a_call(clock):
    samples = clock.issue(Load("offline", 1.0, images=4), [0.25])
    assert samples.throughput == 16


def test_a_server_counts_the_time_a_picture_waits_in_the_queue(clock):
    quick = Clock().issue(Load("server", 2.0, rate=50, seed=3), [1e-6])
    slow = clock.issue(Load("server", 2.0, rate=50, seed=3), [0.1])
    assert slow.start_s == pytest.approx(quick.start_s)
    assert max(quick.latency_ms) == pytest.approx(1e-3)
    assert slow.latency_ms[-1] > 5000  # a hundred pictures came, ten a second were done
    assert slow.latency_ms[1] == pytest.approx(200 - 1e3 * slow.start_s[1])


def test_the_gaps_of_a_server_are_random_and_their_mean_is_the_rate(clock):
    starts = clock.issue(Load("server", 100.0, rate=20), [1e-9]).start_s
    gaps = [later - sooner for sooner, later in itertools.pairwise(starts)]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 20, rel=0.1)
    assert sum(gap < 0.5 / 20 for gap in gaps) / len(gaps) == pytest.approx(0.39, abs=0.05)  # 1 - exp(-0.5)


def test_a_camera_keeps_its_pace_and_its_gaps(clock):
    samples = clock.issue(Load("paced", 1.0, rate=10), [0.03])
    assert samples.start_s == pytest.approx([tick / 10 for tick in range(10)])
    assert samples.latency_ms == pytest.approx([30.0] * 10)
    assert (samples.dropped, samples.throughput) == (0, 10)


def test_a_camera_drops_the_pictures_that_were_replaced_meanwhile(clock):
    samples = clock.issue(Load("paced", 1.0, rate=10), [0.35, 0.01])
    assert samples.start_s[:3] == pytest.approx([0.0, 0.3, 0.4])
    assert samples.latency_ms[1] == pytest.approx(60.0)  # it was 50 ms old when its turn came
    assert samples.dropped == 2


def test_a_clock_that_is_set_back_is_noticed_and_the_sample_kept(clock):
    samples = clock.issue(Load("single-stream", 1.0), [0.5, -0.25, 1.0])
    assert samples.latency_ms == [500.0, -250.0, 1000.0]
    assert samples.backwards == 1


def test_ctrl_c_ends_it_after_the_call_that_is_on():
    calls, before = [], signal.getsignal(signal.SIGINT)

    def work(numbers):
        calls.append(numbers)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return {"infer": 1.0}

    samples = loop.issue(Load("single-stream", 60.0), work)
    assert samples.interrupted
    assert len(calls) == len(samples.latency_ms) == len(samples.stages_ms["infer"]) == 5
    assert signal.getsignal(signal.SIGINT) is before


class Pair:
    """Work of which the first call is not done before a second has begun."""

    def __init__(self):
        self.both, self.calls, self.lock = threading.Event(), 0, threading.Lock()

    def __call__(self, numbers):
        with self.lock:
            self.calls += 1
            first = self.calls == 1
        assert not first or self.both.wait(LONG_S)
        self.both.set()
        return {"infer": float(numbers[0])}


def test_a_server_of_two_lanes_works_on_two_pictures_at_once_and_tells_each_by_its_own():
    pair = Pair()
    samples = loop.issue(Load("server", 0.05, rate=1000.0, lanes=2), pair)
    assert len(samples.latency_ms) == samples.images == pair.calls > 2
    assert samples.stages_ms["infer"] == [float(number) for number in range(pair.calls)]
    assert samples.start_s == sorted(samples.start_s)


def test_what_is_raised_in_a_lane_comes_out_and_ends_the_others():
    calls = []

    def work(numbers):
        calls.append(numbers)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.issue(Load("server", 1e6, rate=1000.0, lanes=2), work)
    assert len(calls) <= 2


def test_ctrl_c_ends_the_lanes_of_a_server_after_the_calls_that_are_on():
    done = []

    def work(numbers):
        if numbers == [5]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        done.append(numbers)
        return {"infer": 1.0}

    samples = loop.issue(Load("server", 1e6, rate=1000.0, lanes=2), work)
    assert samples.interrupted
    assert len(samples.latency_ms) == len(done) >= 6


def test_what_the_work_raises_comes_out():
    with pytest.raises(ZeroDivisionError):
        loop.issue(Load("single-stream", 1.0), lambda _: 1 / 0)


def test_samples_end_with_the_last_answer_or_with_the_time_that_was_given():
    taken = Samples(100.0, elapsed_s=2.0)
    assert taken.until == 102.0
    taken.add(1.5, 250.0, {}, 1)
    assert taken.until == 102.0
    taken.add(1.75, 500.0, {}, 1)
    assert taken.until == 102.25
