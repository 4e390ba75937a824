"""The race: heats that the slower half leaves, and a final in which all run turn by turn."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeinfer import machine
from edgeinfer.profiling import sensors
from edgeinfer.profiling.samples import medians
from edgeinfer.tuning.entrants import Entrant
from edgeinfer.tuning.figures import doubts, figures
from edgeinfer.tuning.outcome import DONE, Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.bundle import Bundle
    from edgeinfer.progress import Say

# objective -> the scenario it is measured in
OBJECTIVES = {"latency": "single-stream", "throughput": "offline", "energy": "single-stream", "memory": "single-stream"}
FINALISTS, TURNS = 4, 10
# a heat's share of the final's seconds, doubled with each heat, and the least it may be
HEAT, HEAT_S = 0.05, 0.3


@dataclass(eq=False)
class Race:
    """Those still `running` on these pictures, each to be measured for `seconds` in the final; `baseline` always is.

    In the end: the `finalists`, and the `doubts` about the machine while they ran.
    """

    bundle: Bundle
    pictures: Sequence[Path]
    objective: str
    seconds: float
    running: list[Row]
    baseline: Row | None
    say: Say
    device: str = "auto"
    finalists: list[Row] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def scenario(self) -> str:
        return OBJECTIVES[self.objective]

    def heats(self) -> None:
        """Let each run alone for a short while; the slower half leaves, until a final's worth is left."""
        seconds, heat = max(HEAT_S, self.seconds * HEAT), 1
        while len(self.running) > FINALISTS:
            for place, row in enumerate(self.running, 1):
                self.say(f"heat {heat}, {place} of {len(self.running)}: {row.choice.name}")
                self._alone(row, seconds, heat)
            self.running = [row for row in self.running if not row.state]
            self._cut(max(FINALISTS, (len(self.running) + 1) // 2), heat)
            seconds, heat = seconds * 2, heat + 1

    def _alone(self, row: Row, seconds: float, heat: int) -> None:
        with row.attempt(), closing(self._entrant(row)) as entrant:
            self._begin(row, entrant)
            entrant.turn(seconds)
            row.figures, row.round = figures(entrant), f"heat {heat}"
            if row.figures is None:
                row.leave("failed", f"not one call was done in {seconds:g} s")

    def _entrant(self, row: Row) -> Entrant:
        return Entrant(self.bundle, row.choice, "turns", self.pictures, self.device, scenario=self.scenario)

    def _begin(self, row: Row, entrant: Entrant) -> None:
        ready = entrant.wait_ready()
        row.load_ms, row.device = ready["load_ms"], ready["device"]

    def _cut(self, places: int, heat: int) -> None:
        if not self.running:
            return
        ordered = sorted(self.running, key=self._cost)
        stay = ordered[:places]
        if self.baseline in ordered and self.baseline not in stay:
            stay[-1] = self.baseline
        for row in ordered:
            if row not in stay:
                row.leave("eliminated", f"after heat {heat}")
        self.running = stay

    def _cost(self, row: Row) -> float:
        assert row.figures
        # watts need longer than a heat to be read: until the final, the faster is taken for the more frugal
        return row.figures.cost("latency" if self.objective == "energy" else self.objective)

    def final(self) -> None:
        """All at once and turn by turn in random order, so that whatever drifts meets all alike."""
        with ExitStack() as stack:
            racing: list[tuple[Row, Entrant]] = []
            for row in self.running:
                self.say(f"final: loading {row.choice.name}")
                entrant = stack.enter_context(closing(self._entrant(row)))
                with row.attempt():
                    self._begin(row, entrant)
                    racing.append((row, entrant))
            probes = sensors.here([entrant.pid for _, entrant in racing], machine.ordinal(self.device) or 0)
            watch = stack.enter_context(sensors.Sensors(probes))
            try:
                self._turns(racing)
            finally:
                self._close(racing, watch)

    def _turns(self, racing: Sequence[tuple[Row, Entrant]]) -> None:
        chance = random.Random(0)  # noqa: S311 - an order, no secret
        for turn in range(TURNS):
            self.say(f"final: turn {turn + 1} of {TURNS}")
            for row, entrant in chance.sample(racing, len(racing)):
                if not row.state:
                    with row.attempt():
                        entrant.turn(self.seconds / TURNS)

    def _close(self, racing: Sequence[tuple[Row, Entrant]], watch: sensors.Sensors) -> None:
        turned = [(row, entrant) for row, entrant in racing if not row.state and entrant.turns]
        for row, entrant in turned:
            row.figures, row.round = figures(entrant, watch, row.device), "final"
            row.turns_ms = medians([turn.samples for turn in entrant.turns])
            if row.figures is None:
                row.leave("failed", "not one call was done in its turns")
            else:
                row.state = DONE
                self.finalists.append(row)
        device = turned[0][0].device if turned else "cpu"
        self.doubts = doubts([entrant for _, entrant in turned], watch, self.scenario, device)
