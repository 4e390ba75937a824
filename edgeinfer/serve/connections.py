"""HTTP connections whose request heads must come in time: uvicorn waits for them without end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

    from edgeinfer.serve.limits import Limits


def prompt(limits: Limits) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn that hangs up on a head that takes longer than `limits.slow`."""

    class Connection(H11Protocol):
        """The clock runs from the connection, or from a head's first bytes, until the head is complete."""

        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle: Any = self.cycle  # None before the first request
            if cycle is None or cycle.response_complete:
                self._await_head()
            else:
                self._stop_clock()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._clock is None:
                self._clock = self.loop.call_later(limits.slow, self.transport.close)

        def _stop_clock(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

    return Connection
