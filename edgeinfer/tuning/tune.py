"""`tune`: every candidate held to the accuracy budget, then raced; the winner kept as the bundle's plan."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer import backends, datasets, given, machine, plans
from edgeinfer.bundle import SPEC_FILE, Bundle, sha256_of
from edgeinfer.errors import BackendUnavailable, BundleError, EdgeInferError, UsageError
from edgeinfer.loading import choose
from edgeinfer.profiling import sensors
from edgeinfer.progress import silent
from edgeinfer.tuning import candidates
from edgeinfer.tuning.budget import Budget
from edgeinfer.tuning.outcome import Outcome, Row
from edgeinfer.tuning.race import OBJECTIVES, Race

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.datasets import Dataset
    from edgeinfer.plans import Choice
    from edgeinfer.progress import Say

LOG = logging.getLogger(__name__)
# pictures that candidates are timed on, evenly spread: they lie in each one's memory
TIMED = 8


@dataclass
class Asked:
    """What is to be found: `budget` in points of mAP or top-1, or in percent of agreement without labels."""

    objective: str = "latency"
    budget: float = 1.0
    seconds: float = 10.0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"objective {self.objective!r} is not one of {', '.join(OBJECTIVES)}")
        self.budget, self.seconds = given.percent("budget", self.budget), given.above_zero("seconds", self.seconds)
        self.gpu = machine.ordinal(self.device)


def tune(
    bundle: str | Path | Bundle,
    *,
    images: str | Path | None = None,
    objective: str = "latency",
    budget: float = 1.0,
    seconds: float = 10.0,
    device: str = "auto",
    say: Say = silent,
) -> Outcome:
    """Find the best way to run a bundle here, and keep it as its plan.

    `images`: a folder of pictures or a data set, else the bundle's golden pictures; with labels, `budget` is
    points of mAP or top-1 that may be lost, without, percent of what the float32 reference finds. Each finalist
    is measured for `seconds`. The plan is for this `device`, as of `load`. Ctrl-C gives what there is, marked partial,
    and keeps no plan. Raises what `load` raises, DatasetError, UsageError; candidates that fail are in the outcome.
    """
    asked = Asked(objective, budget, seconds, device)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    model = sha256_of(opened.path / SPEC_FILE)
    baseline, reference = choose(opened, plan=False, device=device), candidates.reference(opened)
    dataset = _pictures(opened, images)
    if objective == "energy" and not _has_power(backends.load(baseline.backend).device, asked.gpu or 0):
        raise BackendUnavailable(
            "no sensor of power can be read here", hint="edgeinfer profile says which, and why; or --objective latency"
        )
    outcome = Outcome(opened, objective, asked.budget, str(dataset.path), reference.name, device)
    try:
        _compete(outcome, dataset, asked=asked, baseline=baseline, reference=reference, say=say)
    except KeyboardInterrupt:
        outcome.partial = True
    if outcome.finalists and not outcome.partial:
        outcome.choose()
        _keep(outcome, model)
    return outcome


def _compete(
    outcome: Outcome, dataset: Dataset, *, asked: Asked, baseline: Choice, reference: Choice, say: Say
) -> None:
    """Accuracy first, then the race; the outcome has all that was found, also when it ends early."""
    say(f"accuracy: the reference, {reference.name}")
    budget = Budget(outcome.bundle, dataset, asked.budget, reference, asked.device)
    readable = budget.readable
    if len(readable) < len(dataset):
        LOG.warning("%d of %d pictures cannot be read, and are left out", len(dataset) - len(readable), len(dataset))
    running = []
    for kind in candidates.kinds(outcome.bundle, asked.gpu):
        say(f"accuracy: {kind.name}")
        held = budget.held(kind)
        if held.state:
            outcome.rows.append(held)
            continue
        choices = candidates.variants(kind, outcome.bundle.spec.batch, many=asked.objective == "throughput")
        running += [Row(choice, accuracy=held.accuracy) for choice in choices]
    outcome.rows += running
    outcome.baseline = next((row for row in outcome.rows if row.choice == baseline), None)
    pictures = [sample.path for sample in readable.spread(TIMED).samples]
    race = Race(outcome.bundle, pictures, asked.objective, asked.seconds, running, outcome.baseline, say, asked.device)
    try:
        race.heats()
        race.final()
    finally:
        outcome.finalists, outcome.doubts = race.finalists, race.doubts


def _keep(outcome: Outcome, model: str) -> None:
    """The winner as the plan of the bundle, whose model.json had this hash when its candidates were found."""
    assert outcome.winner
    gpu = machine.ordinal(outcome.device)
    outcome.plan = plans.Plan(
        outcome.winner.choice,
        dt.datetime.now(dt.timezone.utc).date().isoformat(),
        outcome.objective,
        outcome.budget,
        bundle=model,
        here=plans.fingerprint(gpu),
        doubts=tuple(outcome.doubts),
    )
    try:
        if sha256_of(outcome.bundle.path / SPEC_FILE) != model:
            raise BundleError(f"{outcome.bundle.path} was exported again while it was tuned", hint="tune it again")
        outcome.plan_file = plans.write(outcome.plan, outcome.bundle, gpu)
    except EdgeInferError as error:
        outcome.unkept = error
    except OSError as error:
        outcome.unkept = EdgeInferError(str(error), hint="check free space, and that XDG_STATE_HOME is yours")


def _pictures(bundle: Bundle, images: str | Path | None) -> Dataset:
    if images is not None:
        return datasets.read(images, bundle.spec)
    golden = [bundle.file(sample.image) for sample in bundle.spec.golden]
    if not golden:
        raise UsageError(
            f"{bundle.path} has no golden pictures to measure accuracy on", hint="give some: --images FOLDER"
        )
    return datasets.unlabelled(bundle.path, golden, bundle.spec.labels)


def _has_power(device: str, gpu: int) -> bool:
    with sensors.Sensors(sensors.here(gpu=gpu)) as watch:
        pass
    return any(name in reading.fields for reading in watch.readings for name in sensors.METERS[device])
