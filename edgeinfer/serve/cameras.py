"""Cameras of the service: their frames take turns at the models' queues, and every one says how fresh it is."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from edgeinfer import naming
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.serve.faces import IMAGE, Work
from edgeinfer.serve.live import Gallery
from edgeinfer.serve.refusals import NOT_FOUND, UNAVAILABLE, Refusal
from edgeinfer.streams import Stream
from edgeinfer.streams.vitals import Health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from edgeinfer.serve.repository import Found
    from edgeinfer.serve.service import Service
    from edgeinfer.streams import Seen

LOG = logging.getLogger("edgeinfer.serve")
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
REST_S = 0.05  # after a frame that was refused; the next one is the newest then
GRACE_S = 2.0  # in which a camera may give its first picture
CAUSES = ("newer", "repeated", "failed")


class Mount(NamedTuple):
    """A camera as it is asked for: what it is called, where its pictures come from, and which model looks at them."""

    name: str
    source: str
    model: str = ""

    @classmethod
    def parse(cls, text: str) -> Mount:
        """`door=rtsp://10.0.0.5/main`, or with a model `door@yolov5s=camera:0`; UsageError for anything else."""
        match = re.fullmatch(rf"({NAME})(?:@({NAME}))?=(.+)", text.strip(), re.DOTALL)
        shown = naming.without_password(match[3] if match else text)[:60]
        if not match:
            told = f"camera {shown!r} is not NAME[@MODEL]=SOURCE"
            raise UsageError(told, hint="door=rtsp://10.0.0.5/main; a name has letters, digits, dots, - and _")
        if not naming.is_address(match[3]):
            told = f"camera {match[1]}: {shown!r} is no camera or stream"
            raise UsageError(told, hint="camera:N, rtsp://..., http://... or gst:PIPELINE")
        return cls(match[1], match[3], match[2] or "")


@dataclass(frozen=True, eq=False)
class Look:
    """What a camera shows at one moment: its newest result, if there is one, by which model, and how the camera is.

    `age_s` is that of the newest picture that went through the model; from `limit_s` on it is not the present.
    """

    seen: Seen | None
    found: Found | None
    health: Health
    age_s: float
    limit_s: float

    @property
    def key(self) -> str:
        """Differs between looks that should be drawn anew: each result, and each second of an illness."""
        sequence = self.seen.freshness.sequence if self.seen else "none"
        return f"{sequence}" if self.health.well else f"{sequence}-{int(self.age_s)}"


class Turns:
    """A served model as a stream meets it: one frame at a time, behind the requests that came before it.

    Each camera has one place of its own in the model's queue: neither requests nor cameras can crowd the others out.
    Frames of several cameras that wait together share a batch, and a new version of the model takes over between two.
    """

    contexts = group = 1

    def __init__(self, service: Service, name: str) -> None:
        self._name, self._service, self._loop = name, service, asyncio.get_running_loop()
        self.found: Any = None  # the version that gave the newest result

    def batch(self, images: Sequence[Any], *, pixels: str = "bgr") -> list[Any]:
        """Results from the queue's other end; Refusal where there is no model."""
        return [self._one(Work(f"image {pixels}", image)) for image in images]

    def _one(self, work: Work) -> Any:
        result, self.found = asyncio.run_coroutine_threadsafe(self._service.turn(self._name, work), self._loop).result()
        return result


class Camera:
    """Follows one source with a thread of its own until it is closed; `arrived` is called there with each result."""

    def __init__(self, mount: Mount, model: str, service: Service) -> None:
        self.name, self.model, self.source = mount.name, model, naming.without_password(mount.source)
        self.dropped, self.results = Counter(dict.fromkeys(CAUSES, 0)), 0
        self.arrived: Callable[[], None] = lambda: None
        self._ages = service.metrics.camera_ages.labels(self.name)
        self._limits, self._began = service.limits, time.monotonic()
        self._turns = Turns(service, model + IMAGE)
        self._stream = Stream([mount.source], self._turns, patient=True, max_pixels=self._limits.pixels)
        (self.vitals,) = self._stream.vitals().values()
        self._newest: tuple[Seen, Found] | None = None
        self._trouble, self._refused, self._next = "", 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"camera {mount.name}", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                for seen in self._stream:
                    self._take(seen)
            except EdgeInferError as error:
                self._refuse(error)
            self._over.wait(REST_S)

    def _take(self, seen: Seen) -> None:
        fresh = seen.freshness
        self._newest, self._trouble = (seen, self._turns.found), ""
        self.results += 1
        self.dropped["newer"] += max(0, fresh.sequence - self._next - self._refused)
        self._next, self._refused = fresh.sequence + 1, 0
        self._ages.observe(fresh.age_ms / 1e3)
        self.arrived()

    def _refuse(self, error: EdgeInferError) -> None:
        self._trouble = str(error)
        self._refused += 1
        self.dropped["failed"] += 1

    def look(self) -> Look:
        """What there is to see now. Any thread may ask."""
        newest, health = self._newest, self.vitals.health()
        since = newest[0].freshness.captured_ns / 1e9 if newest else self._began
        age_s, limit_s = time.monotonic() - since, max(self._limits.age, self.vitals.patience)
        why = f": {self._trouble}" if self._trouble else ""
        if health.well and not newest:
            health = Health(well=False, reason=f"no result yet, {age_s:.1f} s after the start{why}")
        elif health.well and age_s > limit_s:
            health = Health(well=False, reason=f"the newest result is {age_s:.1f} s old{why}")
        seen, found = newest or (None, None)
        return Look(seen, found, health, age_s, limit_s)

    def drops(self) -> dict[str, int]:
        """How many pictures got no result, by cause."""
        return {**self.dropped, "repeated": self.vitals.repeated}

    def state(self) -> dict[str, Any]:
        """The JSON object that says how the camera is."""
        look = self.look()
        return {
            "name": self.name,
            "source": self.source,
            "model": look.found.model.name if look.found else self.model,
            "model_version": look.found.version.number if look.found else None,
            "health": {"color": look.health.color, "reason": look.health.reason},
            "freshness": _freshness(look),
            "pictures": self.vitals.pictures,
            "results": self.results,
            "dropped": self.drops(),
            "reconnects": self.vitals.reconnects,
        }

    def latest(self) -> dict[str, Any]:
        """The newest result as `edgeinfer run --json` writes it, with its age now; Refusal while there is none."""
        look = self.look()
        if not look.seen or not look.found:
            raise Refusal(UNAVAILABLE, f"camera {self.name!r}: {look.health.reason}")
        record = {"source": look.seen.frame.source, "index": look.seen.frame.index, **look.seen.result.to_dict()}
        version = {"model": look.found.model.name, "model_version": look.found.version.number}
        health = {"color": look.health.color, "reason": look.health.reason}
        return {**record, **version, "health": health, "freshness": _freshness(look)}

    def stop(self) -> None:
        """Take no more frames."""
        self._over.set()
        self._stream.stop()

    def end(self) -> None:
        """Wait for the frame under way, once stopped; call it off the event loop."""
        self._stream.close()
        self._thread.join()


class Cameras:
    """All cameras of a service, by name."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        names = [mount.name for mount in mounts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UsageError(f"two cameras are called {twice}", hint="give each a name of its own")
        self._mounts, self._well = mounts, dict.fromkeys(names, True)
        self._cameras: dict[str, Camera] = {}
        self.gallery: Any = None
        self._heard = 0.0  # when what they say is first worth a line in the log

    def __iter__(self) -> Any:
        return iter(list(self._cameras.values()))

    def find(self, name: str) -> Camera:
        """The camera called this. Refusal if there is none, or not yet."""
        if name not in self._well:
            raise Refusal(NOT_FOUND, f"there is no camera {name[:64]!r} here")
        if name not in self._cameras:
            raise Refusal(UNAVAILABLE, f"camera {name!r} is followed once models are loaded")
        return self._cameras[name]

    def start(self, service: Service) -> None:
        """Follow every camera; UsageError if one asks for a model that is not served.

        Where there is no model yet, a camera waits for the one it asks for.
        """
        models = list(service.repository.models)
        for mount in self._mounts:
            known = mount.model in models or not models if mount.model else len(models) == 1
            if not known:
                told = f"model {mount.model!r} is not served" if mount.model else "which model shall look?"
                one_of = f", one of {', '.join(models)}" if models else ""
                hint = f"--camera {mount.name}@{models[0] if models else 'MODEL'}=...{one_of}"
                raise UsageError(f"camera {mount.name}: {told}", hint=hint)
        self._heard = time.monotonic() + GRACE_S
        self.gallery = Gallery(service.limits.viewers, service.off_loop)
        for mount in self._mounts:
            model = mount.model or models[0]
            self._cameras[mount.name] = Camera(mount, model, service)

    def note(self) -> None:
        """Log which cameras fell ill or recovered since the last time."""
        if time.monotonic() < self._heard:
            return
        for camera in self:
            health = camera.look().health
            if health.well != self._well[camera.name]:
                self._well[camera.name] = health.well
                level = logging.INFO if health.well else logging.WARNING
                LOG.log(level, "camera %s: %s", camera.name, health.reason or "well again")

    async def close(self, off_loop: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Send those who watch away, and end all cameras at the same time: of a lost network all hang."""
        if self.gallery:
            self.gallery.close()
        for camera in self:
            camera.stop()
        await off_loop(self._wait)

    def _wait(self) -> None:
        for camera in self:
            camera.end()


def _freshness(look: Look) -> dict[str, Any] | None:
    """Of the newest result: `age_ms` is now, `latency_ms` was from its capture to its result."""
    if not look.seen:
        return None
    fresh = look.seen.freshness
    return {**fresh.to_dict(), "age_ms": round(look.age_s * 1e3, 1), "latency_ms": round(fresh.age_ms, 1)}
