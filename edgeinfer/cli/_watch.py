"""Tells when a camera or stream falls ill, and when it is well again."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from edgeinfer.cli._tables import line

if TYPE_CHECKING:
    from edgeinfer.streams import Stream
    from edgeinfer.streams.vitals import Health

EVERY_S = 0.2
GRACE_S = 2.0  # in which a camera may give its first picture


class Watch(threading.Thread):
    """Prints a line to stderr whenever a source's health changes, while the block lasts."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(name="watch", daemon=True)
        self._stream, self._over = stream, threading.Event()

    def run(self) -> None:
        """The thread's work."""
        well = dict.fromkeys(self._stream.names, True)
        rest_s = GRACE_S
        while not self._over.wait(rest_s):
            for name, health in zip(self._stream.names, self._stream.health().values()):
                if health.well != well[name]:
                    print(line(_told(name, health)), file=sys.stderr)
                well[name] = health.well
            rest_s = EVERY_S

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _told(name: str, health: Health) -> str:
    if health.well:
        return f"{name}: well again"
    return f"warning: {health.reason}" if name in health.reason else f"warning: {name}: {health.reason}"
