"""The models that are served, and their versions: opened beside the running one, tested, switched, rolled back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer.bundle import SPEC_FILE
from edgeinfer.errors import EdgeInferError, ServiceError, UsageError
from edgeinfer.serve import versions
from edgeinfer.serve.faces import FACES, IMAGE
from edgeinfer.serve.refusals import INVALID, NOT_FOUND, UNAVAILABLE, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.serve.faces import Face
    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.tally import Tally
    from edgeinfer.serve.versions import Options, Version

LOG = logging.getLogger("edgeinfer.serve")


class Model:
    """A folder, and the version of it that is served. `reason` says why there is none, or why the last was refused."""

    def __init__(self, path: Path, classify: Path | None) -> None:
        self.name, self.path, self._classify = path.name, path, classify
        self.current: Version | None = None
        self.previous: Version | None = None
        self.state, self.reason = "UNAVAILABLE", "not loaded yet"
        self.opened, self.refused = 0, ""
        self.lock = asyncio.Lock()

    def digest(self) -> str:
        """What tells the version that the folder holds now from others; empty while there is none."""
        return versions.digest(self.path, self._classify)

    def changed(self) -> bool:
        """Whether the folder holds a version that is neither served nor was refused."""
        found = self.digest()
        return bool(found) and found not in (self.current.digest if self.current else "", self.refused)


class Found(NamedTuple):
    """What a model's name in a request means."""

    model: Model
    suffix: str
    version: Version

    @property
    def face(self) -> Face:
        return self.version.faces[self.suffix]

    @property
    def name(self) -> str:
        return self.model.name + self.suffix

    @property
    def tally(self) -> Tally:
        return self.version.tallies[self.suffix]


class Repository:
    """All models. Its coroutines run on one event loop; versions are opened and closed on other threads."""

    def __init__(self, folders: Sequence[Path], options: Options, limits: Limits) -> None:
        self._options, self._limits, self.device = options, limits, options.device
        models = [Model(folder.resolve(), options.classify) for folder in folders]
        self.models = {model.name: model for model in models}
        served = [model.name + suffix for model in models for suffix in FACES]
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
        return Found(model, name[len(model.name) :], model.current)

    def served(self) -> list[Found]:
        """Every face of every model that has a version."""
        return [Found(model, one, model.current) for model in self.models.values() if model.current for one in FACES]

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
            rows += [{"name": model.name + suffix, **row} for suffix in FACES]
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
                what = model.opened, digest, model.path, self._options, self._limits
                version = await asyncio.to_thread(versions.opened, *what)
            except EdgeInferError as error:
                model.refused, model.reason = digest, str(error)
                model.state = "READY" if model.current else "UNAVAILABLE"
                kept = f"; version {model.current.number} stays" if model.current else ""
                LOG.error("%s: version %d is refused: %s%s", model.name, model.opened, error, kept)  # noqa: TRY400
                raise Refusal(INVALID, f"model {model.name!r}: {error}{kept}") from error
            dropped = model.previous
            model.current, model.previous = version, model.current
            model.state, model.reason, model.refused = "READY", "", ""
            LOG.info("%s: version %d is served, %s", model.name, version.number, version)
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


def folders(paths: Sequence[Path]) -> list[Path]:
    """Each path that is a bundle, and the bundles in each that is a folder of them."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(one.parent for one in path.glob(f"[!.]*/{SPEC_FILE}")) if path.is_dir() else []
        found += [path] if not inside or (path / SPEC_FILE).exists() else inside
    if not found:
        raise ServiceError("there is no bundle to serve", hint="edgeinfer serve engines/yolov5s")
    return found
