"""What an export would do, found out without writing anything: `edgeinfer export --plan`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import BackendUnavailable
from edgeinfer_export import enginefile, export, forms, onnxgraph, recipes, sources, targets, vendor, via

if TYPE_CHECKING:
    from edgeinfer.spec import Batch, ModelSpec, Size
    from edgeinfer_export.export import Options


@dataclass(frozen=True)
class Plan:
    """What would be done. `size`, `batch` and what is about the architecture are empty while they cannot be known:
    the source has to be downloaded, trained or converted first. `missing` says what has to be there before.
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
    artifacts: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
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
        sides = dict.fromkeys((self.batch.min, self.batch.max)) if self.batch else {}
        span = f"batch {'-'.join(map(str, sides))}" if sides else ""
        replaced = " (takes the place of the bundle there)" if self.replaces else ""
        rows = [
            ("source", f"{self.source}, {self.kind}"),
            ("recipe", f"{self.recipe}, sha256 {self.recipe_sha256[:12]}" if self.recipe else ""),
            ("model", ", ".join(filter(None, (self.name, *model, count)))),
            ("input", ", ".join(filter(None, (str(self.size or ""), span)))),
            ("licence", self.license),
            ("artifacts", ", ".join(self.artifacts)),
            ("engines", ", ".join(self.engines)),
            ("writes", f"{self.writes}{replaced}"),
            *(("note", note) for note in self.notes),
            *(("missing", one) for one in self.missing),
        ]
        return [row for row in rows if row[1]]


def plan(source: str, out: str | None, options: Options, engines: str = "") -> Plan:
    """What `export.export` would do of this source, and `engines.add_engines` with the targets in `engines`.

    Raises what they would raise as far as that shows without writing.
    """
    wanted = targets.parse(engines) if engines else ()
    found = _source(source, options)
    folder = Path(out) if out else Path("engines") / found.name
    recipe = options.recipe
    return dataclasses.replace(
        found,
        recipe=recipe.name if recipe else "",
        recipe_sha256=recipe.sha256 if recipe else "",
        engines=tuple(
            f"{target} {_precision(one)}" for target in wanted for one in found.artifacts if "-cpu." not in one
        ),
        writes=str(folder),
        replaces=folder.is_dir(),
        missing=(*found.missing, *_libraries(wanted)),
    )


def _source(source: str, options: Options) -> Plan:
    precisions = options.precisions or ("fp32",)
    artifacts = tuple(form.file for form in forms.forms(precisions))
    asked = Plan(source, "", options.name or sources.plain(Path(source).stem), artifacts=artifacts)
    asked = dataclasses.replace(asked, size=options.size, batch=options.batch)
    if options.recipe and recipes.is_file(source) and not Path(source).exists():
        return dataclasses.replace(asked, kind="a file", missing=(f"{source} is not there",))
    path, known = sources.find(source)
    if options.via:
        return dataclasses.replace(asked, kind=f"exported by {options.via}", missing=via.missing(options.via_python))
    if known and not path.is_file():
        kind = f"downloaded from {known.url}"
        return dataclasses.replace(asked, name=options.name or known.name, kind=kind, license=known.license)
    if path.suffix.lower() in enginefile.SUFFIXES:
        engine = enginefile.read(path, options)
        kind = f"a TensorRT engine, {path.stat().st_size / 1e6:.1f} MB"
        return _known(asked, kind, engine.spec, (f"trt.{engine.precision}.plan",))
    built = export.read(source, options)
    held = onnxgraph.precision(built.model)
    artifacts = artifacts if options.precisions else (f"model.{held}.onnx",)
    kind = f"{'downloaded' if known else 'a file'}, {path.stat().st_size / 1e6:.1f} MB"
    return dataclasses.replace(_known(asked, kind, built.spec, artifacts), notes=built.notes)


def _known(asked: Plan, kind: str, spec: ModelSpec, artifacts: tuple[str, ...]) -> Plan:
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
        artifacts=artifacts,
    )


def _precision(file: str) -> str:
    return file.split(".")[1].split("-", maxsplit=1)[0]


def _libraries(wanted: tuple[targets.Target, ...]) -> list[str]:
    """What the compilers need and this machine lacks."""
    found = []
    for library in dict.fromkeys(target.library for target in wanted):
        try:
            vendor.load(library)
            if library == "trt":
                vendor.gpu()
        except BackendUnavailable as error:
            found.append(f"{error}; {error.hint}")
    return found
