"""The models that are served, and their versions: opened beside the running one, tested, switched, rolled back."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.serve import versions
from edgeinfer.serve.daemons import DaemonThreads
from edgeinfer.serve.faces import FACES, IMAGE
from edgeinfer.serve.folders import Folders
from edgeinfer.serve.refusals import INVALID, NOT_FOUND, UNAVAILABLE, Refusal, ending

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeinfer.serve.faces import Face
    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.tally import Tally
    from edgeinfer.serve.versions import Options, Version

LOG = logging.getLogger("edgeinfer.serve")
GONE_S = 1.0  # for so long a bundle must be away: one that is exchanged for another is away for a moment


class Model:
    """A folder, and the version of it that is served. `reason` says why there is none, or why the last was refused.

    What the folder holds is no news if its digest is that of the version served, or `left` for another on purpose, or
    if its files are still in the state that was `refused`.
    """

    def __init__(self, path: Path, classify: Path | None) -> None:
        self.name, self.path, self._classify = versions.as_text(path.name), path, classify
        self.current: Version | None = None
        self.previous: Version | None = None
        self.state, self.reason = "UNAVAILABLE", "not loaded yet"
        self.opened, self.left = 0, ""
        self.refused: versions.State = ()
        self.waiting = False
        self.lock = asyncio.Lock()

    def news(self) -> versions.State:
        """The state of the folder's files if that is news; empty if not."""
        found, version = versions.digest(self.path, self._classify), self.current
        if not found or found in (version.digest if version else "", self.left):
            return ()
        files = versions.state(self.path, self._classify)
        return files if files != self.refused else ()

    def look(self) -> tuple[str, versions.State]:
        """What the folder holds now: the digest of its version, empty while there is none; the state of its files."""
        return versions.digest(self.path, self._classify), versions.state(self.path, self._classify)

    def check_whole(self) -> None:
        """EdgeInferError or OSError if the folder does not hold all that its model.json names."""
        versions.check_whole(self.path, self._classify)


class Found(NamedTuple):
    """What a model's name in a request means; `asked` is the version that it asked for, if it did."""

    model: Model
    suffix: str
    version: Version
    asked: str = ""

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

    def __init__(self, paths: Sequence[Path], options: Options, limits: Limits) -> None:
        self._options, self._limits, self.device = options, limits, options.device
        self._folders, self._looking, self._glancing = Folders(paths), asyncio.Lock(), asyncio.Lock()
        self.models: dict[str, Model] = {}
        self.threads = DaemonThreads()
        self._closed = False
        self._nameless: set[Path] = set()
        for folder in self._folders.bundles():
            self._add(folder)

    @property
    def empty(self) -> list[Path]:
        """Folders that were named and hold no bundle yet."""
        return self._folders.empty

    def _add(self, folder: Path) -> None:
        """Have a model of this folder, which is yet to be loaded. UsageError if another is called the same."""
        model = Model(folder, self._options.classify)
        taken = {name + suffix for name in self.models for suffix in FACES}
        twice = sorted(taken & {model.name + suffix for suffix in FACES})
        if twice:
            raise UsageError(f"two models would be called {twice[0]}", hint="a model is called as its folder")
        self.models[model.name] = model

    def model(self, name: str) -> Model:
        """The model, whichever face is named. Refusal if there is none."""
        model = self._known(name)
        if not model:
            raise Refusal(NOT_FOUND, f"model {name[:100]!r} is not served here")
        return model

    def _known(self, name: str) -> Model | None:
        plain = name[: -len(IMAGE)] if name.endswith(IMAGE) and name not in self.models else name
        return self.models.get(plain)

    def find(self, name: str, version: str = "") -> Found:
        """The served version behind this name. Refusal if there is none."""
        model = self.model(name)
        if not model.current:
            raise Refusal(UNAVAILABLE, f"model {name!r} is not ready: {model.reason}")
        if version not in ("", str(model.current.number)):
            raise Refusal(
                NOT_FOUND, f"model {name!r} has no version {version[:20]!r}; {model.current.number} is served"
            )
        return Found(model, name[len(model.name) :], model.current, version)

    def served(self) -> list[Found]:
        """Every face of every model that has a version."""
        return [Found(model, one, model.current) for model in self.models.values() if model.current for one in FACES]

    async def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """The repository extension's list: all that could be loaded now, or what is `ready`."""
        coming = [] if ready else [Model(folder, self._options.classify) for folder in await self._coming()]
        rows = []
        for model in (*self.models.values(), *(one for one in coming if one.name not in self.models)):
            version = model.current
            fault = version.fault if version else ""
            state = "UNAVAILABLE" if fault else model.state
            if ready and state != "READY":
                continue
            number = str(version.number) if version else ""
            row = {"version": number, "state": state, "reason": fault or model.reason}
            rows += [{"name": model.name + suffix, **row} for suffix in FACES]
        return rows

    async def load(self, name: str, *, news: bool = False) -> None:
        """Open the folder beside the running version, test it, and switch; Refusal keeps the running one.

        With `news` nothing is done where another load was faster. The bundle may have come since the folders were
        looked at. The load goes on when nobody waits for it any more.
        """
        await asyncio.shield(self._load(name, news=news))

    async def _load(self, name: str, *, news: bool) -> None:
        if not self._known(name):
            async with self._looking:
                await self._meet()
        model = self.model(name)
        async with model.lock:
            if news and not await self.threads.run(model.news):
                return
            if not model.current:
                model.state = "LOADING"
            model.opened += 1
            digest, model.refused = await self.threads.run(model.look)
            model.waiting = False
            if self._closed:
                raise ending()
            try:
                what = model.opened, digest, model.path, self._options, self._limits
                version = await self.threads.run(versions.opened, *what)
            except Exception as error:  # noqa: BLE001 - whoever asked is told, and the log
                self._refuse(model, error)
            dropped, model.previous, model.current = model.previous, model.current, version
            model.state, model.reason, model.refused, model.left = "READY", "", (), ""
            LOG.info("%s: version %d is served, %s", model.name, version.number, version)
            await self._close(dropped)

    def _refuse(self, model: Model, error: Exception) -> NoReturn:
        model.reason = versions.cause(error)
        model.state = "READY" if model.current else "UNAVAILABLE"
        kept = f"; version {model.current.number} stays" if model.current else ""
        known = isinstance(error, (EdgeInferError, OSError, MemoryError))
        LOG.error("%s: version %d is refused: %s%s", model.name, model.opened, model.reason, kept, exc_info=not known)
        raise Refusal(INVALID, f"model {model.name!r}: {model.reason}{kept}") from error

    async def unload(self, name: str) -> None:
        """Stop serving a model; what waits is finished, though nobody waits for it any more."""
        await asyncio.shield(self._unload(name))

    async def _unload(self, name: str) -> None:
        model = self.model(name)
        async with model.lock:
            if model.current:
                # the folder still holds it: it must not be taken for a new one
                model.left = model.current.digest
            await self._end(model, "unloaded")
        LOG.info("%s: unloaded", model.name)

    async def rollback(self, name: str) -> None:
        """Exchange the running version and the one before it."""
        model = self.model(name)
        async with model.lock:
            if not model.current or not model.previous:
                raise Refusal(INVALID, f"model {model.name!r} has no version to go back to")
            # the folder still holds the version that is left: it must not be taken for a new one
            model.left = model.current.digest
            model.current, model.previous = model.previous, model.current
            LOG.info("%s: back to version %d", model.name, model.current.number)

    async def reload(self) -> None:
        """Do as the folders have it: load what is new there, or changed, and whole, and let go what was taken away.

        A model whose new version is refused keeps what it has.
        """
        async with self._looking:
            await self._drop()
            await self._meet()
            for model in list(self.models.values()):
                await self._renew(model)

    async def _drop(self) -> None:
        """Let go the models whose bundles were taken from their folder of bundles."""
        gone = await self.threads.run(self._lacking)
        if gone:
            await asyncio.sleep(GONE_S)
            still = await self.threads.run(self._lacking)
            for model in (one for one in gone if one in still):
                LOG.info("%s: its folder is gone, and it is unloaded", model.name)
                del self.models[model.name]
                await self._finish(model, "its folder is gone")

    def _lacking(self) -> list[Model]:
        return [model for model in list(self.models.values()) if self._folders.lacks(model.path)]

    async def _coming(self) -> list[Path]:
        """Bundles that have come to their folder, and are no models yet; one look at a time, however many ask."""
        async with self._glancing:
            present = await self.threads.run(self._folders.bundles)
        self._nameless &= set(present)
        known = self._nameless.union(model.path for model in self.models.values())
        return [folder for folder in present if folder not in known]

    async def _meet(self) -> None:
        """Have a model of each bundle that has come."""
        for folder in await self._coming():
            try:
                self._add(folder)
            except UsageError as error:
                self._nameless.add(folder)
                LOG.error("%s is not served: %s", folder, error)  # noqa: TRY400

    async def _renew(self, model: Model) -> None:
        """Load what the folder holds if that is news, once it is whole: it may be on its way here, file by file."""
        files = await self.threads.run(model.news)
        if not files:
            return
        try:
            await self.threads.run(model.check_whole)
        except (EdgeInferError, OSError) as error:
            model.refused, model.reason = files, f"not whole yet: {versions.cause(error)}"
            if not model.waiting:
                LOG.warning("%s: what is in its folder is not whole, and is waited for: %s", model.name, error)
            model.waiting = True
            return
        with suppress(Refusal):
            await self.load(model.name, news=True)

    async def close(self) -> None:
        """Finish and close everything; open nothing more."""
        self._closed = True
        await self.threads.settle(self._limits.drain)
        for model in list(self.models.values()):
            with suppress(asyncio.TimeoutError, Refusal):  # an engine hangs as it is opened; there is no thread for it
                await asyncio.wait_for(self._finish(model, "the service has ended"), self._limits.drain)

    async def _finish(self, model: Model, reason: str) -> None:
        async with model.lock:
            await self._end(model, reason)

    async def _end(self, model: Model, reason: str) -> None:
        """Finish and close the model's versions."""
        ended = (model.current, model.previous)
        model.current = model.previous = None
        model.state, model.reason = "UNAVAILABLE", reason
        for version in ended:
            await self._close(version)

    async def _close(self, version: Version | None) -> None:
        if version:
            await self.threads.run(version.station.close, self._limits.drain)
