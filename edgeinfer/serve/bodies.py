"""Request bodies, read within limits of size, memory and time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

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
        received: list[bytes] = []
        counted, declared = 0, self._declared(request)
        chunks = request.stream().__aiter__()
        with self._memory.share() as take:
            while (chunk := await self._next(chunks)) is not None:
                counted += len(chunk)
                if counted > self._limits.body:
                    raise Refusal(TOO_LARGE, f"the body is more than the {self._limits.body} bytes allowed")
                take(len(chunk))
                received.append(chunk)
            if declared is not None and declared != counted:
                raise Refusal(INVALID, f"the body is {counted} bytes, Content-Length says {declared}")
            body = b"".join(received)
            received.clear()
            yield body

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

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        from starlette.requests import ClientDisconnect

        try:
            return await asyncio.wait_for(chunks.__anext__(), self._limits.slow)
        except StopAsyncIteration:
            return None
        except (asyncio.TimeoutError, TimeoutError):
            raise Refusal(SLOW, f"nothing of the body came for {self._limits.slow:g} s") from None
        except ClientDisconnect:
            raise Refusal(INVALID, "the client has gone") from None
