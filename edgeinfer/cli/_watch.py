"""Tells when a camera or stream falls ill, and when it is well again."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeinfer.streams import Stream

EVERY_S = 0.2


class Watch(threading.Thread):
    """Prints a line to stderr whenever a source's health changes, while the block lasts."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(name="watch", daemon=True)
        self._stream, self._over = stream, threading.Event()

    def run(self) -> None:
        """The thread's work."""
        well = dict.fromkeys(self._stream.health(), True)
        while not self._over.wait(EVERY_S):
            for name, health in self._stream.health().items():
                if health.well != well[name]:
                    print(f"{name}: well again" if health.well else f"warning: {health.reason}", file=sys.stderr)
                well[name] = health.well

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
