"""The ladder: which backend and artifact run here, best first, and a plain reason for each rung refused.

Engines that fit this GPU exactly come first, then those that merely run on it, then ONNX Runtime on the GPU, then the
CPU, which is taken unasked only where there is no GPU. A refusal's `code` is one of: no-gpu, no-library, no-file,
precision (another was asked for), backend (its own reason), cpu-unasked, gpu-asked, quarantined, no-device,
cannot-open, and those of `keys`.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer import backends, devices, keys, machine, verdicts
from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.keys import FITS, Refusal
from edgeinfer.spec import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeinfer.backends import Engine
    from edgeinfer.bundle import Bundle
    from edgeinfer.spec import Artifact

# backends of compiled engines, and all that need a GPU: not imported where there is none
COMPILED = ("trt", "rtx")
ON_GPU = (*COMPILED, "ort_gpu", "ort_trt")
# vendor engines first, then the CPU reference. OpenVINO starts more slowly and is faster on some CPUs and models only:
# it runs when it is asked for, or when `edgeinfer tune` found it better; `null` and `ort_trt` only when asked for
ORDER = ("trt", "rtx", "ort_gpu", "ort", "ov")
# codes of refusals that say no more than that there is no GPU, or that the CPU was not asked for
NO_GPU_CODES = {"no-gpu", "gpu-asked", "cpu-unasked"}
NO_LIBRARY_CODES = {"no-gpu", "no-library", "no-device"}


class Rung(NamedTuple):
    """One way to run a bundle; `reason` is empty when it can be tried, `caveat` when nothing is better."""

    backend: str
    artifact: Artifact | None
    reason: Refusal
    caveat: Refusal = FITS

    @property
    def name(self) -> str:
        return f"{self.backend} {self.artifact.file}" if self.artifact else self.backend

    @property
    def code(self) -> str:
        """The reason in one word, for programs."""
        return self.reason.code

    @property
    def remedy(self) -> str:
        """What would help, where that is known."""
        return str(self.reason.facts.get("hint", ""))

    @property
    def exact(self) -> bool:
        """Whether this is an engine made for this very GPU, that can be tried."""
        return self.backend in COMPILED and not self.reason and not self.caveat


def climb(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "auto",
    *,
    quarantine: bool = True,
    gpu: int | None = None,
) -> Iterator[Rung]:
    """Every rung in the order it would be tried; the first without a reason is the one that runs.

    One after the other: the libraries of backends below the one that runs are never imported.

    Without `quarantine`, engines that failed their self-test are no longer refused for it. With `gpu`, that GPU and
    no CPU is meant; without, the first.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of auto, {', '.join(PRECISIONS)}")
    present = backends.names()
    if backend != "auto" and backend not in present:
        raise UsageError(f"backend {backend!r} is not one of auto, {', '.join(present)}")
    wanted = ORDER if backend == "auto" else (backend,)
    look = _Look(bundle, precision, quarantine, unasked=backend == "auto", gpu=gpu)
    compiled = [rung for name in wanted if name in COMPILED for rung in look.at(name)]
    yield from sorted(compiled, key=lambda rung: bool(rung.caveat))
    for name in wanted:
        if name not in COMPILED:
            yield from look.at(name)


def nothing_runs(bundle: Bundle, refused: Sequence[Rung]) -> BackendUnavailable:
    """The error that says why none of these rungs runs, and what helps."""
    reasons = "; ".join(f"{rung.name}: {rung.reason}" for rung in refused)
    codes = {rung.code for rung in refused}
    remedies = list(dict.fromkeys(rung.remedy for rung in refused if rung.remedy))
    hint = f"edgeinfer info {quote(str(bundle.path))} lists what would run, and why not"
    held = {artifact.precision for artifact in bundle.spec.artifacts}
    wanted = {rung.reason.facts["asked"] for rung in refused if rung.code == "precision"} - held
    if "cpu-unasked" in codes or codes <= NO_GPU_CODES:
        where = "without --device, --backend ort" if "gpu-asked" in codes else "--backend ort"
        hint = f"{where} runs it on the CPU; edgeinfer doctor shows what the GPU lacks"
    elif wanted:
        every = ",".join(name for name in PRECISIONS if name in held | wanted)
        hint = f"export it again with --precision {every}; {hint}"
    elif len(remedies) == 1 or codes <= NO_LIBRARY_CODES:
        hint = remedies[0]
    return BackendUnavailable(f"nothing here runs {bundle.path}: {reasons}", hint=hint)


class _Look(NamedTuple):
    """One look at a bundle from this machine."""

    bundle: Bundle
    precision: str
    quarantine: bool
    unasked: bool  # nobody named a backend
    gpu: int | None

    def at(self, name: str) -> Iterator[Rung]:
        """The rungs of one backend."""
        if name in ON_GPU and not machine.has_gpu():
            yield Rung(name, None, Refusal("no-gpu", "this machine has no NVIDIA GPU"))
            return
        if name not in ON_GPU and self.gpu is not None:
            text = f"gpu:{self.gpu} was asked for, and this backend runs on the CPU"
            yield Rung(name, None, Refusal("gpu-asked", text, asked=self.gpu))
            return
        try:
            engine = backends.load(name)
        except BackendUnavailable as missing:
            yield Rung(name, None, Refusal("no-library", str(missing), hint=missing.hint))
            return
        if not engine.formats:
            yield Rung(name, None, FITS)
            return
        artifacts = _in_preference(self.bundle, engine)
        if not artifacts:
            yield Rung(name, None, Refusal("no-file", f"the bundle holds no {' or '.join(engine.formats)} file"))
        for artifact in artifacts:
            reason = self.reason(name, engine, artifact)
            compared = name in COMPILED and not reason
            yield Rung(name, artifact, reason, keys.caveat(artifact, self.here(engine)) if compared else FITS)

    def here(self, engine: type[Engine]) -> keys.Here:
        """Where an engine of this backend would run. Raises BackendUnavailable."""
        return keys.Here(engine.library, machine.system(), machine.gpu(self.gpu or 0), machine.l4t())

    def reason(self, name: str, engine: type[Engine], artifact: Artifact) -> Refusal:
        if self.precision not in ("auto", artifact.precision):
            text = f"{self.precision} was asked for, this is {artifact.precision}"
            return Refusal("precision", text, asked=self.precision)
        if engine.device == "cpu" and self.unasked and machine.has_gpu():
            text = f"this machine has a GPU; the CPU is used when asked for: --backend {name}"
            return Refusal("cpu-unasked", text)
        own = engine.refuses(artifact)
        if own:
            return Refusal("backend", own)
        try:
            here = self.here(engine) if engine.device == "gpu" else None
            devices.load(engine.device)
        except BackendUnavailable as missing:
            return Refusal("no-device", str(missing), hint=missing.hint)
        return self.reason_on_gpu(artifact, here) if here else FITS

    def reason_on_gpu(self, artifact: Artifact, here: keys.Here) -> Refusal:
        refusal = FITS if artifact.format == "onnx" else keys.refusal(artifact, self.bundle.spec, here)
        if refusal:
            return refusal
        verdict = verdicts.read(artifact, here.library, here.gpu) if self.quarantine else None
        if verdict and not verdict.passed:
            again = f"edgeinfer verify {quote(str(self.bundle.path))} tries it again"
            text = f"failed its self-test here on {verdict.when}: {verdict.detail}; {again}"
            return Refusal("quarantined", text, when=verdict.when, detail=verdict.detail)
        return FITS


def _in_preference(bundle: Bundle, engine: type[Engine]) -> list[Artifact]:
    fitting = [artifact for artifact in bundle.spec.artifacts if artifact.format in engine.formats]
    known = [artifact for artifact in fitting if artifact.precision in engine.precisions]
    return sorted(known, key=lambda artifact: engine.precisions.index(artifact.precision))
