"""HTTP connections whose other end must keep up: uvicorn waits for heads, and for readers, without end."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeinfer.serve.refusals import INVALID, OVERLOADED, Refusal
from edgeinfer.serve.replies import refused

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Receive, Scope, Send

    from edgeinfer.serve.limits import Limits


BEYOND = 32  # connections beyond the limit that are let in to be told of it
WAITING_BYTES = 16 * 1024  # that may lie in each buffer on the way to a reader: old pictures, if it is a slow one
LOG = logging.getLogger("edgeinfer.serve")
TOLD_S = 60.0  # between two lines of the log about connections that are hung up on
LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # after which asyncio waits for a second
CAMERAS = "/v1/cameras/"  # paths whose readers want the present, and no more of the past than must be
NOT_SENT_LOW_WATER = 25  # TCP_NOTSENT_LOWAT of Linux, which the socket module names from Python 3.12 on


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn that hangs up on heads and readers that pause for `limits.slow`.

    Connections beyond `limits.connections` are told that there are too many.
    """
    return type("LimitedConnection", (Connection,), {"_limits": limits})


async def too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of connections beyond the limit."""
    answer = refused(Refusal(OVERLOADED, "too many connections"))
    answer.headers["connection"] = "close"
    await answer(scope, receive, send)


class NoResources(OSError):
    """The system has no file or memory for a new connection now; the log has a line about it."""


def handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As the loop itself does with an exception that nobody awaits, but for NoResources, which has been logged."""
    if not isinstance(context.get("exception"), NoResources):
        loop.default_exception_handler(context)


class ListeningSocket(socket.socket):
    """A TCP socket that, once it listens, hangs up on who comes while `most` are there, be it only to shake hands.

    So it does while the process has no file to spare but the one it keeps for that. asyncio would try again, and tell
    of it, some thousand times a second.
    """

    def __init__(self, family: int, most: int) -> None:
        # the protocol is named because asyncio sends small answers at once only on what it knows to be TCP
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._most, self._inside = most, list[socket.socket]()
        self._spare, self._told = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -TOLD_S
        self._no_resources = False

    def accept(self) -> tuple[socket.socket, Any]:
        """As of any socket; ConnectionAbortedError, which asyncio passes over, if there is no room.

        NoResources, after which asyncio comes again in a second, where the system has none.
        """
        if self._no_resources:  # asyncio asks on until it hears of something else
            self._no_resources = False
            raise ConnectionAbortedError
        try:
            opened, address = self._accepted()
        except OSError as error:
            if error.errno not in LACKS:
                raise
            self._tell(f"connections wait: the system has nothing for more of them ({error.strerror})")
            self._no_resources = True
            raise NoResources(error.errno, error.strerror) from error
        self._inside = [one for one in self._inside if one.fileno() >= 0]
        if len(self._inside) >= self._most:
            opened.close()
            raise ConnectionAbortedError
        self._inside.append(opened)
        return opened, address

    def _accepted(self) -> tuple[socket.socket, Any]:
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._turn_away()
            raise ConnectionAbortedError from error

    def _turn_away(self) -> None:
        """Take in who waits, in the place of the spare file, and hang up. OSError if that place is lost to others."""
        self._tell("connections are hung up on: all files that the process may have are open (ulimit -n)")
        self._give_up_spare()
        try:
            super().accept()[0].close()
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _tell(self, line: str) -> None:
        if time.monotonic() - self._told >= TOLD_S:
            self._told = time.monotonic()
            LOG.error("%s", line)

    def _give_up_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
        self._spare = -1

    def close(self) -> None:
        """As of any socket."""
        super().close()
        self._give_up_spare()


class Connection(H11Protocol):
    """What `protocol` gives, once it has limits.

    The clock runs from the connection, or from a head's first bytes, until the head is complete.
    """

    over = False  # of all of a server's connections: it ends, and who is only just let in is sent away

    _limits: Limits
    _clock: asyncio.TimerHandle | None = None
    _reader_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self.app = too_many
        self._await_head()
        if self.over:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        scope: Any = self.scope  # None before the first request, as is the cycle
        if scope and scope["path"].startswith(CAMERAS):
            self._hold_little()
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self._await_head()
        else:
            self._stop_clock()

    def _hold_little(self) -> None:
        """Have the connection hold little that was not sent, where the system can: large answers take longer so."""
        self.transport.set_write_buffer_limits(high=WAITING_BYTES)
        if sys.platform == "linux":
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, NOT_SENT_LOW_WATER, WAITING_BYTES)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words, which are no JSON
        """Tell the sender of what is no HTTP; without a word where an answer has been begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            told = f"what came is no HTTP/1.1, or its head is more than the {self._limits.head} bytes allowed"
            answer = refused(Refusal(INVALID, told))
            headers = [*answer.raw_headers, (b"connection", b"close")]
            begun = h11.Response(status_code=answer.status_code, headers=headers, reason=b"Bad Request")
            for event in (begun, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._stop_reader_clock()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reader_clock()

    def _await_reader(self, unsent: int) -> None:
        """Go on as long as every look finds that something was read."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < unsent:
                self._await_reader(left)
            else:
                self.transport.abort()

        self._reader_clock = self.loop.call_later(self._limits.slow, look)

    def _stop_reader_clock(self) -> None:
        if self._reader_clock is not None:
            self._reader_clock.cancel()
            self._reader_clock = None

    def _await_head(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self._limits.slow, self.transport.close)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
