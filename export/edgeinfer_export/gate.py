"""The accuracy gate: no artifact leaves that is further from float32 than its budget, and each carries what it scored.

An artifact over its budget is made again with the layers that it suffers most from left in float32, or for TensorRT in
float16, one after another; if half of them do not help, it is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer import accuracy, backends, sources
from edgeinfer.bundle import sha256_of
from edgeinfer.devices.cpu import Device
from edgeinfer.errors import EngineError, SourceError
from edgeinfer.lanes import Lane
from edgeinfer.loading import with_thresholds
from edgeinfer.pipeline import Pipeline
from edgeinfer.spec import Artifact, Boxes, TopK
from edgeinfer_export import forms, modelfile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeinfer.datasets import Dataset
    from edgeinfer.spec import ModelSpec
    from edgeinfer_export.forms import Form, Ranges

    Outputs = list[dict[str, NDArray[Any]]]

BUDGET = 1.0
# pictures whose raw outputs are compared, and by which a layer's sensitivity is measured
PROBES = 4
# without labels: where no score moves by more than this, answers that change lie on a knife's edge
STEADY = 0.01
# and else most answers that change do not change the score; so many points of them count as one of accuracy
CHANGED = 5.0


@dataclass(frozen=True)
class Measured:
    """An artifact beside float32. `errors`: by output, the root of the squared error over that of the squares.

    `drift`: the most that any score (0-1), whether it leads to an answer or not, has moved; infinite where the model
    shows no such scores. `comparison` is None where the outputs hold values that are not finite.
    """

    errors: dict[str, float]
    drift: float
    comparison: accuracy.Comparison | None

    @property
    def loss(self) -> float:
        """Points lost: of map50_95 or top1 where there are labels, else of agreement, by the rule above."""
        one = self.comparison
        if one is None:
            return math.inf
        if one.difference is not None:
            return one.lost
        if self.drift <= STEADY:
            return 0.0
        changed = one.lost if one.compared else 100 * max(self.errors.values())
        return changed / CHANGED

    def numbers(self, task: str) -> dict[str, float]:
        """What goes into model.json."""
        one = self.comparison
        assert one is not None
        found = {"images": float(one.images), "agreement": one.agreement}
        if one.difference is not None:
            found["map_delta" if task == "detect" else "top1_delta"] = one.difference
        found.update({f"error.{name}": error for name, error in self.errors.items()})
        return {name: float(f"{value:.4g}") for name, value in found.items()}


@dataclass(frozen=True)
class Attempt:
    """One try: the layers left in a higher precision, and what came of it."""

    kept: tuple[str, ...]
    measured: Measured


@dataclass(frozen=True)
class Trial:
    """All that was tried for a form; `artifact` is None if it was refused. `sensitivity`: by layer, worst first."""

    form: Form
    budget: float
    attempts: tuple[Attempt, ...]
    sensitivity: dict[str, float]
    artifact: Artifact | None

    @property
    def loss(self) -> float:
        """The least that was lost."""
        return min(attempt.measured.loss for attempt in self.attempts)

    def rows(self) -> list[tuple[str, ...]]:
        """A table of what was tried."""
        rows: list[tuple[str, ...]] = [
            (self.form.name, f"left in {self.form.rest}", "agreement", "loss, points", f"within {self.budget:g}")
        ]
        for attempt in self.attempts:
            one = attempt.measured
            agreement = f"{one.comparison.agreement:.3f}" if one.comparison else "not finite"
            added = f"+ {attempt.kept[-1]}" if attempt.kept else "nothing more"
            rows.append(("", added, agreement, f"{one.loss:.2f}", "yes" if one.loss <= self.budget else "no"))
        return rows

    def sensitivity_rows(self) -> list[tuple[str, ...]]:
        """A table of how much each layer alone moves the outputs."""
        return [("layer", "error alone"), *((name, f"{error:.4f}") for name, error in self.sensitivity.items())]


class Gate:
    """Holds what float32 says about the held-out pictures; artifacts are written to `folder` and measured there."""

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        reference: Path,
        heldout: Dataset,
        budget: float,
        *,
        on_error: sources.OnError = sources.refuse,
    ) -> None:
        self._folder, self._budget = folder, budget
        self._spec = with_thresholds(spec, **accuracy.thresholds(spec))
        faults: list[SourceError] = []
        with on_cpu(self._spec, reference) as pipeline:
            found = accuracy.predict(pipeline, heldout, on_error=faults.append)
            sources.leave_out(faults, len(heldout), on_error)
            self._heldout = heldout.where(result is not None for result in found)
            self._results = [result for result in found if result is not None]
            self._probes = [sources.picture(sample.path).image for sample in self._heldout.spread(PROBES).samples]
            self._outputs = self._raw(pipeline)

    def admit(self, model: Any, form: Form, ranges: Ranges | None) -> Trial:
        """Make `model` in this form, so that it stays within the budget; its file is there afterwards if it was."""
        layers = forms.groups(model)
        sensitivity: dict[str, float] = {}
        attempts = []
        for count in range(1 + len(layers) // 2):
            if count == 1:
                sensitivity = self._sensitivity(model, form, ranges, layers)
            kept = tuple(sensitivity)[:count]
            made = forms.make(model, form, ranges, {title for name in kept for title in layers[name]})
            file = self._write(made.model, form)
            attempts.append(Attempt(kept, self._measure(file)))
            if attempts[-1].measured.loss <= self._budget:
                how = {**made.how, **({form.rest: " ".join(kept)} if kept else {})}
                numbers = attempts[-1].measured.numbers(self._spec.task)
                artifact = Artifact(
                    file.name, "onnx", form.precision, sha256_of(file), form.flavor, made=how, accuracy=numbers
                )
                return Trial(form, self._budget, tuple(attempts), sensitivity, artifact)
        file.unlink()
        return Trial(form, self._budget, tuple(attempts), sensitivity, None)

    def _sensitivity(
        self, model: Any, form: Form, ranges: Ranges | None, layers: dict[str, set[str]]
    ) -> dict[str, float]:
        """How far the outputs move when one layer alone takes this form, worst first.

        Of a model that chooses its boxes, the scores: which box lies in which row jumps, whatever moved it.
        """
        found, exact = {}, [self._compared(one) for one in self._outputs]
        for name in layers:
            others = {title for other, titles in layers.items() if other != name for title in titles}
            made = forms.make(model, form, ranges, others, islands=False)
            file = self._write(made.model, form)
            with on_cpu(self._spec, file) as pipeline:
                moved = [self._compared(one) for one in self._raw(pipeline)]
            found[name] = max(_errors(exact, moved).values())
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _write(self, model: Any, form: Form) -> Path:
        file = self._folder / form.file
        modelfile.write(model, file)
        return file

    def _measure(self, file: Path) -> Measured:
        with on_cpu(self._spec, file) as pipeline:
            try:
                results, outputs = accuracy.predict(pipeline, self._heldout), self._raw(pipeline)
            except EngineError:
                return Measured({}, math.inf, None)
        comparison = accuracy.compare(self._heldout, self._results, results)
        return Measured(_errors(self._outputs, outputs), self._drift(outputs), comparison)

    def _raw(self, pipeline: Pipeline) -> Outputs:
        found = []
        for picture in self._probes:
            inputs, _ = pipeline.device.preprocess([picture] * self._spec.batch.min)
            found.append({name: np.array(value, np.float64) for name, value in pipeline.engine.run(inputs).items()})
        return found

    def _drift(self, outputs: Outputs) -> float:
        pairs = [(self._scores(one), self._scores(two)) for one, two in zip(self._outputs, outputs, strict=True)]
        drifts = [float(np.abs(one - two).max()) for one, two in pairs if one is not None and two is not None]
        return max(drifts, default=math.inf)

    def _scores(self, outputs: dict[str, NDArray[Any]]) -> NDArray[Any] | None:
        """The scores of every anchor or class, 0-1, before any is chosen; None of a model that chooses itself."""
        decode, raw = self._spec.decode, outputs[self._spec.outputs[0].name]
        if isinstance(decode, TopK):
            return _activated(raw, decode.activation)
        if decode.where == "graph" or decode.layout == "end2end":
            return None
        return raw[..., 4:] if decode.layout == "yolov5" else raw[:, 4:]

    def _compared(self, outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs, or of boxes that the model chooses their scores, best first."""
        decode, names = self._spec.decode, [output.name for output in self._spec.outputs]
        if isinstance(decode, Boxes) and decode.where == "graph":
            return {names[2]: outputs[names[2]]}
        if isinstance(decode, Boxes) and decode.layout == "end2end":
            return {names[0]: outputs[names[0]][..., 4]}
        return outputs


def on_cpu(spec: ModelSpec, file: Path) -> Pipeline:
    """The file on the CPU, whatever it is made for."""
    device = Device(spec)
    engine = backends.load("ort")(file, spec, device)
    return Pipeline(spec, [Lane(device, engine)], backend="ort", artifact=file.name)


def _errors(exact: Outputs, outputs: Outputs) -> dict[str, float]:
    """By output, of several pictures: the root of the squared error over that of the squares."""
    errors = {}
    for name in exact[0]:
        pairs = [(one[name], two[name]) for one, two in zip(exact, outputs, strict=True)]
        lost = sum(float(((one - two) ** 2).sum()) for one, two in pairs)
        size = sum(float((one**2).sum()) for one, _ in pairs)
        error = math.sqrt(lost / size) if size else math.sqrt(lost)
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


def _activated(raw: NDArray[Any], activation: str) -> NDArray[Any]:
    """Logits (n, classes) as scores."""
    if activation == "softmax":
        powers: NDArray[Any] = np.exp(raw - raw.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
        return powers
    scores: NDArray[Any] = 1 / (1 + np.exp(-raw.clip(-100))) if activation == "sigmoid" else raw
    return scores
