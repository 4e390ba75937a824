"""Two bundles measured against each other: a process each, turn by turn in random order.

Whatever drifts on the machine meets both alike, and two runtimes in one process would disturb each other.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from edgeinfer import given, interruption, machine
from edgeinfer.errors import UsageError
from edgeinfer.profiling import comparison, scenarios, sensors
from edgeinfer.profiling.child import LOADING_S, SILENCE_S, Child
from edgeinfer.profiling.measuring import assembled
from edgeinfer.profiling.samples import Samples, joined, medians
from edgeinfer.profiling.scenarios import Run
from edgeinfer.profiling.subject import listed
from edgeinfer.progress import silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.profiling.report import Report
    from edgeinfer.progress import Say

TURNS = 20
SCENARIOS = ("single-stream", "multi-stream", "offline", "paced")
INTERLEAVED = f"interleaved at random in {TURNS} turns each"


class Rival(Child):
    """A bundle in a process of its own, idle until it has its turn."""

    def __init__(self, bundle: str | Path, asked: dict[str, Any]) -> None:
        self.turns: list[Samples] = []
        self.fps = asked["fps"]
        told = {**asked, "bundle": str(bundle)}
        super().__init__("edgeinfer.profiling._rival", told, name=f"the process of {bundle}")

    def wait_ready(self) -> None:
        ready = self.heard(LOADING_S)["ready"]
        self.context, self.warm_up = ready["context"], ready["warm_up"]

    def turn(self, seconds: float) -> None:
        self.say(seconds)
        # LoadGen works off all that it thought could be done in the time, however slow the machine has become
        self.turns.append(Samples(**self.heard(10 * seconds + SILENCE_S)["samples"]))


def versus(
    one: str | Path,
    other: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    *,
    scenario: str = "single-stream",
    boundary: str = "pipeline",
    seconds: float = 10.0,
    source: str | Path | Sequence[str | Path] = (),
    fps: float = 30.0,
    threads: int = 0,
    plan: bool = True,
    device: str = "auto",
    say: Say = silent,
) -> Report:
    """Measure bundle `other` against bundle `one`, each for `seconds`: the report is of `other`.

    Its `comparison` holds the ratio and the whole report of `one`. Arguments as of `profile`. Raises
    UsageError for server and cold, and what the bundles' processes raise.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"two bundles are compared in {', '.join(SCENARIOS)}, not {scenario}")
    wanted = scenarios.Asked(seconds, fps)
    given.check_whole("threads", threads, 0)
    gpu = machine.ordinal(device) or 0
    asked: dict[str, Any] = {"backend": backend, "precision": precision, "threads": int(threads), "fps": wanted.fps}
    asked.update(scenario=scenario, plan=plan, device=device, boundary=boundary, source=listed(source))
    origin = time.perf_counter()
    with ExitStack() as stack:
        rivals = [stack.enter_context(closing(Rival(bundle, asked))) for bundle in (one, other)]
        say("loading both")
        for rival in rivals:
            rival.wait_ready()
        watch = stack.enter_context(sensors.Sensors(sensors.here([rival.pid for rival in rivals], gpu)))
        stop = stack.enter_context(interruption.noticed())
        for number, rival in enumerate(_order(rivals)):
            if stop.asked:
                break
            say(f"turn {number // 2 + 1} of {TURNS}")
            rival.turn(wanted.seconds / TURNS)
    if not all(rival.turns for rival in rivals):
        raise KeyboardInterrupt
    return _judged(rivals, scenario, watch, origin, interrupted=stop.asked)


def _order(rivals: Sequence[Rival]) -> list[Rival]:
    """Both in each round, the first of them by chance."""
    chance = random.Random(0)  # noqa: S311 - an order, no secret
    return [rival for _ in range(TURNS) for rival in chance.sample(rivals, 2)]


def _judged(
    rivals: Sequence[Rival], scenario: str, watch: sensors.Sensors, origin: float, *, interrupted: bool
) -> Report:
    first, second = (_report(rival, scenario, watch, origin, interrupted=interrupted) for rival in rivals)
    pairs = list(zip(*(medians(rival.turns) for rival in reversed(rivals))))
    found = []
    if len(pairs) >= comparison.FEWEST_TURNS:
        found = [comparison.paired(scenario, *zip(*pairs))]
    record = comparison.record(found, second.data, first.data, INTERLEAVED)
    second.data["comparison"] = {**record, "with": first.data}
    both = [f"{one.data['context']['bundle']['path']}: {reason}" for one in (first, second) for reason in one.reasons]
    second.data.update(valid=not both, reasons=list(dict.fromkeys(both)))
    return second


def _report(rival: Rival, scenario: str, watch: sensors.Sensors, origin: float, *, interrupted: bool) -> Report:
    facts = {
        "sample": scenarios.NAMES[scenario],
        "issuer": scenarios.issuer_name(scenario),
        "warm_up": rival.warm_up,
        "interleaved": True,
    }
    run = Run(scenario, joined(rival.turns), facts)
    if scenario == "paced":
        run.facts.update(fps=rival.fps, dropped=run.samples.dropped)
    context = {**rival.context, "command": " ".join(sys.argv), "harness_ms": None}
    return assembled([run], watch, context, origin, interrupted=interrupted)
