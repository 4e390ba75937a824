"""`profile`: a bundle measured in one scenario after another, with the sensors beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeinfer import given, machine, quota
from edgeinfer.bundle import Bundle
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.loading import load
from edgeinfer.profiling import cold, context, scenarios, sensors
from edgeinfer.profiling import layers as layering
from edgeinfer.profiling.report import SCHEMA, Report
from edgeinfer.profiling.samples import Load
from edgeinfer.profiling.scenarios import Asked, Run
from edgeinfer.profiling.statistics import distribution
from edgeinfer.profiling.subject import BOUNDARIES, Subject, listed, picture_set
from edgeinfer.profiling.validity import judge
from edgeinfer.progress import silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.pipeline import Pipeline
    from edgeinfer.profiling.sensors import Sensors
    from edgeinfer.profiling.subject import PictureSet
    from edgeinfer.progress import Say

HARNESS_S, HARNESS_MS = 0.2, 0.01


def profile(
    bundle: str | Path | Bundle,
    backend: str = "auto",
    precision: str = "auto",
    *,
    scenario: str | Sequence[str] = "single-stream",
    boundary: str = "pipeline",
    seconds: float = 10.0,
    source: str | Path | Sequence[str | Path] = (),
    fps: float = 30.0,
    latency_bound_ms: float | None = None,
    threads: int = 0,
    layers: bool = False,
    plan: bool = True,
    device: str = "auto",
    say: Say = silent,
) -> Report:
    """Measure a bundle on this machine.

    `scenario` is one or several of single-stream, multi-stream, server, offline, paced, cold; `boundary` is engine,
    pipeline or file; `source` names pictures (else the bundle's golden ones), of which at most 128 are taken, evenly
    spread; `fps` is for paced, `latency_bound_ms` for server; `plan` and `device` as of `load`; with `layers`, layers
    are timed after all else. Each scenario takes about `seconds`, a server three to six times that. Ctrl-C gives a
    report of what there is, marked partial. `say` hears what goes on. Raises UsageError, and all that `load` and the
    model raise.
    """
    names = [scenario] if isinstance(scenario, str) else list(dict.fromkeys(scenario))
    for name in names or [""]:
        if name not in scenarios.NAMES:
            raise UsageError(f"scenario {name!r} is not one of {', '.join(scenarios.NAMES)}")
    if boundary not in BOUNDARIES:
        raise UsageError(f"boundary {boundary!r} is not one of {', '.join(BOUNDARIES)}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    asked = Asked(seconds, fps, latency_bound_ms)
    given.check_whole("threads", threads, 0)
    named = listed(source)
    pictures = picture_set(opened, named)
    loading: dict[str, Any] = {"backend": backend, "precision": precision, "threads": int(threads)}
    loading.update(plan=plan, device=device)
    gpu = machine.ordinal(device) or 0
    with load(opened, **loading) as model:
        again = {**loading, "bundle": str(opened.path), "source": named}
        session = _Session(model, boundary, pictures, asked, again, gpu, say)
        facts = described(opened, model, boundary, pictures, threads=int(threads), gpu=gpu)
        facts["harness_ms"] = harness_ms(opened, pictures)
        return session.report(names, facts, layers=layers)


@dataclass
class _Session:
    """A loaded model and how it is measured; `loading` is how new processes open it, whose numbers `children` takes."""

    model: Pipeline
    boundary: str
    pictures: PictureSet
    asked: Asked
    loading: dict[str, Any]
    gpu: int
    say: Say
    origin: float = field(default_factory=time.perf_counter)
    children: list[int] = field(default_factory=list)

    def _layers(self) -> dict[str, Any]:
        self.say("layers")
        inputs, _ = self.model.device.preprocess([self.pictures.pictures[0].image])
        return layering.record(self.model.engine, inputs)

    def report(self, names: Sequence[str], facts: dict[str, Any], *, layers: bool) -> Report:
        """Scenario by scenario, then the layers; what there is when Ctrl-C ends it."""
        runs: list[Run] = []
        found: dict[str, Any] = {}
        interrupted = False
        watch = sensors.Sensors(sensors.here(self.children, self.gpu))
        try:
            with watch:
                self._scenarios(names, runs)
            found = {"layers": self._layers()} if layers else {}
        except KeyboardInterrupt:
            interrupted = True
        if not interrupted and not any(run.samples.latency_ms for run in runs):
            raise EngineError("not a single sample was measured", hint="measure longer: --seconds 60")
        report = assembled(runs, watch, facts, self.origin, interrupted=interrupted)
        report.data.update(found)
        return report

    def _scenarios(self, names: Sequence[str], runs: list[Run]) -> None:
        """Each into `runs`. Raises KeyboardInterrupt where Ctrl-C ended one."""
        for name in names:
            runs.append(self._run(name))
            if runs[-1].samples.interrupted:
                raise KeyboardInterrupt

    def _run(self, name: str) -> Run:
        if name == "cold":
            self.say(f"cold: {cold.PROCESSES} processes or more")
            samples, later = cold.issue(self.asked.seconds, self.loading, self.children)
            facts = {"sample": scenarios.NAMES[name], "issuer": "edgeinfer, a process each", "warm_up": None}
            return Run(name, samples, {**facts, "seconds": self.asked.seconds, **later})
        subject = scenarios.subject_of(name, self.model, self.boundary, self.pictures.pictures)
        loaded = self.model.backend, self.model.artifact
        run = scenarios.measure(name, subject, self.asked, self.say)
        if loaded != (self.model.backend, self.model.artifact):
            now = f"{self.model.backend} {self.model.artifact}"
            run.samples.faults.append(f"{' '.join(loaded)} was replaced by {now} meanwhile")
        return run


def described(
    bundle: Bundle, model: Pipeline, boundary: str, pictures: PictureSet, *, threads: int, gpu: int
) -> dict[str, Any]:
    """The context of a report on this loaded model."""
    return {
        **context.describe(bundle, gpu),
        "backend": model.backend,
        "artifact": model.artifact or None,
        "plan": model.plan or None,
        "stage_by_stage": model.graph or None,
        "threads": threads or (model.plan and "the plan's") or quota.threads() or "the backend's choice",
        "contexts": model.contexts,
        "device_kind": model.engine.device,
        "boundary": boundary,
        "pictures": pictures.origin,
    }


def assembled(
    runs: Sequence[Run], watch: Sensors, facts: dict[str, Any], origin: float, *, interrupted: bool
) -> Report:
    """Runs, with what the sensors read during them, judged and summed up."""
    reasons, unchecked = ["interrupted: what follows is partial"] if interrupted else [], []
    summary = {}
    for run in runs:
        window = watch.between(run.samples.origin, run.samples.until)
        verdict = judge(run.scenario, run.samples, window, facts["device_kind"])
        reasons += [f"{run.scenario}: {reason}" for reason in verdict.reasons]
        unchecked += verdict.unchecked
        summary[run.scenario] = _summary(run, window, facts["device_kind"])
    return Report(
        {
            "schema": SCHEMA,
            "valid": not reasons,
            "partial": interrupted,
            "reasons": reasons,
            "unchecked": list(dict.fromkeys(unchecked)),
            "context": facts,
            "scenarios": {run.scenario: run.facts for run in runs},
            "summary": summary,
            "samples": {run.scenario: _samples(run, origin) for run in runs},
            "sensors": watch.record(origin),
        }
    )


def harness_ms(bundle: Bundle, pictures: PictureSet) -> float | None:
    """What the measurement itself adds to a sample (median, ms): an engine that does nothing, tensors to tensors."""
    issuer = scenarios.issuer_of("single-stream")
    with load(bundle, "null") as nothing:
        samples = issuer.issue(
            Load("single-stream", HARNESS_S, HARNESS_MS), Subject(nothing, "engine", pictures.pictures)
        )
    if samples.interrupted:
        raise KeyboardInterrupt
    return distribution(samples.latency_ms)["p50"]


def _summary(run: Run, window: sensors.Window, device: str) -> dict[str, Any]:
    samples = run.samples
    stages = {name: distribution(spans) for name, spans in samples.stages_ms.items()}
    joules, reason = _joules(run, window, device)
    return {
        "latency_ms": distribution(samples.latency_ms),
        "images": samples.images,
        "elapsed_s": samples.elapsed_s,
        "throughput_per_s": None if run.scenario == "cold" else samples.throughput,
        "stages_ms": stages,
        "joules_per_inference": joules,
        "joules_reason": reason,
    }


def _joules(run: Run, window: sensors.Window, device: str) -> tuple[dict[str, float] | None, str]:
    """Mean power while it ran over pictures a second, of each meter there is; it includes the idle machine's share."""
    if run.scenario == "cold":
        return None, "a process does more than its first inference"
    if "interleaved" in run.facts:
        return None, "two models shared the machine, turn by turn"
    found = {}
    for name in sensors.METERS[device]:
        watts = window.values(name)
        if watts and run.samples.throughput:
            found[name] = sum(watts) / len(watts) / run.samples.throughput
    return (found, "") if found else (None, "no sensor of power could be read during it")


def _samples(run: Run, origin: float) -> dict[str, Any]:
    """Raw and whole, times in seconds from the report's origin."""
    shift = run.samples.origin - origin
    return {
        "start_s": [round(shift + start, 6) for start in run.samples.start_s],
        "latency_ms": [round(span, 6) for span in run.samples.latency_ms],
        "stages_ms": {name: [round(span, 6) for span in spans] for name, spans in run.samples.stages_ms.items()},
    }
