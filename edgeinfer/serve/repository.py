"""The models that are served, and their versions: opened beside the running one, tested, switched, rolled back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.bundle import SPEC_FILE, Bundle, sha256_of
from edgeinfer.errors import EdgeInferError, EngineError, ServiceError, UsageError
from edgeinfer.serve.faces import FACES, IMAGE, Face
from edgeinfer.serve.refusals import INVALID, NOT_FOUND, UNAVAILABLE, Refusal
from edgeinfer.serve.station import Station
from edgeinfer.serve.tally import Tally
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.pipeline import Pipeline
    from edgeinfer.serve.limits import Limits
    from edgeinfer.spec import ModelSpec

LOG = logging.getLogger("edgeinfer.serve")


class Options(NamedTuple):
    """How bundles are opened; `keep` holds the version before the running one ready for `rollback`."""

    backend: str = "auto"
    precision: str = "auto"
    threads: int = 0
    contexts: int = 1
    conf: float | None = None
    iou: float | None = None
    keep: bool = True


class Version:
    """A bundle as it was when it was opened: its station, and a tally for each face."""

    def __init__(self, number: int, bundle: Bundle, digest: str, station: Station) -> None:
        self.number, self.bundle, self.digest, self.station = number, bundle, digest, station
        self.tallies = {face.suffix: Tally() for face in FACES}
        self.fault = ""

    @property
    def spec(self) -> ModelSpec:
        return self.station.pipeline.spec

    def test(self) -> None:
        """Run the golden samples; EngineError if they are not found."""
        _test(self.station.pipeline, self.bundle)


class Model:
    """A folder, and the version of it that is served. `reason` says why there is none, or why the last was refused."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.current: Version | None = None
        self.previous: Version | None = None
        self.state, self.reason = "UNAVAILABLE", "not loaded yet"
        self.opened, self.refused = 0, ""
        self.lock = asyncio.Lock()

    def digest(self) -> str:
        """What tells one version of the folder from another; empty while there is none."""
        try:
            return sha256_of(self.path / SPEC_FILE)
        except OSError:
            return ""

    def changed(self) -> bool:
        """Whether the folder holds a version that is neither served nor was refused."""
        found = self.digest()
        return bool(found) and found not in (self.current.digest if self.current else "", self.refused)


class Found(NamedTuple):
    """What a model's name in a request means."""

    model: Model
    face: Face
    version: Version

    @property
    def name(self) -> str:
        return self.model.name + self.face.suffix

    @property
    def tally(self) -> Tally:
        return self.version.tallies[self.face.suffix]


class Repository:
    """All models. Its coroutines run on one event loop; versions are opened and closed on other threads."""

    def __init__(self, folders: Sequence[Path], options: Options, limits: Limits) -> None:
        self._options, self._limits = options, limits
        self.models = {folder.resolve().name: Model(folder.resolve().name, folder.resolve()) for folder in folders}
        served = [folder.resolve().name + face.suffix for folder in folders for face in FACES]
        twice = sorted({name for name in served if served.count(name) > 1})
        if twice:
            raise UsageError(f"two models would be called {twice[0]}", hint="a model is called as its folder")

    def model(self, name: str) -> Model:
        """The model, whichever face is named. Refusal if there is none."""
        plain = name[: -len(IMAGE)] if name.endswith(IMAGE) and name not in self.models else name
        if plain not in self.models:
            raise Refusal(NOT_FOUND, f"model {name[:100]!r} is not served here")
        return self.models[plain]

    def find(self, name: str, version: str = "") -> Found:
        """The served version behind this name. Refusal if there is none."""
        model = self.model(name)
        if not model.current:
            raise Refusal(UNAVAILABLE, f"model {name!r} is not ready: {model.reason}")
        if version not in ("", str(model.current.number)):
            raise Refusal(
                NOT_FOUND, f"model {name!r} has no version {version[:20]!r}; {model.current.number} is served"
            )
        face = next(face for face in FACES if face.suffix == name[len(model.name) :])
        return Found(model, face, model.current)

    def served(self) -> list[Found]:
        """Every face of every model that has a version."""
        return [Found(model, face, model.current) for model in self.models.values() if model.current for face in FACES]

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """The repository extension's list."""
        rows = []
        for model in self.models.values():
            version = model.current
            fault = version.fault if version else ""
            state = "UNAVAILABLE" if fault else model.state
            if ready and state != "READY":
                continue
            number = str(version.number) if version else ""
            row = {"version": number, "state": state, "reason": fault or model.reason}
            rows += [{"name": model.name + face.suffix, **row} for face in FACES]
        return rows

    async def load(self, name: str) -> None:
        """Open the folder beside the running version, test it, and switch; Refusal keeps the running one."""
        model = self.model(name)
        async with model.lock:
            if not model.current:
                model.state = "LOADING"
            model.opened += 1
            digest = model.digest()
            try:
                version = await asyncio.to_thread(_open, model, digest, self._options, self._limits)
            except EdgeInferError as error:
                model.refused, model.reason = digest, str(error)
                model.state = "READY" if model.current else "UNAVAILABLE"
                kept = f"; version {model.current.number} stays" if model.current else ""
                LOG.error("%s: version %d is refused: %s%s", model.name, model.opened, error, kept)  # noqa: TRY400
                raise Refusal(INVALID, f"model {model.name!r}: {error}{kept}") from error
            dropped = model.previous
            model.current, model.previous = version, model.current
            model.state, model.reason, model.refused = "READY", "", ""
            LOG.info("%s: version %d is served, %s", model.name, version.number, _about(version))
            if not self._options.keep and model.previous is not None:
                dropped, model.previous = model.previous, None
            await self._close(dropped)

    async def unload(self, name: str) -> None:
        """Stop serving a model; what waits is finished."""
        model = self.model(name)
        async with model.lock:
            versions = (model.current, model.previous)
            model.current = model.previous = None
            model.state, model.reason = "UNAVAILABLE", "unloaded"
            for version in versions:
                await self._close(version)
            LOG.info("%s: unloaded", model.name)

    async def rollback(self, name: str) -> None:
        """Exchange the running version and the one before it."""
        model = self.model(name)
        async with model.lock:
            if not model.current or not model.previous:
                raise Refusal(INVALID, f"model {model.name!r} has no version to go back to")
            # the folder still holds the version that is left: it must not be taken for a new one
            model.refused = model.current.digest
            model.current, model.previous = model.previous, model.current
            LOG.info("%s: back to version %d", model.name, model.current.number)

    async def reload(self) -> None:
        """Load every model whose folder has changed; those that are refused keep what they have."""
        for model in self.models.values():
            if await asyncio.to_thread(model.changed):
                try:
                    await self.load(model.name)
                except Refusal:
                    continue

    async def close(self) -> None:
        """Finish and close everything."""
        for model in self.models.values():
            async with model.lock:
                for version in (model.current, model.previous):
                    await self._close(version)
                model.current = model.previous = None
                model.state, model.reason = "UNAVAILABLE", "the service has ended"

    async def _close(self, version: Version | None) -> None:
        if version:
            await asyncio.to_thread(version.station.close, self._limits.drain)


def _open(model: Model, digest: str, options: Options, limits: Limits) -> Version:
    from edgeinfer import golden
    from edgeinfer.loading import load

    bundle = Bundle.open(model.path)
    decode, conf = bundle.spec.decode, options.conf
    score = None
    if isinstance(decode, Boxes):
        # golden samples may be recorded below the confidence that is served; boxes below it hide none above it
        score = decode.score if conf is None else conf
        lowest = golden.lowest_score(bundle)
        conf = score if lowest is None else min(score, lowest)
        score = None if conf == score else score
    facts: dict[str, Any] = {"threads": options.threads, "contexts": options.contexts}
    if isinstance(decode, Boxes):
        facts.update(conf=conf, iou=options.iou)
    pipeline = load(bundle, options.backend, options.precision, **facts)
    try:
        _test(pipeline, bundle)
    except EdgeInferError:
        pipeline.close()
        raise
    return Version(model.opened, bundle, digest, Station(pipeline, limits, score))


def _test(pipeline: Pipeline, bundle: Bundle) -> None:
    """The golden samples on every context; a bundle that has none must bear a grey picture."""
    from edgeinfer import golden

    if not bundle.spec.golden:
        import numpy as np

        pipeline(np.full((64, 64, 3), 114, np.uint8))
        return
    precision = next((one.precision for one in bundle.spec.artifacts if one.file == pipeline.artifact), "fp32")
    for report in golden.check(pipeline, bundle, precision):
        if not report.passed:
            raise EngineError(f"golden sample {report.image}: {report.detail}", hint="export the bundle again")


def _about(version: Version) -> str:
    pipeline = version.station.pipeline
    golden = len(version.bundle.spec.golden)
    tested = f"{golden} golden samples passed" if golden else "it has no golden samples"
    return f"{pipeline.backend} {pipeline.artifact or '(no file)'}, {tested}"


def folders(paths: Sequence[Path]) -> list[Path]:
    """Each path that is a bundle, and the bundles in each that is a folder of them."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(one.parent for one in path.glob(f"[!.]*/{SPEC_FILE}")) if path.is_dir() else []
        found += [path] if not inside or (path / SPEC_FILE).exists() else inside
    if not found:
        raise ServiceError("there is no bundle to serve", hint="edgeinfer serve engines/yolov5s")
    return found
