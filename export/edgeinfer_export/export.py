"""From a source to a bundle: read it, build the graph, check it, record golden samples, write."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edgeinfer
from edgeinfer import backends, modeljson
from edgeinfer.bundle import SPEC_FILE, Bundle, check_writable, sha256_of, writing
from edgeinfer.errors import ExportError
from edgeinfer.sources import refuse
from edgeinfer.spec import Artifact, Batch, Size
from edgeinfer_export import (
    calibration,
    enginefile,
    fitness,
    forms,
    gate,
    graphs,
    heldout,
    modelfile,
    onnxgraph,
    onnxreading,
    quantize,
    ranges,
    samples,
    sources,
    vendor,
)
from edgeinfer_export.gate import Gate
from edgeinfer_export.told import UNTOLD, Told

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from edgeinfer.errors import SourceError
    from edgeinfer.sources import OnError
    from edgeinfer.spec import ModelSpec
    from edgeinfer_export.gate import Trial
    from edgeinfer_export.recipes import Recipe
    from edgeinfer_export.targets import Target

PLAIN = graphs.Variant()


@dataclass(frozen=True)
class Options:
    """How a model is exported; what is empty or None is as the source has it.

    `size` of its input, `batch` (where the source leaves both open: the family's usual size, 1), `labels`,
    `precisions`, each but the source's own measured on `pictures` and kept within `budget` points of accuracy;
    `method` chooses the ranges of int8. `told`: what the model does not say itself. `via`: the tool that exports a
    checkpoint the builders do not know, run by `via_python`. `variant`: what is moved into the graph, and a detector's
    thresholds. `targets`: what the bundle is to be compiled for; `export` compiles nothing, but refuses what could
    not be.
    """

    size: Size | None = None
    batch: Batch | None = None
    labels: tuple[str, ...] = ()
    name: str = ""
    precisions: tuple[str, ...] = ()
    pictures: heldout.Sources = heldout.PACKAGED
    method: str = ranges.DEFAULT
    budget: float = gate.BUDGET
    variant: graphs.Variant = PLAIN
    told: Told = UNTOLD
    via: str = ""
    via_python: str = ""
    recipe: Recipe | None = None
    targets: tuple[Target, ...] = ()


def export(
    source: str | Path,
    out: str | Path | None = None,
    options: Options = Options(),
    progress: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    *,
    tell: Callable[[Trial], None] | None = None,
) -> Path:
    """Export a source (a file, or a known name) to the bundle `out` (default engines/NAME); gives its path.

    `warn` is told what works and yet may surprise, such as pictures that cannot be read and are left out (without it
    they are an error), `tell` what was tried to keep a precision within its budget.
    Raises CheckpointError, ExportError, FetchError, BundleError, DatasetError, SourceError, BackendUnavailable.
    """
    check_writable(_target(out, options.name or "NAME"))
    for library in dict.fromkeys(target.library for target in options.targets):
        vendor.check_able(library)
    if Path(source).suffix.lower() in enginefile.SUFFIXES:
        engine = read_engine(source, options)
        return write_engine(engine, _target(out, engine.spec.name))
    built = read(source, options, progress)
    for note in built.notes:
        if warn:
            warn(note)

    def leave_out(error: SourceError) -> None:
        if not warn:
            raise error
        warn(str(error))

    target = _target(out, built.spec.name)
    write_bundle(built.model, built.spec, target, options, tell=tell, on_error=leave_out)
    if warn and (note := samples.untested(Bundle.open(target).spec)):
        warn(note)
    return target


def read(
    source: str | Path, options: Options = Options(), progress: Callable[[str, int, int], None] | None = None
) -> graphs.Built:
    """The source's graph and spec, with all that is known of where it comes from."""
    backends.load("ort")  # it tries models of other tools, and records the golden samples once all else is done
    built = sources.read(source, options, progress)
    if options.variant.nms or "int8" in options.precisions:
        built = dataclasses.replace(built, model=onnxreading.raised(built.model, built.spec.name))
    built = graphs.vary(built, options.variant)
    held = onnxgraph.precision(built.model)
    _check_precisions(held, options)
    if "int8" in options.precisions and held == "fp32" and not quantize.points(built.model):
        raise ExportError(f"{built.spec.name} has no layer that int8 is for", hint="leave int8 out of --precision")
    fitness.check(built.model, options.targets, options.precisions or (held,))
    onnxgraph.add_facts(built.model, {"license": built.spec.provenance.license})
    return dataclasses.replace(built, spec=_signed(built.spec, options))


def read_engine(source: str | Path, options: Options) -> enginefile.Engine:
    """A compiled source and its spec, with who exported it."""
    if options.variant.frames or options.variant.nms or options.via or options.targets:
        what = "it cannot be compiled again" if options.targets else "its graph cannot be changed"
        raise ExportError(f"{source} is compiled: {what}", hint="export its ONNX instead")
    engine = enginefile.read(Path(source), options)
    return dataclasses.replace(engine, spec=_signed(graphs.with_thresholds(engine.spec, options.variant), options))


def _check_precisions(held: str, options: Options) -> None:
    """Every precision is made from float32; of a model in another, that one alone can be had."""
    for precision in options.precisions:
        if held not in (precision, "fp32"):
            raise ExportError(
                f"{precision} cannot be made from a model in {held}",
                hint=f"export the model it was made from, or use --precision {held}",
            )
    if "int8" in options.precisions and held == "fp32" and not options.pictures.calibrate:
        raise ExportError(
            "int8 needs pictures to calibrate with", hint=f"add --calibrate DIR with {heldout.LEAST} or more of them"
        )


def _signed(spec: ModelSpec, options: Options) -> ModelSpec:
    """The spec under a plain name, with who exported it, and by which recipe."""
    provenance = dataclasses.replace(spec.provenance, edgeinfer=edgeinfer.__version__)
    if (one := options.recipe) is not None:
        provenance = dataclasses.replace(provenance, recipe=one.name, recipe_sha256=one.sha256)
    return dataclasses.replace(spec, name=sources.bundle_name(spec.name), provenance=provenance)


def _target(out: str | Path | None, name: str) -> Path:
    return Path(out) if out else Path("engines") / sources.bundle_name(name)


def write_bundle(
    model: onnx.ModelProto,
    spec: ModelSpec,
    target: Path,
    options: Options = Options(),
    *,
    tell: Callable[[Trial], None] | None = None,
    on_error: OnError = refuse,
) -> Path:
    """Write a graph in the precisions of `options` (none: its own) with golden samples as the bundle `target`.

    All or nothing, but that a precision which the gate refuses is left out; then the bundle is written all the same,
    with what is left, and ExportError raised. `tell` hears what was tried for each, `on_error` of pictures that cannot
    be read, and are left out.
    """
    held = onnxgraph.precision(model)
    precisions = options.precisions or (held,)
    # pictures that will not do are refused before anything is written
    made = {form.precision for form in forms.forms(precisions, but=held)}
    needed = heldout.pictures(options.pictures.needed_for(made), spec, on_error) if made else nullcontext()
    with needed as pictures, writing(target) as folder:
        source = _write(model, folder, held)
        _describe(folder, spec, (source,))
        golden = samples.recorded(folder, held)
        trials = _tried(model, spec, folder / source.file, pictures, options, on_error=on_error) if pictures else []
        if tell:
            for trial in trials:
                tell(trial)
        admitted = [source] + [trial.artifact for trial in trials if trial.artifact]
        artifacts = [one for precision in precisions for one in admitted if one.precision == precision]
        refused = [trial for trial in trials if not trial.artifact]
        if not artifacts:
            raise _refusal(refused, "")
        others = [artifact for artifact in artifacts if artifact is not source]
        golden = samples.found_by_all(folder, spec, golden, others)
        if source not in artifacts:
            (folder / source.file).unlink()
        _describe(folder, dataclasses.replace(spec, golden=golden), tuple(artifacts))
    if refused:
        raise _refusal(refused, f"; {target} was written without")
    return target


def _tried(
    model: onnx.ModelProto,
    spec: ModelSpec,
    reference: Path,
    pictures: heldout.Pictures,
    options: Options,
    *,
    on_error: OnError,
) -> list[Trial]:
    """Every form made and measured; the files of those that are admitted lie beside the reference."""
    wanted, seen = forms.forms(options.precisions, but=onnxgraph.precision(model)), None
    if pictures.calibration:
        seen = calibration.ranges(model, spec, pictures.calibration, options.method, on_error)
    judge = Gate(reference.parent, spec, reference, pictures.heldout, options.budget, on_error=on_error)
    return [judge.admit(model, form, seen) for form in wanted]


def _refusal(refused: list[Trial], rest: str) -> ExportError:
    reasons = ", ".join(_reason(trial) for trial in refused)
    if any(trial.form.precision == "int8" for trial in refused):
        hint = "calibrate with more pictures like those the model will see, or raise --budget"
    else:
        hint = f"leave {refused[0].form.precision} out of --precision, or raise --budget"
    return ExportError(f"{reasons}, above the budget of {refused[0].budget:g}{rest}", hint=hint)


def _reason(trial: Trial) -> str:
    if math.isinf(trial.loss):
        return f"{trial.form.name} gives numbers that are not finite"
    return f"{trial.form.name} loses {trial.loss:.2f} points of accuracy"


def _write(model: onnx.ModelProto, folder: Path, precision: str) -> Artifact:
    file = folder / f"model.{precision}.onnx"
    modelfile.write(model, file)
    return Artifact(file.name, "onnx", precision, sha256_of(file))


def _describe(folder: Path, spec: ModelSpec, artifacts: tuple[Artifact, ...]) -> None:
    modeljson.write(dataclasses.replace(spec, artifacts=artifacts), folder / SPEC_FILE)


def write_engine(engine: enginefile.Engine, target: Path) -> Path:
    """Write a foreign engine as the bundle `target`; it has no golden samples, which take a machine that runs it."""
    with writing(target) as folder:
        file = folder / f"trt.{engine.precision}.plan"
        engine.copy_plan(file)
        artifact = Artifact(file.name, "trt", engine.precision, sha256_of(file))
        modeljson.write(dataclasses.replace(engine.spec, artifacts=(artifact,)), folder / SPEC_FILE)
    return target
