"""What an export would do, found out without writing anything: `edgeinfer export --plan`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.bundle import SPEC_FILE, check_writable
from edgeinfer.errors import BackendUnavailable
from edgeinfer.spec import Boxes
from edgeinfer_export import compile as compiling
from edgeinfer_export import (
    enginefile,
    engines,
    export,
    fetch,
    forms,
    heldout,
    onnxgraph,
    recipes,
    samples,
    sources,
    targets,
    vendor,
    via,
)
from edgeinfer_export.buildoptions import Options as BuildOptions

if TYPE_CHECKING:
    from edgeinfer.errors import SourceError
    from edgeinfer.sources import OnError
    from edgeinfer.spec import Batch, ModelSpec, Size
    from edgeinfer_export.export import Options


@dataclass(frozen=True)
class Shown:
    """Pictures that are run: so many of a folder, None while that cannot be known; `layout` of their labels."""

    path: str
    images: int | None = None
    layout: str = ""

    def __str__(self) -> str:
        of = f"pictures of {self.path}" if self.path else "street scenes of the package"
        labels = {"": "", "pictures": ", without labels"}.get(self.layout, f", {self.layout} labels")
        return f"{'' if self.images is None else f'{self.images} '}{of}{labels}"


@dataclass(frozen=True)
class Plan:
    """What would be done. `size`, `batch` and what is about the architecture are empty while they cannot be known:
    the source has to be downloaded, trained or converted first. `missing` says what has to be there before.

    `calibration` (by `method`, for int8) and `judged` (within `budget` points of float32) are the pictures that
    artifacts are made with and measured on, None where none is; `in_graph` is what the model does itself; `files`
    are all that the bundle would hold.
    """

    source: str
    kind: str
    name: str
    recipe: str = ""
    recipe_sha256: str = ""
    task: str = ""
    architecture: str = ""
    classes: int = 0
    parameters: int = 0
    size: Size | None = None
    batch: Batch | None = None
    license: str = ""
    in_graph: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    calibration: Shown | None = None
    method: str = ""
    judged: Shown | None = None
    budget: float | None = None
    engines: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    writes: str = ""
    replaces: bool = False
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; height and width as a list, a batch as smallest and largest."""
        value = dataclasses.asdict(self)
        value["size"] = [self.size.height, self.size.width] if self.size else None
        value["batch"] = [self.batch.min, self.batch.max] if self.batch else None
        return value

    def rows(self) -> list[tuple[str, str]]:
        """A line for everything that is known."""
        model = (self.architecture, self.task, f"{self.classes} classes" if self.classes else "")
        count = f"{self.parameters:,} parameters" if self.parameters else ""
        span = f"batch {self.batch}" if self.batch else ""
        replaced = " (takes the place of the bundle there)" if self.replaces else ""
        rows = [
            ("source", f"{self.source}, {self.kind}"),
            ("recipe", f"{self.recipe}, sha256 {self.recipe_sha256[:12]}" if self.recipe else ""),
            ("model", ", ".join(filter(None, (self.name, *model, count)))),
            ("input", ", ".join(filter(None, (str(self.size or ""), span)))),
            ("licence", self.license),
            ("in the graph", ", ".join(self.in_graph)),
            ("artifacts", ", ".join(self.artifacts)),
            ("calibrated", f"with {self.calibration}, ranges by {self.method}" if self.calibration else ""),
            ("judged", f"within {self.budget:g} points of float32, on {self.judged}" if self.judged else ""),
            ("engines", ", ".join(self.engines)),
            ("writes", f"{self.writes}{replaced}"),
            ("files", ", ".join(self.files)),
            *(("note", note) for note in self.notes),
            *(("missing", one) for one in self.missing),
        ]
        return [row for row in rows if row[1]]


def plan(source: str, out: str | None, options: Options) -> Plan:
    """What `export.export` would do of this source, and `engines.add_engines` with the targets of `options`.

    Raises what they would raise as far as that shows without writing.
    """
    found = _source(source, options)
    folder = Path(out) if out else Path("engines") / found.name
    check_writable(folder)
    recipe = options.recipe
    precisions = dict.fromkeys(map(_precision, found.artifacts))
    compiled = [(target, held) for target in options.targets for held in precisions]
    return dataclasses.replace(
        found,
        recipe=recipe.name if recipe else "",
        recipe_sha256=recipe.sha256 if recipe else "",
        engines=tuple(f"{target} {held}" for target, held in compiled),
        files=(*found.files, *(_engine_file(target, held) for target, held in compiled)),
        writes=str(folder),
        replaces=folder.is_dir(),
        missing=(*found.missing, *_libraries(options.targets)),
    )


def _source(source: str, options: Options) -> Plan:
    precisions = options.precisions or ("fp32",)
    name, in_graph = sources.bundle_name(options.name or Path(source).stem), _asked_in_graph(options)
    asked = Plan(source, "", name, size=options.size, batch=options.batch, in_graph=in_graph)
    asked = _with_forms(asked, precisions, "fp32", None, options)
    if options.recipe and recipes.is_file(source) and not Path(source).exists():
        return dataclasses.replace(asked, kind="a file", missing=(f"{source} is not there",))
    path, known = sources.find(source)
    if options.via:
        return dataclasses.replace(asked, kind=f"exported by {options.via}", missing=via.missing(options.via_python))
    if known and not fetch.is_here(path, known):
        kind = f"downloaded from {known.url}"
        return dataclasses.replace(asked, kind=kind, license=known.license)
    if path.suffix.lower() in enginefile.SUFFIXES:
        engine = export.read_engine(path, options)
        kind = f"a TensorRT engine, {path.stat().st_size / 1e6:.1f} MB"
        plans = (f"trt.{engine.precision}.plan",)
        return dataclasses.replace(_known(asked, kind, engine.spec), artifacts=plans, files=(SPEC_FILE, *plans))
    built = export.read(source, options)
    held = onnxgraph.precision(built.model)
    kind = f"{'downloaded' if known else 'a file'}, {path.stat().st_size / 1e6:.1f} MB"
    found = dataclasses.replace(_known(asked, kind, built.spec), notes=built.notes)
    return _with_forms(found, options.precisions or (held,), held, built.spec, options)


def _with_forms(plan: Plan, precisions: tuple[str, ...], held: str, spec: ModelSpec | None, options: Options) -> Plan:
    """The plan with the files of these precisions, and the pictures they take; of a model without spec, uncounted."""
    artifacts = tuple(f"model.{held}.onnx" if one.precision == held else one.file for one in forms.forms(precisions))
    artifacts = tuple(dict.fromkeys(artifacts))
    plan = dataclasses.replace(plan, artifacts=artifacts, files=(SPEC_FILE, *artifacts, *samples.files()))
    made = {form.precision for form in forms.forms(precisions, but=held)}
    if not made:
        return plan
    faults: list[SourceError] = []
    calibration, judged = _shown(options.pictures.needed_for(made), spec, faults.append)
    if calibration:
        plan = dataclasses.replace(plan, calibration=calibration, method=options.method)
    return dataclasses.replace(plan, judged=judged, budget=options.budget, notes=(*plan.notes, *map(str, faults)))


def _shown(given: heldout.Sources, spec: ModelSpec | None, on_error: OnError) -> tuple[Shown | None, Shown]:
    """The pictures to calibrate with, if there are any, and those to judge by."""
    if spec is None:
        return Shown(given.calibrate) if given.calibrate else None, Shown(given.heldout or given.calibrate)
    with heldout.pictures(given, spec, on_error) as pictures:
        seen, judging = pictures.calibration, pictures.heldout
        path = given.heldout or given.calibrate
        return (
            Shown(given.calibrate, len(seen), seen.layout) if seen else None,
            Shown(path, len(judging), judging.layout),
        )


def _asked_in_graph(options: Options) -> tuple[str, ...]:
    variant = options.variant
    return (
        *((f"uint8 {variant.frames} frames",) if variant.frames else ()),
        *(("suppression",) if variant.nms else ()),
    )


def _in_graph(spec: ModelSpec) -> tuple[str, ...]:
    found = []
    if spec.preprocess.where == "graph":
        found.append(f"uint8 {spec.preprocess.color} frames")
    if isinstance(spec.decode, Boxes) and spec.decode.where == "graph":
        one = spec.decode
        found.append(f"suppression: score {one.score:g}, overlap {one.iou:g}, {one.limit} boxes at most")
    return tuple(found)


def _known(asked: Plan, kind: str, spec: ModelSpec) -> Plan:
    return dataclasses.replace(
        asked,
        kind=kind,
        name=spec.name,
        task=spec.task,
        architecture=spec.provenance.architecture,
        classes=len(spec.labels),
        parameters=spec.provenance.parameters,
        size=spec.preprocess.size,
        batch=spec.batch,
        license=spec.provenance.license,
        in_graph=_in_graph(spec),
    )


def _precision(file: str) -> str:
    return file.split(".")[1].split("-", maxsplit=1)[0]


def _engine_file(target: targets.Target, held: str) -> str:
    """What the engine will be called; of one for this GPU, where there is none, as far as that goes."""
    options = BuildOptions(library=target.library, precision=held, capabilities=target.capabilities)
    try:
        facts = compiling.key(options)
        version = vendor.load(target.library).__version__ if target.library == "trt" else ""
    except BackendUnavailable:
        return f"{target.library}-GPU-VERSION.{held}.plan"
    return engines.file_name(options, facts, version)


def _libraries(wanted: tuple[targets.Target, ...]) -> list[str]:
    """What the compilers need and this machine lacks."""
    found = []
    for library in dict.fromkeys(target.library for target in wanted):
        try:
            vendor.check_able(library)
        except BackendUnavailable as error:
            found.append(f"{error}; {error.hint}")
    return found
