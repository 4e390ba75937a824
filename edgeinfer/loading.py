"""`load`: the one place where a bundle, a device and a backend meet."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import ExitStack
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer import backends, devices, given, ladder, machine, plans, quota, verdicts
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BundleError, DeviceError, EngineError, SpecError, UsageError
from edgeinfer.keys import Refusal
from edgeinfer.ladder import Rung
from edgeinfer.lanes import Lane
from edgeinfer.pipeline import Pipeline
from edgeinfer.plans import Choice
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgeinfer.backends import Engine
    from edgeinfer.devices import Device
    from edgeinfer.golden import GoldenReport
    from edgeinfer.spec import ModelSpec

LOG = logging.getLogger(__name__)
BUILDS = ("never", "background")


class OpenOptions(NamedTuple):
    """How a choice is opened.

    `threads` of each context, 0 for the choice's own, and `contexts` at the same time, at least; `self_test`: on a GPU
    only once the golden samples were found.
    """

    threads: int = 0
    contexts: int = 1
    self_test: bool = True
    gpu: int | None = None  # which one; None: the first, where it is a GPU at all


def load(
    bundle: str | Path | Bundle,
    backend: str = "auto",
    precision: str = "auto",
    *,
    conf: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    top: int | None = None,
    threads: int = 0,
    contexts: int = 1,
    plan: bool | Choice = True,
    self_test: bool = True,
    build: str = "never",
    device: str = "auto",
) -> Pipeline:
    """Open a bundle, ready to run: `model(image)`.

    `backend` and `precision` narrow the choice; where neither is given, what `edgeinfer tune` found best for this
    `device` runs, unless `plan` is False; a `plans.Choice` there is run as it stands. `conf`, `iou`, `limit`
    (detectors) and `top` (classifiers) replace the bundle's own numbers; `threads` 0 leaves the count to the
    backend, or to the CPU quota of the process (`edgeinfer.quota`) where it has one; `contexts` is how many calls may
    run at the same time, at least: a plan may ask for more. On a GPU an engine must first find the bundle's golden
    samples, once on each machine, unless `self_test` is False. `build` "background": where no engine fits this GPU
    exactly, one is built while another serves, and takes over when it is ready and tested. `device` "gpu:1" is the
    second GPU in CUDA's order, "gpu" the first, and neither is ever the CPU. An engine that had to be passed by is
    logged as a warning. Raises BundleError, SpecError, BackendUnavailable, EngineError, DeviceError, UsageError.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    for name, count, least in (("threads", threads, 0), ("contexts", contexts, 1)):
        given.check_whole(name, count, least)
        if count > quota.most_threads():
            told = f"{count} {name} are more than the {quota.most_threads()} allowed on {machine.cores()} CPUs"
            raise UsageError(told, hint="as many as CPUs are the most that help")
    if build not in BUILDS:
        raise UsageError(f"build {build!r} is not one of {', '.join(BUILDS)}")
    spec = with_thresholds(opened.spec, conf=conf, iou=iou, limit=limit, top=top)
    options = OpenOptions(threads, contexts, self_test, machine.ordinal(device))
    pipeline = _first_that_runs(opened, spec, options, backend=backend, precision=precision, plan=plan)
    if build == "background":
        from edgeinfer import building

        pipeline.upgrade = building.start(opened, pipeline, precision, options.gpu or 0, partial(_exact, spec, options))
    return pipeline


def choose(
    bundle: Bundle, backend: str = "auto", precision: str = "auto", *, plan: bool = True, device: str = "auto"
) -> Choice:
    """What `load` would try first; imports its library on the way. Raises BackendUnavailable, UsageError."""
    refused: list[Rung] = []
    options = OpenOptions(gpu=machine.ordinal(device))
    for choice, _ in _candidates(bundle, backend, precision, plan, refused, options=options):
        return choice
    raise ladder.nothing_runs(bundle, refused)


def _candidates(
    bundle: Bundle, backend: str, precision: str, plan: bool | Choice, refused: list[Rung], *, options: OpenOptions
) -> Iterator[tuple[Choice, str]]:
    """What can be tried, best first, and the words of the plan that says so; `refused` takes the other rungs."""
    if isinstance(plan, Choice):
        yield plan, ""
        return
    unasked = (backend, precision) == ("auto", "auto")
    found = plans.current(bundle, options.gpu) if plan and unasked else None
    if found:
        yield found.choice, found.words()
    for rung in ladder.climb(bundle, backend, precision, quarantine=options.self_test, gpu=options.gpu):
        if rung.reason:
            refused.append(rung)
        else:
            yield Choice.of(rung), ""


def _first_that_runs(
    bundle: Bundle, spec: ModelSpec, options: OpenOptions, *, backend: str, precision: str, plan: bool | Choice
) -> Pipeline:
    """An engine that cannot be opened, or finds the wrong things, gives way to the next, unless it was asked for."""
    refused: list[Rung] = []
    asked = backend != "auto" or isinstance(plan, Choice)
    for choice, words in _candidates(bundle, backend, precision, plan, refused, options=options):
        try:
            return open_choice(bundle, spec, choice, options, plan=words)
        except (EngineError, DeviceError, BundleError) as error:
            # a compiled engine is a copy of what the bundle's ONNX holds: without it there is another way
            if asked or choice.backend not in ladder.COMPILED:
                raise
            LOG.warning("%s is passed by: %s", choice.name, error)
            reason = Refusal("cannot-open", str(error), hint=error.hint)
            refused.append(Rung(choice.backend, bundle.spec.artifact(choice.artifact), reason))
    raise ladder.nothing_runs(bundle, refused)


def open_choice(bundle: Bundle, spec: ModelSpec, choice: Choice, options: OpenOptions, plan: str = "") -> Pipeline:
    """What this choice names, opened; on a GPU only after its golden samples were found, which is asked once a machine.

    `spec` is the bundle's, perhaps with other thresholds. Raises BundleError, EngineError, DeviceError.
    """
    if options.self_test:
        _test_once(bundle, choice, options.gpu or 0)
    lanes = _lanes(bundle, spec, choice, options)
    return Pipeline(spec, lanes, backend=choice.backend, artifact=choice.artifact, batch=choice.batch, plan=plan)


def _test_once(bundle: Bundle, choice: Choice, gpu: int) -> None:
    engine, artifact = backends.load(choice.backend), bundle.spec.artifact(choice.artifact)
    if engine.device == "cpu" or artifact is None or not bundle.spec.golden:
        return
    known = verdicts.read(artifact, engine.library, machine.gpu(gpu))
    failed = "" if known and known.passed else known.detail if known else _faults(examine(bundle, choice, gpu))
    if failed:
        raise EngineError(
            f"{choice.name} failed its self-test: {failed}",
            hint=f"it is quarantined here; edgeinfer verify {quote(str(bundle.path))} tries it again",
        )


def examine(bundle: Bundle, choice: Choice, gpu: int = 0) -> list[GoldenReport]:
    """Run the bundle's golden samples on this choice, now; on a GPU, of this number, the verdict is remembered."""
    from edgeinfer import golden

    artifact = bundle.spec.artifact(choice.artifact)
    assert artifact
    spec = with_thresholds(bundle.spec, conf=golden.lowest_score(bundle.spec))
    with open_choice(bundle, spec, choice, OpenOptions(self_test=False, gpu=gpu)) as pipeline:
        reports = golden.check(pipeline, bundle, artifact.precision)
    engine = backends.load(choice.backend)
    if engine.device != "cpu":
        verdicts.write(artifact, engine.library, machine.gpu(gpu), _faults(reports))
    return reports


def _faults(reports: list[GoldenReport]) -> str:
    return "; ".join([f"{report.image}: {report.detail}" for report in reports if not report.passed][:3])


def _exact(spec: ModelSpec, options: OpenOptions, bundle: Bundle, precision: str) -> Pipeline | None:
    """The engine that fits this GPU exactly, opened and tested; None if the bundle has none."""
    fresh = dataclasses.replace(spec, artifacts=bundle.spec.artifacts)
    for rung in ladder.climb(bundle, "auto", precision, gpu=options.gpu):
        if rung.exact:
            return open_choice(bundle, fresh, Choice.of(rung), options)
    return None


def _lanes(bundle: Bundle, spec: ModelSpec, choice: Choice, options: OpenOptions) -> list[Lane]:
    engine_class = backends.load(choice.backend)
    where = {} if engine_class.device == "cpu" else {"ordinal": options.gpu or 0}
    take = partial(devices.load(engine_class.device), spec, **where)
    artifact = bundle.spec.artifact(choice.artifact)
    path = bundle.artifact_file(artifact) if artifact else bundle.path
    threads, contexts = options.threads or choice.threads or quota.threads(), max(options.contexts, choice.contexts)
    settings: dict[str, Any] = {"threads": threads, "contexts": contexts, **choice.settings}
    first = partial(engine_class, path, spec, **settings)
    lanes: list[Lane] = []
    with ExitStack() as undo:
        for _ in range(contexts):
            lanes.append(_lane(take, lanes[0].engine.fork if lanes else first))
            undo.callback(lanes[-1].close)
        undo.pop_all()
    return lanes


def _lane(take: Callable[[], Device], make: Callable[[Device], Engine]) -> Lane:
    """A device and an engine on it, or nothing left of either."""
    with ExitStack() as undo:
        device = take()
        undo.callback(device.close)
        engine = make(device)
        undo.callback(engine.close)
        lane = Lane(device, engine)
        undo.pop_all()
    return lane


def with_thresholds(
    spec: ModelSpec,
    *,
    conf: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    top: int | None = None,
) -> ModelSpec:
    """The spec with these numbers in place of its own. Raises UsageError."""
    boxes: dict[str, Any] = {"conf": conf, "iou": iou, "limit": limit}
    classes: dict[str, Any] = {"top": top}
    asked, others = (boxes, classes) if isinstance(spec.decode, Boxes) else (classes, boxes)
    stray = [name for name, value in others.items() if value is not None]
    if stray:
        raise UsageError(f"{', '.join(stray)} does not go with task {spec.task}")
    fields, changes = {"conf": "score", "top": "k"}, {}
    for name, value in asked.items():
        if value is not None:
            check = given.check_number if name in ("conf", "iou") else given.check_whole
            check(name, value, 0)
            changes[fields.get(name, name)] = value
    try:
        decode = dataclasses.replace(spec.decode, **changes)
    except SpecError as error:
        raise UsageError(str(error)) from error
    if isinstance(spec.decode, Boxes) and isinstance(decode, Boxes) and spec.decode.where == "graph":
        _check_baked(spec.decode, decode)
    return dataclasses.replace(spec, decode=decode)


def _check_baked(baked: Boxes, asked: Boxes) -> None:
    """What a model has suppressed itself can be thinned out further, and not brought back."""
    wrong = {
        f"conf {asked.score:g} is below the {baked.score:g}": asked.score < baked.score,
        f"iou {asked.iou:g} is not the {baked.iou:g}": asked.iou != baked.iou,
        f"limit {asked.limit} is above the {baked.limit}": asked.limit > baked.limit,
    }
    for what, found in wrong.items():
        if found:
            raise UsageError(
                f"{what} that this model suppresses its boxes by in its own graph",
                hint="export it again with --nms runtime, or with that number beside --nms graph",
            )
