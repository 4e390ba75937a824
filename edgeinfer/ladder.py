"""The ladder: which backend and artifact run here, best first, and a plain reason for each rung refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeinfer import backends, machine
from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.spec import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.backends import Engine
    from edgeinfer.bundle import Bundle
    from edgeinfer.spec import Artifact

# not imported where there is no GPU
ON_GPU = ("trt", "rtx", "ort_gpu")
# vendor engines first, then the CPU reference. OpenVINO starts more slowly and is faster on some CPUs and models only:
# it runs when it is asked for, or when `edgeinfer tune` found it better; `null` only when it is asked for by name
ORDER = ("trt", "rtx", "ort_gpu", "ort", "ov")


class Rung(NamedTuple):
    """One way to run a bundle; `reason` is empty when it can be tried."""

    backend: str
    artifact: Artifact | None
    reason: str

    @property
    def name(self) -> str:
        return f"{self.backend} {self.artifact.file}" if self.artifact else self.backend


def rungs(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> list[Rung]:
    """Every rung in the order it would be tried; the first without a reason is the one that runs."""
    return list(climb(bundle, backend, precision))


def climb(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Iterator[Rung]:
    """As `rungs`, one after the other: libraries of backends below the one that runs are never imported."""
    if precision != "auto" and precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of auto, {', '.join(PRECISIONS)}")
    present = backends.names()
    if backend != "auto" and backend not in present:
        raise UsageError(f"backend {backend!r} is not one of auto, {', '.join(present)}")
    wanted = [backend] if backend != "auto" else [name for name in ORDER if name in present]
    for name in wanted:
        yield from _backend_rungs(bundle, name, precision)


def _backend_rungs(bundle: Bundle, name: str, precision: str) -> Iterator[Rung]:
    if name in ON_GPU and not machine.has_gpu():
        yield Rung(name, None, "this machine has no NVIDIA GPU")
        return
    try:
        engine = backends.load(name)
    except BackendUnavailable as missing:
        yield Rung(name, None, str(missing))
        return
    if not engine.formats:
        yield Rung(name, None, "")
        return
    artifacts = _in_preference(bundle, engine)
    if not artifacts:
        yield Rung(name, None, f"the bundle holds no {' or '.join(engine.formats)} file")
    for artifact in artifacts:
        asked = precision in ("auto", artifact.precision)
        reason = engine.refuses(artifact) if asked else f"{precision} was asked for, this is {artifact.precision}"
        yield Rung(name, artifact, reason)


def _in_preference(bundle: Bundle, engine: type[Engine]) -> list[Artifact]:
    fitting = [artifact for artifact in bundle.spec.artifacts if artifact.format in engine.formats]
    known = [artifact for artifact in fitting if artifact.precision in engine.precisions]
    return sorted(known, key=lambda artifact: engine.precisions.index(artifact.precision))
