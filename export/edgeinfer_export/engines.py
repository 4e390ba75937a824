"""Engines into a bundle: compiled from its own ONNX, put in place whole, noted in its model.json."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer import modeljson, workfolder
from edgeinfer.building import FLAVORS
from edgeinfer.bundle import SPEC_FILE, Bundle, check_writable, writing
from edgeinfer.errors import BundleError, ExportError, UsageError
from edgeinfer_export.buildoptions import Options
from edgeinfer_export.compile import Compiled, compile_onnx
from edgeinfer_export.targets import check_nms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edgeinfer.spec import Artifact, ModelSpec
    from edgeinfer_export.compile import Progress
    from edgeinfer_export.targets import Target

DEFAULTS = Options()


class Job(NamedTuple):
    """One engine to be built: from which ONNX of the bundle, and how."""

    source: Artifact
    options: Options


def add_engines(
    path: Path,
    targets: Sequence[Target],
    options: Options = DEFAULTS,
    *,
    precisions: Sequence[str] = (),
    batch: tuple[int, int, int] | None = None,
    progress: Progress | None = None,
    done: Callable[[Compiled], None] | None = None,
) -> None:
    """Compile the bundle at `path` for every target, in `precisions` (none: all that it holds an ONNX of).

    Each engine is put into the bundle as soon as it is built, so that a later failure does not lose it; the
    bundle is the old one or the new one at every moment. `batch` (smallest, usual, largest) is for models with
    an open batch; None takes the model's range. Raises UsageError, BackendUnavailable, ExportError, BundleError.
    """
    path = path.resolve()  # a link to a bundle stays, and its folder gets the engines
    planned = jobs(Bundle.open(path), targets, options, precisions=precisions, batch=batch)
    check_writable(path)
    for job in planned:
        compiled = _add(path, job, progress)
        if done:
            done(compiled)


def jobs(
    bundle: Bundle,
    targets: Sequence[Target],
    options: Options = DEFAULTS,
    *,
    precisions: Sequence[str] = (),
    batch: tuple[int, int, int] | None = None,
) -> list[Job]:
    """What `add_engines` would build, checked as far as that is possible beforehand."""
    check_nms(targets, getattr(bundle.spec.decode, "where", "runtime"))
    sources = _sources(bundle.spec, precisions)
    chosen = _batch(bundle.spec, batch)
    found = []
    for target in targets:
        own = bundle.path.with_name(f"{bundle.path.name}.timing-cache") if target.library == "trt" else None
        common = dataclasses.replace(
            options,
            library=target.library,
            capabilities=target.capabilities,
            batch=chosen,
            timing_cache=options.timing_cache or own,
        )
        found += [Job(source, dataclasses.replace(common, precision=source.precision)) for source in sources]
    return found


def file_name(options: Options, facts: dict[str, str], version: str) -> str:
    """An engine's name in a bundle: `rtx-sm86.fp16.plan`, `trt-sm86-rtx-a2000-10.3.0.fp16.plan`.

    Whatever two engines of one bundle may differ in stands in it: of an engine for one model of GPU that model, of
    any other its system, where that is not linux-x86_64 or a Jetson.
    """
    parts = [options.library, *(f"sm{one}" for one in facts["sm"].split("+"))]
    model = re.sub(r"[^a-z0-9]+", "-", re.sub(r"nvidia|geforce", "", facts.get("gpu", "").lower())).strip("-")
    if model:
        parts.append(model)
    elif facts["os"] != "linux-x86_64" and "l4t" not in facts:
        parts.append(facts["os"])
    if "dla" in facts:
        parts.append(f"dla{facts['dla']}")
    if "compatible" in facts:
        parts.append(f"{facts['compatible'].replace('+', '-')}-compatible")
    if "weights" in facts:
        parts.append(facts["weights"])
    if options.library == "trt":
        parts.append(version)
    return f"{'-'.join(parts)}.{options.precision}.plan"


def _sources(spec: ModelSpec, precisions: Sequence[str]) -> list[Artifact]:
    """The ONNX to compile for each precision asked for; for none, every one that TensorRT takes."""
    held = [one for one in spec.artifacts if one.format == "onnx"]
    fitting = {one.precision: one for one in held if one.flavor in FLAVORS}
    for precision in precisions:
        if precision not in fitting:
            flavors = ", ".join(sorted(f"{one.precision} {one.flavor}".strip() for one in held))
            raise ExportError(
                f"{spec.name} holds no {precision} ONNX for TensorRT, only {flavors or 'none at all'}",
                hint=f"export it with --precision {precision}",
            )
    chosen = [fitting[one] for one in precisions] if precisions else list(fitting.values())
    if not chosen:
        raise ExportError(f"{spec.name} holds no ONNX for TensorRT", hint="export it again")
    return chosen


def _batch(spec: ModelSpec, batch: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Smallest, usual and largest batch; the usual is half of the largest unless told."""
    least, most = spec.batch.min, spec.batch.max
    if batch is None:
        return least, max(least, most // 2), most
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise UsageError(f"batch {','.join(map(str, batch))} is not smallest, usual, largest", hint="for example 1,4,8")
    if not least <= batch[0] <= batch[2] <= most:
        raise UsageError(
            f"batch {','.join(map(str, batch))} is not within the {least}-{most} of {spec.name}",
            hint=f"export it again with --batch {batch[0]}-{batch[2]}",
        )
    return batch


def _add(path: Path, job: Job, progress: Progress | None) -> Compiled:
    onnx = Bundle.open(path).artifact_file(job.source)
    try:
        with workfolder.beside(path) as folder:
            compiled = compile_onnx(onnx, folder / "engine.plan", job.options, _named(job, progress))
            _check(Bundle.open(path).spec, compiled)
            name = file_name(job.options, compiled.target, compiled.built_with.split()[-1])
            return _install(path, dataclasses.replace(compiled, path=path / name), compiled.path)
    except OSError as error:
        raise BundleError(
            f"{path.parent} cannot be written: {error.strerror or error}", hint="check free space and permissions"
        ) from error


def _named(job: Job, progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    capabilities = "+".join(f"sm{one}" for one in job.options.capabilities)
    engine = " ".join(part for part in (job.options.library, capabilities, job.options.precision) if part)
    return lambda phase, step, steps: progress(f"{engine}: {phase}", step, steps)


def _check(spec: ModelSpec, compiled: Compiled) -> None:
    """The ONNX must still be the bundle's, with the inputs and outputs that model.json tells the runtime of."""
    if compiled.target["onnx"] not in {one.sha256 for one in spec.artifacts}:
        raise ExportError(
            f"{spec.name} was exported again while its engine was compiled", hint="run the same command again"
        )
    for what, told, found in (("input", spec.inputs, compiled.inputs), ("output", spec.outputs, compiled.outputs)):
        names = [tensor.name for tensor in told], [tensor.name for tensor in found]
        if sorted(names[0]) != sorted(names[1]):
            raise ExportError(
                f"the ONNX has {what}s {', '.join(names[1])}, {SPEC_FILE} says {', '.join(names[0])}",
                hint=f"export {spec.name} again",
            )


def _install(path: Path, compiled: Compiled, plan: Path) -> Compiled:
    """Move the engine into the bundle: a fresh folder with the same files takes the old one's place."""
    with _alone(path), writing(path) as fresh:
        spec = Bundle.open(path).spec
        _link_all(path, fresh, {SPEC_FILE, compiled.path.name})
        plan.replace(fresh / compiled.path.name)
        others = [one for one in spec.artifacts if one.file != compiled.path.name]
        modeljson.write(dataclasses.replace(spec, artifacts=(*others, compiled.artifact())), fresh / SPEC_FILE)
    return compiled


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other build puts its engine into this bundle, where the file system knows locks."""
    while True:
        handle = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), path.stat()):  # else another build's has taken its place meanwhile
                yield
                return
        finally:
            os.close(handle)


def _link_all(old: Path, new: Path, but: set[str]) -> None:
    """The files of `old` in `new` too, without copying where the file system allows."""
    for source in sorted(old.rglob("*")):
        name = source.relative_to(old)
        if source.is_dir() and not source.is_symlink():
            (new / name).mkdir()
        elif str(name) not in but:
            _link(source, new / name)


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target, follow_symlinks=False)
        return
    shutil.copy2(source, target, follow_symlinks=False)
