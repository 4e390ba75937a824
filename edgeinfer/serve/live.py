"""A camera's live picture: drawn and encoded once for all who watch, and only while somebody does."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from starlette.responses import Response

from edgeinfer import drawing, pictures
from edgeinfer.serve.refusals import OVERLOADED, Refusal, ending
from edgeinfer.serve.replies import disconnected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from starlette.types import Receive, Scope, Send

    from edgeinfer.serve.cameras import Camera, Look

SIDE = 1280  # pixels of a live picture's longer side at most
QUALITY = 80
AGAIN_S = 0.25  # how often a camera that gives nothing is looked at
EMPTY = 360, 640  # height and width of the picture of a camera that has not shown anything yet
BOUNDARY = "edgeinfer"


class Shown(NamedTuple):
    """A JPEG, the look it was drawn from, and what tells it from the one before."""

    key: str
    look: Look
    jpeg: bytes


class Live:
    """What watchers of one camera share. Its methods are the event loop's; drawing is done off it."""

    def __init__(self, camera: Camera, off_loop: Callable[[Callable[[], bytes]], Awaitable[bytes]]) -> None:
        self.camera = camera
        self._off_loop, self._loop = off_loop, asyncio.get_running_loop()
        self._news, self._drawing, self._closed = self._loop.create_future(), asyncio.Lock(), False
        self._shown: Shown | None = None
        camera.arrived = self._arrived

    def _arrived(self) -> None:
        """Called from the camera's thread with each result."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        news, self._news = self._news, self._loop.create_future()
        news.set_result(None)

    async def differs(self, key: str, patience_s: float = math.inf) -> bool:
        """Whether the newest picture is not the one called `key`, as soon as it is not; Refusal once the service ends.

        False if it is the same for so long.
        """
        late = self._loop.time() + patience_s
        while not self._closed and self.camera.look().key == key:
            left = late - self._loop.time()
            if left <= 0:
                return False
            # asyncio.wait_for is not told, before Python 3.12, that who waits has left as the news came
            await asyncio.wait((self._news,), timeout=min(left, AGAIN_S))
        if self._closed:
            raise ending()
        return True

    async def newest(self) -> Shown:
        """The newest picture. Those that nobody was there to take are never drawn."""
        async with self._drawing:
            look = self.camera.look()
            if self._shown is None or self._shown.key != look.key:
                jpeg = await self._off_loop(lambda: _drawn(self.camera.name, look))
                self._shown = Shown(look.key, look, jpeg)
            return self._shown

    def close(self) -> None:
        """Send everybody away."""
        self._closed = True
        self._wake()


class Gallery:
    """The live pictures of all cameras, and the places of those who watch."""

    def __init__(self, places: int, off_loop: Callable[[Callable[[], bytes]], Awaitable[bytes]]) -> None:
        self.watching = 0
        self._places, self._off_loop = places, off_loop
        self._lives: dict[str, Live] = {}
        self._closed = False

    def of(self, camera: Camera) -> Live:
        """The camera's live picture; Refusal once the service ends."""
        if self._closed:
            raise ending()
        if camera.name not in self._lives:
            self._lives[camera.name] = Live(camera, self._off_loop)
        return self._lives[camera.name]

    def need_place(self) -> None:
        """Refusal if nobody more can watch."""
        if self.watching >= self._places:
            raise Refusal(OVERLOADED, f"{self.watching} watch already, which is the limit")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place while the block lasts."""
        self.watching += 1
        try:
            yield
        finally:
            self.watching -= 1

    def close(self) -> None:
        """End every live picture."""
        self._closed = True
        for live in self._lives.values():
            live.close()


class Motion(Response):
    """Motion JPEG without end; whoever is too slow for a picture gets the newest one next."""

    def __init__(self, live: Live, gallery: Gallery) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        self.headers["content-type"] = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        del self.headers["content-length"]
        self._live, self._gallery = live, gallery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        with self._gallery.place():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.ensure_future(self._send(send))
            left = asyncio.ensure_future(disconnected(receive))
            await asyncio.wait((sending, left), return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, left):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Refusal):
                await sending
        await send({"type": "http.response.body", "body": f"--{BOUNDARY}--\r\n".encode()})

    async def _send(self, send: Send) -> None:
        key = ""
        while True:
            await self._live.differs(key)
            shown = await self._live.newest()
            key = shown.key
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shown.jpeg)}\r\n"
            about = "".join(f"{name}: {value}\r\n" for name, value in described(shown).items())
            part = f"{head}{about}\r\n".encode() + shown.jpeg + b"\r\n"
            await send({"type": "http.response.body", "body": part, "more_body": True})


def described(shown: Shown) -> dict[str, str]:
    """Headers that go with a picture: its age when it is sent, and at most, its number, and how the camera is."""
    age_s = time.monotonic() - shown.look.seen.freshness.captured_ns / 1e9 if shown.look.seen else shown.look.age_s
    ages = {"X-Age-Ms": f"{age_s * 1e3:.0f}", "X-Max-Age-Ms": f"{shown.look.limit_s * 1e3:.0f}"}
    about = {**ages, "X-Picture": shown.key, "X-Health": shown.look.health.color}
    reason = " ".join(shown.look.health.reason.encode("ascii", "replace").decode().split())
    return {**about, "X-Health-Reason": reason[:200]}


def _drawn(name: str, look: Look) -> bytes:
    """The newest picture with its boxes and the time it was captured; grey under a red bar while the camera is ill."""
    import cv2
    import numpy as np

    seen = look.seen
    image: Any = seen.result.draw(seen.frame.bgr()) if seen else np.full((*EMPTY, 3), 40, np.uint8)
    scale = SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if look.health.well:
        captured = time.localtime(time.time() - look.age_s)
        image = drawing.stamped(image, f"{name} {time.strftime('%H:%M:%S', captured)}")
    else:
        what = f"NOT LIVE, {look.age_s:.0f} s old" if seen else "no picture"
        image = drawing.crossed(image, [f"{name}: {what}", look.health.reason])
    return pictures.encode(image, ".jpg", QUALITY)
