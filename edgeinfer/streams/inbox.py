"""Where captured frames wait for the model: the newest of each camera, every one of each file."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from edgeinfer.sources import Frame

READ_AHEAD = 4  # frames of a file that may wait


class Captured(NamedTuple):
    """A frame as its capture thread gave it.

    `camera` counts the sources; `sequence` counts this source's new pictures from 0, those dropped included;
    `dropped` were left out since the one before, because a newer one came; `fault` is what is wrong with it; `live`
    if it came from a camera, not from a file.
    """

    camera: int
    frame: Frame
    sequence: int
    fault: str
    live: bool
    dropped: int = 0


class Inbox:
    """Frames of so many sources; a live one replaces the one that waits, a file's waits its turn.

    One that lay in a buffer before a newer one is not worth the model's time.
    """

    def __init__(self, sources: int) -> None:
        self._waiting: list[deque[Captured]] = [deque() for _ in range(sources)]
        self._dropped = [0] * sources
        self._open = set(range(sources))
        self._turns = deque(range(sources))  # who was served longest ago comes first
        self._lock = threading.RLock()  # what `with` enters: the exception of a signal leaves that of C not taken
        self._changed = threading.Condition(self._lock)
        self._closed = False

    def put(self, captured: Captured) -> bool:
        """Hand a frame over, waiting for room if it is a file's; False once nobody takes frames any more."""
        camera = captured.camera
        waiting = self._waiting[camera]
        with self._lock:
            if captured.frame.behind:
                self._dropped[camera] += 1
                return not self._closed
            if captured.live and waiting:
                waiting.clear()
                self._dropped[camera] += 1
            self._changed.wait_for(lambda: len(waiting) < READ_AHEAD)  # which closing makes too
            if not self._closed:
                waiting.append(captured)
            self._changed.notify_all()
            return not self._closed

    def end(self, camera: int) -> None:
        """Nothing more comes from this source."""
        with self._lock:
            self._open.discard(camera)
            self._changed.notify_all()

    def wake(self) -> None:
        """Have the waiting look again."""
        with self._lock:
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of the frames, and of everybody who waits."""
        with self._lock:
            self._closed = True
            for waiting in self._waiting:
                waiting.clear()
            self._changed.notify_all()

    def take(self, most: int, enough: Callable[[], bool]) -> list[Captured]:
        """Up to `most` frames, one a camera and more of a file, whose turn has come.

        Waits for the first; gives none when `enough()` is true while none waits, or when none will come.
        """
        with self._lock:
            self._changed.wait_for(lambda: any(self._waiting) or self._closed or not self._open or enough())
            taken: list[Captured] = []
            for camera in list(self._turns):
                taken += self._served(camera, most - len(taken))
            self._changed.notify_all()
            return taken

    def _served(self, camera: int, most: int) -> list[Captured]:
        waiting = self._waiting[camera]
        taken: list[Captured] = []
        while waiting and len(taken) < most:
            taken.append(waiting.popleft()._replace(dropped=self._dropped[camera]))
            self._dropped[camera] = 0
        if taken:
            self._turns.remove(camera)
            self._turns.append(camera)
        return taken

    @property
    def drained(self) -> bool:
        """Whether no frame waits and none will come."""
        return self._closed or not (self._open or any(self._waiting))
