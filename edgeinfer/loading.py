"""`load`: the one place where a bundle, a device and a backend meet."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeinfer import backends, devices, ladder, plans
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BackendUnavailable, EdgeInferError, SpecError, UsageError
from edgeinfer.pipeline import Lane, Pipeline
from edgeinfer.plans import Choice
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeinfer.backends import Engine
    from edgeinfer.devices import Device
    from edgeinfer.spec import ModelSpec


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
) -> Pipeline:
    """Open a bundle, ready to run: `model(image)`.

    `backend` and `precision` narrow the choice; where neither is given, what `edgeinfer tune` found best on this
    machine runs, unless `plan` is False; a `plans.Choice` there is run as it stands. `conf`, `iou`, `limit`
    (detectors) and `top` (classifiers) replace the bundle's own numbers; `threads` 0 leaves the count to the
    backend; `contexts` is how many calls may run at the same time. Raises BundleError, SpecError,
    BackendUnavailable, EngineError, UsageError.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if contexts < 1:
        raise UsageError(f"contexts {contexts} is below 1")
    spec = _with_thresholds(opened.spec, conf=conf, iou=iou, limit=limit, top=top)
    choice, planned = choose(opened, backend, precision, plan)
    lanes = _lanes(opened, spec, dataclasses.replace(choice, threads=threads or choice.threads), contexts)
    return Pipeline(spec, lanes, backend=choice.backend, artifact=choice.artifact, batch=choice.batch, plan=planned)


def choose(bundle: Bundle, backend: str, precision: str, plan: bool | Choice) -> tuple[Choice, str]:
    """What `load` would run, and the plan that says so in words, if one does; its library is imported on the way."""
    if isinstance(plan, Choice):
        return plan, ""
    found = plans.current(bundle) if plan and (backend, precision) == ("auto", "auto") else None
    return (found.choice, found.words()) if found else (Choice.of(_choose(bundle, backend, precision)), "")


def _lanes(bundle: Bundle, spec: ModelSpec, choice: Choice, contexts: int) -> list[Lane]:
    engine_class = backends.load(choice.backend)
    device_class = devices.load(engine_class.device)
    artifact = choice.artifact_in(bundle)
    path = bundle.artifact_file(artifact) if artifact else bundle.path
    settings: dict[str, Any] = {"threads": choice.threads, **choice.settings}
    first = partial(engine_class, path, spec, **settings)
    lanes: list[Lane] = []
    try:
        for _ in range(contexts):
            make = lanes[0].engine.fork if lanes else first
            lanes.append(_lane(device_class, spec, make))
    except EdgeInferError:
        for lane in lanes:
            lane.close()
        raise
    return lanes


def _lane(device_class: type[Device], spec: ModelSpec, make: Callable[[Device], Engine]) -> Lane:
    """A device and an engine on it, or nothing left of either."""
    with ExitStack() as undo:
        device = device_class(spec)
        undo.callback(device.close)
        engine = make(device)
        undo.callback(engine.close)
        lane = Lane(device, engine)
        undo.pop_all()
    return lane


def _choose(bundle: Bundle, backend: str, precision: str) -> ladder.Rung:
    tried = []
    for rung in ladder.climb(bundle, backend, precision):
        if not rung.reason:
            return rung
        tried.append(rung)
    reasons = "; ".join(f"{rung.name}: {rung.reason}" for rung in tried)
    raise BackendUnavailable(
        f"nothing here runs {bundle.path}: {reasons}",
        hint=f"edgeinfer info {bundle.path} lists what would run, and why not",
    )


def _with_thresholds(
    spec: ModelSpec, *, conf: float | None, iou: float | None, limit: int | None, top: int | None
) -> ModelSpec:
    boxes: dict[str, Any] = {"conf": conf, "iou": iou, "limit": limit}
    classes: dict[str, Any] = {"top": top}
    asked, others = (boxes, classes) if isinstance(spec.decode, Boxes) else (classes, boxes)
    stray = [name for name, value in others.items() if value is not None]
    if stray:
        raise UsageError(f"{', '.join(stray)} does not go with task {spec.task}")
    fields = {"conf": "score", "top": "k"}
    changes = {fields.get(name, name): value for name, value in asked.items() if value is not None}
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
