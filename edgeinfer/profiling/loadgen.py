"""MLPerf LoadGen as the issuer: it decides when work arrives and times it; here is its system under test.

LoadGen's clock runs in C++ from when a sample was due to when its completion arrived. Its trace file holds
that latency for every single sample, in nanoseconds, and is where ours come from.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import re
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer import interruption
from edgeinfer.errors import BackendUnavailable, EngineError
from edgeinfer.profiling import loadgen_threads
from edgeinfer.profiling.clock import WallClock
from edgeinfer.profiling.samples import MOST_QUERIES, STREAMS, Samples

try:
    import mlperf_loadgen as lg
except ImportError as error:
    raise BackendUnavailable(
        f"MLPerf LoadGen cannot be imported: {error}", hint='pip install "edgeinfer[profile]"'
    ) from error

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from edgeinfer.interruption import Interruption
    from edgeinfer.profiling.samples import Load, Work

LOG = logging.getLogger(__name__)
NAME = "MLPerf LoadGen"
LOOK_S = 0.2  # between two looks at the clock
_SCENARIOS = {
    "single-stream": lg.TestScenario.SingleStream,
    "multi-stream": lg.TestScenario.MultiStream,
    "server": lg.TestScenario.Server,
    "offline": lg.TestScenario.Offline,
}
_SAMPLE = re.compile(
    r'"name":"Sample".*?"ts":(?P<ts>[\d.]+),"args":\{"sample_seq":(?P<sample>\d+),"query_seq":(?P<query>\d+),'
    r'.*?"complete_ns":(?P<ns>-?\d+)'
)


def issue(load: Load, work: Work) -> Samples:
    """One LoadGen test in performance mode. EngineError if the machine's clock, by which it goes, is set meanwhile."""
    with interruption.noticed(patient=True) as stop:
        system = _System(load, work, stop)
        test, clock, ended, told = _Test(load, system), WallClock(), False, False
        over, end = loadgen_threads.begin(test.run), time.monotonic() + load.seconds
        while not ended:
            ended = over.wait(LOOK_S)
            if stop.asked and load.kind == "server" and not told and not ended:
                LOG.warning("%s cannot be stopped: %.0f s more until it ends", NAME, max(0.0, end - time.monotonic()))
                told = True
            if clock.was_set():
                system.failure = EngineError(
                    "the machine's clock was set while LoadGen ran, which goes by it",
                    hint="profile again once the clock is right; timedatectl shows whether it is synchronised",
                )
                break
    if system.failure:
        raise system.failure
    return _samples(load, system, test.trace)


class _Test:
    """To `run` in a thread of its own: LoadGen cannot be stopped, and may wait for hours for a clock that was set back.

    Where it still runs as the process ends, C++ would abort: the process ends with 1 then, without its destructors.
    """

    def __init__(self, load: Load, system: _System) -> None:
        self._load, self._system, self.trace = load, system, ""

    def run(self) -> None:
        atexit.register(self._leave)
        try:
            self.trace = self._traced()
        except Exception as error:  # noqa: BLE001 - raised again by who waits
            self._system.failure = self._system.failure or error
        atexit.unregister(self._leave)

    def _traced(self) -> str:
        """What LoadGen tells of every sample."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeinfer-loadgen-"))
            sut, library = stack.enter_context(_registered(self._system, self._load.pictures))
            logs = lg.LogSettings()
            logs.enable_trace = True
            logs.log_output.outdir = folder
            logs.log_output.copy_summary_to_stdout = False
            # a file of this name in the working directory would change the settings
            audit = str(Path(folder) / "no-audit.config")
            with self._system:
                lg.StartTestWithLogSettings(sut, library, _settings(self._load), logs, audit)
            return (Path(folder) / "mlperf_log_trace.json").read_text(encoding="utf-8", errors="replace")

    def _leave(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(1)


class _Call(NamedTuple):
    """A call of the model: for which of the queries, when it began, its milliseconds, its stages, its pictures."""

    query: int
    begin: float
    took_ms: float
    stages: dict[str, float]
    images: int


class _System:
    """The system under test; a server has workers while the block lasts.

    After a failure or Ctrl-C it answers at once without working: LoadGen cannot be stopped from outside, and
    an exception thrown through it leaves it broken for the next test.
    """

    def __init__(self, load: Load, work: Work, stop: Interruption) -> None:
        self._load, self._work = load, work
        self.origin = 0.0
        self.failure: Exception | None = None
        self.stop = stop
        self.calls: list[_Call] = []  # in the order they ended
        self._issued = 0
        self._waiting: queue.SimpleQueue[tuple[int, list[Any]] | None] = queue.SimpleQueue()
        self._workers: list[threading.Event] = []

    def __enter__(self) -> None:
        if self._load.kind == "server":
            self._workers = [loadgen_threads.begin(self._serve) for _ in range(self._load.lanes)]

    def __exit__(self, *_: object) -> None:
        for _worker in self._workers:
            self._waiting.put(None)
        for worker in self._workers:
            worker.wait()

    def receive(self, query: list[Any]) -> None:
        """LoadGen's IssueQuery: a server takes it in and returns, any other works it off."""
        self.origin = self.origin or time.perf_counter()
        number, self._issued = self._issued, self._issued + 1
        if self._workers:
            self._waiting.put((number, query))
        else:
            self._work_off(number, query)

    def flush(self) -> None:
        """LoadGen asks for this at the end; nothing is held back."""

    def _serve(self) -> None:
        while (issued := self._waiting.get()) is not None:
            self._work_off(*issued)

    def _work_off(self, number: int, query: list[Any]) -> None:
        step = self._load.images if self._load.kind == "offline" else len(query)
        for start in range(0, len(query), step):
            part = query[start : start + step]
            try:
                self._call(number, part)
            except Exception as error:  # noqa: BLE001 - raised again when LoadGen is through
                self.failure = self.failure or error
            self._answer(part)

    def _call(self, number: int, part: list[Any]) -> None:
        if self.stop.asked or self.failure:
            return
        begin = time.perf_counter()
        stages = self._work([sample.index for sample in part])
        self.calls.append(_Call(number, begin, (time.perf_counter() - begin) * 1e3, stages, len(part)))

    def _answer(self, part: list[Any]) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in part])


@contextmanager
def _registered(system: _System, pictures: int) -> Iterator[tuple[int, int]]:
    sut = lg.ConstructSUT(system.receive, system.flush)
    library = lg.ConstructQSL(pictures, pictures, lambda _: None, lambda _: None)
    try:
        yield sut, library
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)


def _settings(load: Load) -> Any:
    """LoadGen makes its queries beforehand, twice as many as the expected latency asks for: so it is bounded."""
    settings = lg.TestSettings()
    settings.scenario, settings.mode = _SCENARIOS[load.kind], lg.TestMode.PerformanceOnly
    settings.min_duration_ms = settings.max_duration_ms = max(1, round(load.seconds * 1e3))
    settings.min_query_count = 1
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = load.seed
    expected_ns = max(load.expected_ms * 1e6, load.seconds * 1e9 / MOST_QUERIES)
    settings.single_stream_expected_latency_ns = round(expected_ns)
    settings.multi_stream_expected_latency_ns = round(expected_ns)
    settings.multi_stream_samples_per_query = STREAMS
    if load.kind == "server":
        settings.server_target_qps = load.rate
    if load.kind == "offline":
        # as many pictures as are thought to be done in the time; LoadGen adds a tenth
        settings.offline_expected_qps = min(load.images * 1e3 / load.expected_ms, MOST_QUERIES / load.seconds)
    return settings


def _samples(load: Load, system: _System, trace: str) -> Samples:
    timed = [tuple(map(float, found.groups())) for found in _SAMPLE.finditer(trace)]
    worked = sum(call.images for call in system.calls)
    if len(timed) < worked:
        raise EngineError(
            f"LoadGen wrote down {len(timed)} of {worked} samples",
            hint="check free space for temporary files (TMPDIR); and nobody may set the clock while LoadGen runs",
        )
    samples = Samples(system.origin, interrupted=system.stop.asked)
    if load.kind == "offline":
        _whole_calls(samples, system, timed)
    else:
        _queries(samples, system, timed)
    return samples


def _queries(samples: Samples, system: _System, timed: list[tuple[float, ...]]) -> None:
    """One sample a query that was worked on, by LoadGen's clock, in the order of issue."""
    spans: dict[int, tuple[float, float]] = {}
    for due_us, _, query, complete_ns in timed:
        due_s, latency_ms = due_us / 1e6, complete_ns / 1e6
        if int(query) in spans:
            latency_ms = max(latency_ms, spans[int(query)][1])
        spans[int(query)] = due_s, latency_ms
    ordered = [spans[query] for query in sorted(spans)]
    first = ordered[0][0] if ordered else 0.0
    for call in sorted(system.calls, key=lambda call: call.query):
        due_s, latency_ms = ordered[call.query]
        samples.add(due_s - first, latency_ms, call.stages, call.images)
        samples.elapsed_s = max(samples.elapsed_s, due_s - first + latency_ms / 1e3)


def _whole_calls(samples: Samples, system: _System, timed: list[tuple[float, ...]]) -> None:
    """One sample a call: in LoadGen's eyes all pictures were due at the start, so only the last one tells."""
    for call in system.calls:
        samples.add(call.begin - system.origin, call.took_ms, call.stages, call.images)
    if system.stop.asked and system.calls:
        samples.elapsed_s = samples.start_s[-1] + samples.latency_ms[-1] / 1e3
    elif timed:
        samples.elapsed_s = max(complete_ns for *_, complete_ns in timed) / 1e9
