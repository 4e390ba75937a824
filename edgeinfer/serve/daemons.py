"""Daemon threads for blocking work: what hangs in an engine or on a disk does not hold up the end of the process."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Callable, TypeVar

from edgeinfer.serve.refusals import OVERLOADED, Refusal

T = TypeVar("T")


class DaemonThreads:
    """A thread for each piece of work; asyncio's own threads would hold up the process until the last is done."""

    def __init__(self) -> None:
        self._running: set[Future[Any]] = set()

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """What `work` gives; it goes on when nobody waits for it any more. Refusal if no thread can be started."""
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()  # a thread cannot be called back

        def run() -> None:
            try:
                done.set_result(work(*given))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                done.set_exception(error)

        try:
            threading.Thread(target=run, name="daemon", daemon=True).start()
        except RuntimeError as error:
            raise Refusal(OVERLOADED, "the service can start no more threads (ulimit -u)") from error
        self._running.add(done)
        done.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(done)

    async def settle(self, timeout: float) -> None:
        """Wait so many seconds for what is still at work: the end would break it off within a library."""
        running = asyncio.gather(*map(asyncio.wrap_future, self._running), return_exceptions=True)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(running, timeout)
