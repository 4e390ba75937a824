"""The scenario `cold`: new processes, one after the other, each from its start to its first result.

Files are in the page cache after the first of them; what a disk adds after a reboot is not in these numbers.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from edgeinfer import interruption
from edgeinfer.errors import EngineError
from edgeinfer.profiling.child import LOADING_S, Child, Failed
from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.statistics import needed

if TYPE_CHECKING:
    from collections.abc import Mapping

IDLE_S = 1.0
PROCESSES = needed(50.0)


def issue(seconds: float, asked: Mapping[str, Any], children: list[int]) -> tuple[Samples, dict[str, Any]]:
    """As many processes as a median needs, more if `seconds` allow; `asked` is what `load` takes, and `source`.

    Gives the samples, and the calls after the first: the second, and the one after a pause. Each process's number is
    put to `children`, for the sensors. Raises EngineError.
    """
    samples = Samples(time.perf_counter())
    later: dict[str, Any] = {"idle_s": IDLE_S, "second_ms": [], "after_idle_ms": []}
    with interruption.noticed() as stop:
        while not stop.asked and (len(samples.latency_ms) < PROCESSES or samples.elapsed_s < seconds):
            start = time.perf_counter() - samples.origin
            said = _one({**asked, "idle_s": IDLE_S}, children)
            samples.add(start, sum(said["steps_ms"].values()), said["steps_ms"], 1)
            samples.elapsed_s = time.perf_counter() - samples.origin
            later["second_ms"].append(said["second_ms"])
            later["after_idle_ms"].append(said["after_idle_ms"])
    samples.interrupted = stop.asked
    return samples, later


def _one(asked: dict[str, Any], children: list[int]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        with closing(Child("edgeinfer.profiling._cold_start", {**asked, "started": started}, quiet=True)) as child:
            children.append(child.pid)
            return child.heard(LOADING_S)
    except Failed as failure:
        raise EngineError(f"in a new process: {failure}", hint=failure.hint) from failure
