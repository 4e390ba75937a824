"""Request bodies, read and unpacked within limits of size, memory and time; and the picture in one."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from edgeinfer.serve.refusals import ENCODED, INVALID, SLOW, TOO_LARGE, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from starlette.requests import Request

    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.memory import Memory

PACKED = {"gzip": 31, "deflate": 15}  # what zlib calls these encodings of a body
LEAST_RATE = 1000  # bytes in a second that a sender must bring
PIECE = 4 << 20  # bytes that are unpacked at a time


class Bodies:
    """The bodies of all requests under way; each has its share of the memory."""

    def __init__(
        self, limits: Limits, memory: Memory, off_loop: Callable[[Callable[[], bytes]], Awaitable[bytes]]
    ) -> None:
        self._limits, self._memory, self._off_loop = limits, memory, off_loop

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """One request's body, counted while the block lasts. Refusal if it is too large, too slow, or not as told."""
        declared, packed = self._declared(request), _packed(request)
        received: list[bytes] = []
        with self._memory.share() as take:
            await self._in_time(asyncio.ensure_future(self._read(request, received, take)), received)
            body = b"".join(received)
            received.clear()
            if declared not in (None, len(body)):
                raise Refusal(INVALID, f"the body is {len(body)} bytes, Content-Length says {declared}")
            yield await self._unpacked(body, packed, take) if packed else body

    async def _read(self, request: Request, received: list[bytes], take: Callable[[int], None]) -> None:
        counted, more = 0, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise Refusal(INVALID, "the client has gone")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            counted += len(chunk)
            self._need_small(counted)
            take(len(chunk))
            if chunk:
                received.append(chunk)

    async def _in_time(self, reading: asyncio.Future[None], received: list[bytes]) -> None:
        """Wait as long as every look finds that enough came since the one before."""
        pause, seen = self._limits.slow, 0
        try:
            while not (await asyncio.wait((reading,), timeout=pause))[0]:
                before, seen = seen, sum(map(len, received))
                if seen - before < pause * LEAST_RATE:
                    raise Refusal(SLOW, f"only {seen - before} bytes of the body came in {pause:g} s")
            reading.result()
        finally:
            reading.cancel()

    def _need_small(self, size: int) -> None:
        if size > self._limits.body:
            raise Refusal(TOO_LARGE, f"the body is more than the {self._limits.body} bytes allowed")

    async def _unpacked(self, body: bytes, encoding: str, take: Callable[[int], None]) -> bytes:
        """What the body was before it was packed: a piece at a time, so that none grows beyond what is allowed."""
        unpacking, parts, counted = zlib.decompressobj(PACKED[encoding]), [], 0
        while not unpacking.eof:
            try:
                part = await self._off_loop(partial(unpacking.decompress, body, PIECE))
            except zlib.error as error:
                raise Refusal(INVALID, f"the body is not {encoding}: {error}") from error
            body = unpacking.unconsumed_tail
            if not part and not unpacking.eof:
                raise Refusal(INVALID, f"the body ends within its {encoding}")
            counted += len(part)
            self._need_small(counted)
            take(len(part))
            parts.append(part)
        if unpacking.unused_data:
            raise Refusal(INVALID, f"the body goes on after its {encoding}")
        return b"".join(parts)

    def _declared(self, request: Request) -> int | None:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return None
        if int(length) > self._limits.body:
            raise Refusal(TOO_LARGE, f"the body is {length[:20]} bytes, more than the {self._limits.body} allowed")
        return int(length)


def _packed(request: Request) -> str:
    """How the body is packed; empty if it is not."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding not in PACKED:
        raise Refusal(ENCODED, f"content-encoding {encoding[:30]!r} is not one of {', '.join(PACKED)}")
    return encoding


async def picture(request: Request, body: bytes) -> tuple[str, bytes]:
    """The name and bytes of the picture in a body, or of the first file in a form."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        if not body:
            raise Refusal(INVALID, "the body is empty; send a picture file, or a form with one")
        return "upload", body
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> Any:
        yield body

    try:
        parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=8)
        parser.spool_max_size = len(body)  # pictures are kept off the disk
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(INVALID, f"the form cannot be read: {error.message[:100]}") from error
    for value in form.values():
        if isinstance(value, UploadFile):
            return (value.filename or "upload")[:200], await value.read()
    raise Refusal(INVALID, "the form has no file in it")
