"""`compare`: the same pictures through several models."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from edgeinfer import backends, given, machine, sources
from edgeinfer.comparing.agreement import agreements
from edgeinfer.comparing.comparison import Comparison
from edgeinfer.comparing.models import named
from edgeinfer.errors import UsageError
from edgeinfer.profiling import sensors
from edgeinfer.progress import silent
from edgeinfer.tuning.entrants import Entrant
from edgeinfer.tuning.figures import doubts, figures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.comparing.models import Model
    from edgeinfer.progress import Say

SCENARIO, TURNS = "single-stream", 5
# the most pictures that models are timed on: they lie in each one's memory
TIMED = 8


def compare(
    bundles: Sequence[str],
    source: str | Path,
    *,
    seconds: float = 3.0,
    plan: bool = True,
    device: str = "auto",
    say: Say = silent,
    on_error: sources.OnError = sources.refuse,
) -> Comparison:
    """Run every bundle on the pictures of `source`, and time each for `seconds`, turn by turn.

    A bundle is a path, or `path@backend`, `path@precision`, `path@backend,precision`. A model that crashes or hangs
    has a fault in the comparison, and the rest goes on. A picture that cannot be read goes to `on_error`, and is left
    out. Ctrl-C gives what there is, marked partial. Raises what `load` raises before anything runs, SourceError.
    """
    seconds = given.above_zero("seconds", seconds)
    pictures = readable(source, on_error)
    found = Comparison(named(list(bundles), plan=plan, device=device), pictures)
    try:
        for model in found.models:
            say(f"results of {model.title}")
            entrant = Entrant(model.bundle, model.choice, "answers", pictures, device, thorough=False)
            with model.attempt(), closing(entrant):
                entrant.wait_ready()
                model.found = entrant.answers()
        _time(found, seconds, device, say)
    except KeyboardInterrupt:
        found.partial = True
    found.agreements = agreements(found.models)
    return found


def readable(source: str | Path, on_error: sources.OnError) -> list[Path]:
    """The pictures of a source, as `sources.readable`. Raises SourceError, UsageError."""
    paths = sources.files(source)
    if not paths:
        raise UsageError(f"{source} is a camera or a stream, which shows each model something else")
    return sources.readable(paths, on_error)


def _time(found: Comparison, seconds: float, device: str, say: Say) -> None:
    """Each in a process of its own, in turns of random order: what drifts meets all alike."""
    pictures = found.pictures[:: -(-len(found.pictures) // TIMED)]
    with ExitStack() as stack:
        running: list[tuple[Model, Entrant]] = []
        for model in found.models:
            if not model.fault:
                say(f"loading {model.title}")
                entrant = Entrant(model.bundle, model.choice, "turns", pictures, device, scenario=SCENARIO)
                stack.callback(entrant.close)
                running.append((model, entrant))
                with model.attempt():
                    entrant.wait_ready()
        probes = sensors.here([entrant.pid for _, entrant in running], machine.ordinal(device) or 0)
        watch = stack.enter_context(sensors.Sensors(probes))
        try:
            _turns(running, seconds, say)
        finally:
            for model, entrant in running:
                model.figures = figures(entrant)
            kinds = {backends.load(model.choice.backend).device for model, _ in running}
            found.doubts = doubts([one for _, one in running], watch, SCENARIO, "gpu" if "gpu" in kinds else "cpu")


def _turns(running: Sequence[tuple[Model, Entrant]], seconds: float, say: Say) -> None:
    chance = random.Random(0)  # noqa: S311 - an order, no secret
    for turn in range(TURNS):
        say(f"turn {turn + 1} of {TURNS}")
        for model, entrant in chance.sample(running, len(running)):
            if not model.fault:
                with model.attempt():
                    entrant.turn(seconds / TURNS)
