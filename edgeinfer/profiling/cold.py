"""The scenario `cold`: new processes, one after the other, each from its start to its first result.

Files are in the page cache after the first of them; what a disk adds after a reboot is not in these numbers.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

from edgeinfer import interpreter, interruption
from edgeinfer.errors import EngineError
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.statistics import needed

if TYPE_CHECKING:
    from collections.abc import Mapping

IDLE_S = 1.0
PROCESSES = needed(50.0)


def issue(seconds: float, asked: Mapping[str, Any]) -> tuple[Samples, dict[str, Any]]:
    """As many processes as a median needs, more if `seconds` allow; `asked` is what `load` takes, and `source`.

    Gives the samples, and the calls after the first: the second, and the one after a pause. Raises EngineError.
    """
    samples = Samples(time.perf_counter())
    later: dict[str, Any] = {"idle_s": IDLE_S, "second_ms": [], "after_idle_ms": []}
    with interruption.noticed() as stop:
        while not stop.asked and (len(samples.latency_ms) < PROCESSES or samples.elapsed_s < seconds):
            start = time.perf_counter() - samples.origin
            said = _one({**asked, "idle_s": IDLE_S})
            samples.add(start, sum(said["steps_ms"].values()), said["steps_ms"], 1)
            samples.elapsed_s = time.perf_counter() - samples.origin
            later["second_ms"].append(said["second_ms"])
            later["after_idle_ms"].append(said["after_idle_ms"])
    samples.interrupted = stop.asked
    return samples, later


def _one(asked: dict[str, Any]) -> dict[str, Any]:
    """One process; its own session, so that Ctrl-C does not reach it."""
    command = interpreter.module("edgeinfer.profiling._newborn")
    told = json.dumps({**asked, "born": time.monotonic()})
    done = subprocess.run([*command, told], capture_output=True, text=True, check=False, start_new_session=True)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        words = " ".join(done.stderr.split()[-40:]) or f"exit code {done.returncode}"
        raise EngineError(f"a new process did not come to a result: {words}") from None
    if "error" in said:
        raise EngineError(f"in a new process: {said['error']}", hint=said["hint"])
    return said
