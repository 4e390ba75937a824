"""Who calls by gRPC: so many at once and no more, and who keeps the service waiting gives way to who does not."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.serve.refusals import OVERLOADED, SLOW, Refusal, ending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.serve.limits import Limits

RESERVED = 16  # places beyond the limit that are kept for questions of health


class Wait(NamedTuple):
    """A call's wait: since when, by the loop's clock, and whether it would go on without end, as a stream's."""

    since: float
    stream: bool


class Callers:
    """The calls under way, whose messages are read here: gRPC itself would wait for one without end.

    A call that has waited for its client, or watched, for `limits.slow` gives its place to another that finds all of
    them taken.
    """

    def __init__(self, limits: Limits) -> None:
        self._most, self._slow = limits.connections, limits.slow
        self._inside, self._over = 0, False
        self._waits: dict[asyncio.Future[Any], Wait] = {}  # the longest first

    @contextmanager
    def place(self, *, reserved: bool = False) -> Iterator[None]:
        """A call's place while the block lasts. Refusal if there is none."""
        most = self._most + RESERVED if reserved else self._most
        if self._inside >= most and not self._gave_way():
            raise Refusal(OVERLOADED, f"{self._inside} calls are under way, and no more are allowed")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def message(self, context: Any, *, stream: bool = False) -> Any:
        """The call's next message, or grpc.aio.EOF. Refusal if its place was needed, or the service ends."""
        with self.wait(stream=stream) as came:
            reading = asyncio.ensure_future(context.read())
            reading.add_done_callback(partial(_hand_over, came))
            return await came

    @contextmanager
    def wait(self, *, stream: bool) -> Iterator[asyncio.Future[Any]]:
        """While the block lasts the call waits, or watches; the future fails with a Refusal once it must go."""
        if stream and self._over:
            raise ending()
        loop = asyncio.get_running_loop()
        came: asyncio.Future[Any] = loop.create_future()
        self._waits[came] = Wait(loop.time(), stream)
        try:
            yield came
        finally:
            self._waits.pop(came, None)
            if came.done() and not came.cancelled():
                came.exception()  # else asyncio logs what nobody heard: the call may have ended of itself

    def end(self) -> None:
        """Send away the streams that wait, now and from now on: they would hold up the service's end."""
        self._over = True
        for came in [came for came, wait in self._waits.items() if wait.stream]:
            self._send_away(came, ending())

    def _gave_way(self) -> bool:
        came = next((one for one in self._waits if not one.done()), None)  # its message may have come this moment
        if came is None or asyncio.get_running_loop().time() - self._waits[came].since < self._slow:
            return False
        self._send_away(came, Refusal(SLOW, f"no message came in {self._slow:g} s, and its place was needed"))
        return True

    def _send_away(self, came: asyncio.Future[Any], why: Refusal) -> None:
        del self._waits[came]
        if not came.done():
            came.set_exception(why)


def _hand_over(came: asyncio.Future[Any], reading: asyncio.Future[Any]) -> None:
    """What was read, to whoever still waits for it."""
    error = None if reading.cancelled() else reading.exception()
    if came.done():
        return
    if reading.cancelled():
        came.cancel()
    elif error:
        came.set_exception(error)
    else:
        came.set_result(reading.result())
