"""The real MLPerf LoadGen as the issuer."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from edgeinfer.cli import _ending
from edgeinfer.errors import EngineError
from edgeinfer.profiling import loadgen_threads
from edgeinfer.profiling.samples import Load, Samples
from helpers.patience import LONG_S, until

loadgen = pytest.importorskip("edgeinfer.profiling.loadgen", reason="LoadGen is not installed", exc_type=Exception)


def nap(numbers):
    time.sleep(0.001 * len(numbers))
    return {"infer": 1.0}


@pytest.mark.parametrize("kind", ["single-stream", "multi-stream", "server", "offline"])
def test_every_call_is_a_sample_with_its_stages(kind):
    seen = []

    def work(numbers):
        seen.append(len(numbers))
        return nap(numbers)

    samples = loadgen.issue(Load(kind, 0.3, expected_ms=4.5, rate=100.0, images=4 if kind == "offline" else 1), work)
    assert len(seen) == len(samples.latency_ms) == len(samples.start_s) == len(samples.stages_ms["infer"]) > 0
    assert samples.images == sum(seen)
    group = {"multi-stream": 8, "offline": 4}.get(kind, 1)
    assert (seen[0], set(seen[:-1]) <= {group}) == (group, True)
    assert samples.start_s == sorted(samples.start_s)
    assert min(samples.latency_ms) >= 1.0
    assert samples.throughput == pytest.approx(samples.images / samples.elapsed_s)


def test_the_latencies_are_loadgens_own(tmp_path, monkeypatch):
    monkeypatch.setattr(loadgen.tempfile, "TemporaryDirectory", lambda **_: contextlib.nullcontext(str(tmp_path)))
    samples = loadgen.issue(Load("single-stream", 0.3, expected_ms=1.0), nap)
    summary = (tmp_path / "mlperf_log_summary.txt").read_text()
    ordered = sorted(samples.latency_ms)
    for words, ours in (("Min latency", ordered[0]), ("Max latency", ordered[-1])):
        assert int(re.search(rf"{words} \(ns\)\s*: (\d+)", summary)[1]) == pytest.approx(ours * 1e6, abs=1)
    ninetieth = int(re.search(r"90.00 percentile latency \(ns\)\s*: (\d+)", summary)[1])
    assert ninetieth == pytest.approx(ordered[int(0.9 * len(ordered))] * 1e6, abs=1)


def test_a_query_of_several_pictures_is_done_with_its_slowest_whichever_call_ended_first():
    trace = [(1000.0, sample, sample // 2, ns) for sample, ns in enumerate((2e6, 5e6, 4e6, 3e6))]
    samples, calls = Samples(0.0), [loadgen._Call(place, 0.0, 5.0, {"infer": float(place)}, 2) for place in (1, 0)]
    loadgen._queries(samples, SimpleNamespace(calls=calls), trace)
    assert (samples.latency_ms, samples.stages_ms) == ([5.0, 4.0], {"infer": [0.0, 1.0]})


def test_a_server_counts_the_time_a_picture_waits():
    samples = loadgen.issue(Load("server", 0.5, rate=400.0), lambda numbers: nap(numbers * 5))
    assert max(samples.latency_ms) > 100  # twice as many came as could be done


def test_a_server_of_two_lanes_works_on_two_pictures_at_once():
    both, lock, calls = threading.Event(), threading.Lock(), []

    def work(numbers):
        with lock:
            calls.append(numbers)
            first = len(calls) == 1
        assert not first or both.wait(LONG_S)
        both.set()
        return {"infer": float(numbers[0])}

    samples = loadgen.issue(Load("server", 2.0, rate=50.0, pictures=64, lanes=2), work)
    assert len(samples.latency_ms) == len(calls) > 2
    assert samples.start_s == sorted(samples.start_s)
    assert sorted([place] for place in samples.stages_ms["infer"]) == sorted(calls)


def test_a_failure_comes_out_and_the_next_test_runs():
    def work(_):
        raise EngineError("broken in the middle")

    with pytest.raises(EngineError, match="in the middle"):
        loadgen.issue(Load("single-stream", 30.0, expected_ms=5.0), work)
    assert loadgen.issue(Load("single-stream", 0.1, expected_ms=1.0), nap).latency_ms


def test_the_threads_that_call_loadgen_outlast_its_tests_and_serve_the_next():
    threads = set()

    def work(numbers):
        threads.add(threading.current_thread())
        return nap(numbers)

    before = threading.active_count()
    for _ in range(4):
        loadgen.issue(Load("server", 0.1, rate=200.0, lanes=2), work)
    assert all(thread.is_alive() for thread in threads)
    assert threading.active_count() <= before + 3


def test_a_server_that_cannot_begin_leaves_no_worker_waiting(monkeypatch):
    def full(**_):
        raise OSError("no space for a folder")

    before = busy()
    monkeypatch.setattr(loadgen.tempfile, "TemporaryDirectory", full)
    with pytest.raises(OSError, match="no space"):
        loadgen.issue(Load("server", 0.1, rate=50.0, lanes=2), nap)
    assert busy() <= before


def busy():
    """The threads that call LoadGen, but for those that wait for the next test."""
    return {one for one in threading.enumerate() if isinstance(one, loadgen_threads._Worker)} - {*loadgen_threads._IDLE}


@pytest.fixture
def pressed(monkeypatch):
    """Sends signals to this process in the middle of a test, and returns once they are heard."""
    systems, made = [], loadgen._System

    def system(*given):
        systems.append(made(*given))
        return systems[-1]

    def press(*numbers):
        for number in numbers:
            signal.pthread_kill(threading.main_thread().ident, number)
        until(lambda: systems[-1].stop.asked)

    monkeypatch.setattr(loadgen, "_System", system)
    return press


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_sigterm_ends_a_long_test_with_the_samples_so_far_and_is_heard_by_who_had_it_before(scenario, pressed):
    calls = []

    def work(numbers):
        calls.append(numbers)
        if len(calls) == 2:
            pressed(signal.SIGTERM, signal.SIGTERM)
        return nap(numbers)

    with _ending.orderly() as ending:
        samples = loadgen.issue(Load(scenario, 60.0, expected_ms=1.0), work)
        assert signal.getsignal(signal.SIGTERM) is ending
    assert (samples.interrupted, ending.asked) == (True, signal.SIGTERM)
    assert len(samples.latency_ms) == len(calls) == 2


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_long_test_with_the_samples_so_far(presses, pressed):
    calls = []

    def work(numbers):
        calls.append(numbers)
        if len(calls) == 20:
            pressed(*[signal.SIGINT] * presses)
        return nap(numbers)

    samples = loadgen.issue(Load("single-stream", 60.0, expected_ms=1.0), work)
    assert samples.interrupted
    assert len(samples.latency_ms) == len(calls) == 20
    assert not loadgen.issue(Load("single-stream", 0.1, expected_ms=1.0), nap).interrupted


def test_who_interrupts_a_server_is_told_how_long_it_still_takes(pressed, monkeypatch, caplog):
    def unstoppable(_):
        pressed(signal.SIGINT)
        until(lambda: caplog.messages)
        return ""

    monkeypatch.setattr(loadgen._Test, "_traced", unstoppable)
    assert loadgen.issue(Load("server", 1e4, rate=50.0), nap).interrupted
    (told,) = caplog.messages
    assert re.fullmatch(r"MLPerf LoadGen cannot be stopped: \d+ s more until it ends", told)


def test_a_log_that_could_not_be_written_is_an_error(monkeypatch):
    monkeypatch.setattr(loadgen, "_SAMPLE", re.compile("never: ()()()()"))
    with pytest.raises(EngineError, match="wrote down 0 of"):
        loadgen.issue(Load("single-stream", 0.05, expected_ms=1.0), nap)


def test_a_settings_file_lying_about_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "audit.config").write_text("*.*.min_duration = 60000\n*.*.min_query_count = 100000\n")
    monkeypatch.chdir(tmp_path)
    assert loadgen.issue(Load("single-stream", 0.1, expected_ms=1.0), nap).elapsed_s < 60
    assert [path.name for path in tmp_path.iterdir()] == ["audit.config"]


def test_it_works_from_a_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(loadgen.issue(Load("single-stream", 0.1, expected_ms=1.0), nap))
    )
    thread.start()
    thread.join()
    assert found[0].latency_ms


SET_BACK = """
import time
from edgeinfer.profiling import loadgen
from edgeinfer.profiling.samples import Load

right, calls = time.time, []
time.time = lambda: right() - (3600 if calls else 0)
try:
    loadgen.issue(Load("server", 1e4, rate=10.0), lambda numbers: calls.append(numbers) or {"infer": 1.0})
except loadgen.EngineError as error:
    print(error)
"""


def test_a_clock_that_is_set_is_an_error_at_once_and_the_process_ends_without_waiting_for_loadgen():
    command = [sys.executable, "-c", SET_BACK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG_S)
    assert done.stdout == "the machine's clock was set while LoadGen ran, which goes by it\n"
    assert (done.returncode, done.stderr) == (1, "")
