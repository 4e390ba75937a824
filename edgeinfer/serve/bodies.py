"""Request bodies, read within limits of size, memory and time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Callable

from edgeinfer.serve.refusals import ENCODED, INVALID, SLOW, TOO_LARGE, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.memory import Memory


class Bodies:
    """The bodies of all requests under way; each has its share of the memory."""

    def __init__(self, limits: Limits, memory: Memory) -> None:
        self._limits, self._memory = limits, memory

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """One request's body, counted while the block lasts. Refusal if it is too large, too slow or encoded."""
        declared = self._declared(request)
        received: list[bytes] = []
        with self._memory.share() as take:
            await self._in_time(asyncio.ensure_future(self._read(request, received, take)), received)
            body = b"".join(received)
            received.clear()
            if declared not in (None, len(body)):
                raise Refusal(INVALID, f"the body is {len(body)} bytes, Content-Length says {declared}")
            yield body

    async def _read(self, request: Request, received: list[bytes], take: Callable[[int], None]) -> None:
        counted, more = 0, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise Refusal(INVALID, "the client has gone")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            counted += len(chunk)
            if counted > self._limits.body:
                raise Refusal(TOO_LARGE, f"the body is more than the {self._limits.body} bytes allowed")
            take(len(chunk))
            if chunk:
                received.append(chunk)

    async def _in_time(self, reading: asyncio.Future[None], received: list[bytes]) -> None:
        """Wait as long as every look finds that something came."""
        seen = -1
        try:
            while len(received) > seen:
                seen = len(received)
                if (await asyncio.wait((reading,), timeout=self._limits.slow))[0]:
                    return reading.result()
        finally:
            reading.cancel()
        raise Refusal(SLOW, f"nothing of the body came for {self._limits.slow:g} s")

    def _declared(self, request: Request) -> int | None:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refusal(ENCODED, f"content-encoding {encoding[:30]!r} is not supported; send the body as it is")
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return None
        if int(length) > self._limits.body:
            raise Refusal(TOO_LARGE, f"the body is {length[:20]} bytes, more than the {self._limits.body} allowed")
        return int(length)
