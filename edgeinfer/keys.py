"""What an engine was built for against what is here, compared before the engine is touched.

NVIDIA's rules, as their manuals have them: an engine runs on the compute capability it was built for (TensorRT-RTX:
on each of those it was built for), on its operating system, in the release of the library that built it. Two
flags of the builder loosen that: `hardware` (every GPU from Ampere on, not on Jetson) and `version` (later
releases of the same major, from 8.6 on; and 8 in 10, 10 in 11). Another model of GPU with the same compute
capability is allowed: TensorRT warns that its timings were taken elsewhere. So is it here, after every exact engine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edgeinfer.machine import Gpu
    from edgeinfer.spec import Artifact, ModelSpec

# releases of one major whose version-compatible engines also run in another
CROSSINGS = {(8, 10), (10, 11)}
AMPERE = 80


class Refusal(str):  # noqa: SLOT000 - it carries more than its text
    """A plain sentence; `code` and `facts` say the same to a program. The empty one refuses nothing."""

    code: str
    facts: dict[str, Any]

    def __new__(cls, code: str = "", text: str = "", **facts: Any) -> Refusal:
        made = super().__new__(cls, text)
        made.code, made.facts = code, facts
        return made


FITS = Refusal()


class Here(NamedTuple):
    """Where an engine is to run: `library` is the vendor's module and release, as in an artifact's `built_with`."""

    library: str
    os: str
    gpu: Gpu
    l4t: str = ""


def refusal(artifact: Artifact, spec: ModelSpec, here: Here) -> Refusal:
    """Why this engine cannot run here: the first reason that its keys give, or `FITS`."""
    for rule in (_weights, _system, _capability, _release, _dla, _source, _batch):
        found = rule(artifact, spec, here)
        if found:
            return found
    return FITS


def caveat(artifact: Artifact, here: Here) -> Refusal:
    """What is not exactly as it was where the engine was built, though it runs; `FITS` for an exact engine."""
    target, compatible = artifact.target, _compatible(artifact)
    if not target:
        return Refusal("unknown-target", "the bundle does not say what it was built for")
    if artifact.built_with != here.library:
        return Refusal("later-release", f"built with {artifact.built_with}, runs in {here.library}")
    if compatible:
        return Refusal("compatible", f"built to be {' and '.join(compatible)} compatible, slower than an exact engine")
    model = target.get("gpu", "")
    if model and model != here.gpu.name:
        return Refusal(
            "other-model",
            f"built and timed on {model}, this is {here.gpu.name}; same compute capability, other speed",
            built_for=model,
            here=here.gpu.name,
        )
    if target.get("l4t", here.l4t) != here.l4t:
        text = f"built under L4T {target['l4t']}, this is {here.l4t or 'no Jetson'}"
        return Refusal("other-l4t", text, built_for=target["l4t"], here=here.l4t)
    return FITS


def _compatible(artifact: Artifact) -> list[str]:
    return [part for part in artifact.target.get("compatible", "").split("+") if part]


def _weights(artifact: Artifact, _spec: ModelSpec, _here: Here) -> Refusal:
    if artifact.target.get("weights") == "stripped":
        return Refusal("no-weights", "built without its weights, which edgeinfer does not put back")
    return FITS


def profile(artifact: Artifact) -> list[int]:
    """The batches that an engine was compiled for, least, best and most; empty where its key does not say."""
    words = artifact.target.get("profile", "").split("-")
    return [_number(one) for one in words] if all(map(_number, words)) else []


def _number(word: str) -> int:
    """0 where it is no number: keys come from files."""
    return int(word) if re.fullmatch("[0-9]{1,9}", word) else 0


def _system(artifact: Artifact, _spec: ModelSpec, here: Here) -> Refusal:
    built = artifact.target.get("os", here.os)
    if built != here.os:
        return Refusal("other-system", f"built for {built}, this is {here.os}", built_for=built, here=here.os)
    return FITS


def _capability(artifact: Artifact, _spec: ModelSpec, here: Here) -> Refusal:
    built = [one for one in artifact.target.get("sm", "").split("+") if one]
    if not built or here.gpu.sm in built:
        return FITS
    numbers = [_number(one) for one in (*built, here.gpu.sm)]
    if "hardware" in _compatible(artifact) and min(numbers) >= AMPERE:
        return FITS
    names = " and ".join(f"sm_{one}" for one in built)
    return Refusal(
        "other-gpu", f"built for {names}, this GPU is sm_{here.gpu.sm}", built_for="+".join(built), here=here.gpu.sm
    )


def _release(artifact: Artifact, _spec: ModelSpec, here: Here) -> Refusal:
    built, ours = artifact.built_with, here.library
    module, portable = ours.partition(" ")[0], "version" in _compatible(artifact)
    if built and module in ("tensorrt_lean", "tensorrt_dispatch") and not portable:
        return Refusal("needs-full-library", f"{module} runs version-compatible engines only", here=ours)
    if built in ("", ours) or (portable and _later(_numbers(built), _numbers(ours))):
        return FITS
    return Refusal("other-release", f"built with {built}, here is {ours}", built_for=built, here=ours)


def _numbers(library: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", library.rpartition(" ")[2]))


def _later(built: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether a release runs the version-compatible engines of another."""
    if not ours or built < (8, 6):
        return False
    return (built[0], ours[0]) in CROSSINGS or (built[0] == ours[0] and built <= ours)


def _dla(artifact: Artifact, _spec: ModelSpec, here: Here) -> Refusal:
    core, built = artifact.target.get("dla", ""), artifact.target.get("l4t", "")
    if core and not here.l4t:
        return Refusal("no-dla", f"built for DLA core {core}, this machine has no DLA", built_for=core)
    if core and built != here.l4t:
        text = f"built for the DLA of L4T {built}, this is {here.l4t}"
        return Refusal("other-l4t", text, built_for=built, here=here.l4t)
    return FITS


def _source(artifact: Artifact, spec: ModelSpec, _here: Here) -> Refusal:
    """An engine of an ONNX that the bundle has replaced meanwhile is another model."""
    held = {one.sha256 for one in spec.artifacts if one.format == "onnx" and one.precision == artifact.precision}
    source = artifact.target.get("onnx", "")
    if source and held and source not in held:
        return Refusal(
            "other-model-file", "compiled from another ONNX than the bundle now holds", built_for=source[:12]
        )
    return FITS


def _batch(artifact: Artifact, spec: ModelSpec, _here: Here) -> Refusal:
    numbers = profile(artifact)
    if numbers and not (numbers[0] <= spec.batch.min and spec.batch.max <= numbers[-1]):
        least, most = spec.batch.min, spec.batch.max
        return Refusal(
            "other-batch",
            f"built for batch {numbers[0]} to {numbers[-1]}, the model takes {least} to {most}",
            built_for=artifact.target["profile"],
            here=f"{least}-{most}",
        )
    return FITS
