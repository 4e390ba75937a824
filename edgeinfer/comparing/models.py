"""One side of a comparison: a bundle, and how it runs."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import backends
from edgeinfer.bundle import Bundle
from edgeinfer.errors import UsageError
from edgeinfer.loading import choose
from edgeinfer.profiling.child import Failed
from edgeinfer.spec import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.plans import Choice
    from edgeinfer.results import Result
    from edgeinfer.tuning.figures import Figures


@dataclass(eq=False)
class Model:
    """A bundle and the choice that runs it; then what it found, picture by picture, and what it took.

    `fault` says why it did not come to the end.
    """

    bundle: Bundle
    choice: Choice
    name: str
    found: list[Result | None]
    device: str = "auto"
    figures: Figures | None = None
    fault: str = ""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """It has a fault where its process fails within."""
        try:
            yield
        except Failed as failure:
            self.fault = str(failure)

    @property
    def task(self) -> str:
        return self.bundle.spec.task

    @property
    def title(self) -> str:
        """`yolov5n (ov model.int8.onnx)`."""
        return f"{self.name} ({self.choice.name})"

    def facts(self) -> dict[str, Any]:
        """What is known of it without running it; None where the bundle does not say."""
        spec, artifact = self.bundle.spec, self.bundle.spec.artifact(self.choice.artifact)
        path = self.bundle.path / artifact.file if artifact else None
        return {
            "name": self.name,
            "bundle": str(self.bundle.path),
            "backend": self.choice.backend,
            "artifact": self.choice.artifact or None,
            "how": self.choice.name,
            "precision": artifact.precision if artifact else None,
            "task": spec.task,
            "classes": len(spec.labels),
            "parameters": spec.provenance.parameters or None,
            "gflops": spec.provenance.gflops or None,
            "license": spec.provenance.license or None,
            "bytes": path.stat().st_size if path else None,
            "accuracy": dict(artifact.accuracy) if artifact else {},
        }


def named(texts: list[str], *, plan: bool = True, device: str = "auto") -> list[Model]:
    """`BUNDLE`, or `BUNDLE@WAYS` with a backend, a precision or both (`engines/yolov5n@ov,int8`), each as it would run.

    Names that meet are told apart by numbers. Raises BundleError, SpecError, BackendUnavailable, UsageError.
    """
    models = [_model(text, plan=plan, device=device) for text in texts]
    tally: dict[str, int] = {}
    for model in models:
        tally[model.name] = tally.get(model.name, 0) + 1
        if tally[model.name] > 1:
            model.name = f"{model.name} #{tally[model.name]}"
    return models


def _model(text: str, *, plan: bool, device: str) -> Model:
    place, ways = _split(text)
    backend, precision = "auto", "auto"
    for way in ways:
        if way in PRECISIONS:
            precision = way
        elif way in backends.names():
            backend = way
        else:
            raise UsageError(
                f"{text}: {way!r} is neither a backend ({', '.join(backends.names())}) "
                f"nor a precision ({', '.join(PRECISIONS)})",
                hint="for example engines/yolov5n@ov,int8",
            )
    bundle = Bundle.open(place)
    choice = choose(bundle, backend, precision, plan=plan, device=device)
    return Model(bundle, choice, bundle.spec.name, [], device)


def _split(text: str) -> tuple[str, list[str]]:
    found = re.fullmatch(r"(.+)@([\w,-]+)", text)
    if found is None or Path(text).exists():
        return text, []
    return found[1], found[2].split(",")
