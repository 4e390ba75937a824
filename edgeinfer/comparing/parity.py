"""One model run in two ways: how far its tensors differ, and the first layer at which they part."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer import sources
from edgeinfer.comparing import divergence
from edgeinfer.comparing.compare import readable
from edgeinfer.comparing.models import named
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.profiling.child import Failed
from edgeinfer.profiling.columns import aligned
from edgeinfer.progress import silent
from edgeinfer.spec import Boxes
from edgeinfer.tuning.entrants import Entrant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgeinfer.comparing.divergence import Parting, Tensors
    from edgeinfer.comparing.models import Model
    from edgeinfer.progress import Say
    from edgeinfer.spec import TopK

SCHEMA = 1
# by layout, what each output holds: pixels and numbers of classes would hide what scores differ by
PARTS: dict[str, dict[str, Any]] = {
    "yolov5": {"boxes": np.s_[..., :4], "scores": np.s_[..., 4:]},
    "yolov8": {"boxes": np.s_[..., :4, :], "scores": np.s_[..., 4:, :]},
    "end2end": {"boxes": np.s_[..., :4], "scores": np.s_[..., 4:5], "classes": np.s_[..., 5:]},
}


@dataclass(frozen=True)
class Difference:
    """Of one tensor, or the part of it that is named, over all pictures: the most and the mean an element differs by.

    They are in its own unit; `relative` is the root mean square of the differences over that of the first's values.
    Where one holds NaN or infinity and the other does not, all three are infinite.
    """

    tensor: str
    part: str
    shape: tuple[int, ...]
    most: float
    mean: float
    relative: float


@dataclass(frozen=True)
class Parity:
    """Two ways, their tensors compared, and where they part; or `unsought`, why that was not looked for.

    `partial`: it was interrupted; tensors that were not compared are not there.
    """

    one: str
    other: str
    images: int
    inputs: list[Difference]
    outputs: list[Difference]
    parting: Parting | None
    unsought: str
    partial: bool

    def json(self) -> str:
        """One JSON object; null stands for differences that are infinite."""
        return json.dumps({"schema": SCHEMA, **_told(asdict(self))}, ensure_ascii=False, allow_nan=False) + "\n"

    def table(self) -> str:
        rows = [["tensor", "shape", "most", "mean", "relative"]]
        for one in (*self.inputs, *self.outputs):
            shape = "x".join(map(str, one.shape))
            rows.append(
                [
                    f"{one.tensor} {one.part}".rstrip(),
                    shape,
                    f"{one.most:.3g}",
                    f"{one.mean:.3g}",
                    f"{one.relative:.3g}",
                ]
            )
        where = _where(self.parting) if self.parting else f"not looked for where they part: {self.unsought}"
        if not self.outputs:
            rows, where = [], "no tensors were compared"
        where = f"interrupted: partial, {where}" if self.partial else where
        head = f"{self.other} against {self.one}, {self.images} picture{'s' * (self.images != 1)}"
        return "\n".join([head, *([aligned(rows)] if rows else []), where])


def _told(value: Any) -> Any:
    """The same without infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _told(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(part) for part in value]
    return None if value == math.inf else value


def _where(parting: Parting) -> str:
    at, before = "at", f"; the one before, {parting.before}, by {parting.before_relative:.2g}" if parting.before else ""
    if parting.between:
        at, before = "at or before", f"; {parting.between} of the tensors before it were not looked at"
    return (
        f"they part {at} {parting.node} ({parting.operator}): {parting.tensor} differs by {parting.relative:.2g}, "
        f"more than {parting.tolerance:g}{before}"
    )


def parity(
    bundles: Sequence[str],
    source: str | Path,
    *,
    plan: bool = True,
    device: str = "auto",
    say: Say = silent,
    on_error: sources.OnError = sources.refuse,
) -> Parity:
    """Compare two ways of running one model, such as `engines/a@ort` and `engines/a@ov,int8`, on pictures.

    Where both run an ONNX file on the CPU, the graphs are bisected for the first layer at which they part. A picture
    that cannot be read goes to `on_error`, and is left out. Ctrl-C gives what there is, marked partial. Raises what
    `load` raises, EngineError for a way that fails, SourceError, UsageError.
    """
    if len(bundles) != 2:
        raise UsageError(
            f"--parity compares two ways of one model, not {len(bundles)}",
            hint="for example: edgeinfer compare engines/a@ort engines/a@ov bus.jpg --parity",
        )
    models = named(list(bundles), plan=plan, device=device)
    one, other = models
    _check_alike(one, other)
    pictures = readable(source, on_error)
    found = Parity(one.choice.name, other.choice.name, len(pictures), [], [], None, "", partial=False)
    try:
        for step in _steps(one, other, pictures, say):
            found = replace(found, **step)
    except KeyboardInterrupt:
        found = replace(found, partial=True, unsought="" if found.parting else "it was interrupted")
    return found


def _steps(one: Model, other: Model, pictures: Sequence[Path], say: Say) -> Iterator[dict[str, Any]]:
    """What comes to be known of a `Parity`, by its fields."""
    tensors = []
    for model in (one, other):
        say(f"tensors of {model.title}")
        tensors.append(_tensors(model, pictures))
    spec = one.bundle.spec
    parts = _parts(spec.decode)
    inputs = [_difference(tensor.name, "", ..., *tensors) for tensor in spec.inputs]
    outputs = [_difference(tensor.name, *part, *tensors) for tensor in spec.outputs for part in parts.items()]
    yield {"inputs": inputs, "outputs": outputs}
    say("looking for where they part")
    yield from _parting(one, other, tensors[0][0], [*parts.values()])


def _check_alike(one: Model, other: Model) -> None:
    """Raise UsageError unless both have the same tensors."""
    for part in ("inputs", "outputs"):
        first, second = ([tensor.name for tensor in getattr(model.bundle.spec, part)] for model in (one, other))
        if first != second:
            raise UsageError(f"the {part} of {one.title} are {first}, those of {other.title} are {second}")


def _tensors(model: Model, pictures: Sequence[Path]) -> list[Tensors]:
    """Inputs and outputs by name, for each picture."""
    with tempfile.TemporaryDirectory(prefix="edgeinfer-parity-") as folder:
        try:
            entrant = Entrant(model.bundle, model.choice, "tensors", pictures, model.device, folder=folder)
            with closing(entrant):
                entrant.wait_ready()
                files = entrant.files()
        except Failed as failure:
            raise EngineError(f"{model.title}: {failure}", hint=failure.hint) from failure
        found: list[Tensors] = []
        for file in files:
            with np.load(file) as held:
                found.append({name: held[name] for name in held.files})
        return found


def _parts(decode: Boxes | TopK) -> dict[str, Any]:
    """Indices of what an output holds, by name."""
    return PARTS[decode.layout] if isinstance(decode, Boxes) and decode.where == "runtime" else {"": ...}


def _difference(name: str, part: str, index: Any, first: Sequence[Tensors], second: Sequence[Tensors]) -> Difference:
    one, two = (np.stack([entry[name] for entry in found]).astype(np.float64) for found in (first, second))
    if one.shape != two.shape:
        raise UsageError(f"{name} is {one.shape[1:]} in one and {two.shape[1:]} in the other")
    one, two = one[index], two[index]
    apart = divergence.gaps(one, two)
    shape = tuple(int(side) for side in one.shape[1:])
    return Difference(name, part, shape, float(apart.max()), float(apart.mean()), divergence.relative(one, two))


def _parting(one: Model, other: Model, tensors: Tensors, parts: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Where two ONNX files part on the first picture, ever closer; or why that is not looked for."""
    artifacts = [model.bundle.spec.artifact(model.choice.artifact) for model in (one, other)]
    sides = []
    for model, artifact in zip((one, other), artifacts):
        if artifact is None or model.choice.backend not in divergence.RUNNERS:
            yield {"unsought": f"{model.choice.name} does not run an ONNX file on the CPU"}
            return
        path = model.bundle.artifact_file(artifact)
        sides.append(divergence.Side(path, model.choice.backend, artifact.precision))
    inputs = {tensor.name: tensors[tensor.name] for tensor in one.bundle.spec.inputs}
    outputs = {tensor.name: parts for tensor in one.bundle.spec.outputs}
    parted = False
    for found in divergence.partings(sides[0], sides[1], inputs, outputs):
        parted = True
        yield {"parting": found}
    if not parted:
        yield {"unsought": "by its relative difference every output lies within the tolerance"}
