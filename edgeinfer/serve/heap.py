"""The C library's heap: what requests freed stays for the next ones, and goes back to the system when none come.

glibc hands large blocks back as soon as they are free, and the system gives them out again page by page, each cleared:
for a tensor of megabytes that takes longer than copying it. It also gives threads heaps of their own, which keep
the most they ever held, for only the first can be trimmed: one for all keeps less. mallopt(3), malloc_trim(3); other C
libraries have neither, and are left as they are.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any, Callable

# parameters of mallopt, and the most that glibc takes for the second
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
KEPT, LARGEST = 256 << 20, 32 << 20  # bytes: free memory kept at the end of a heap; blocks that come from heaps
# whoever chose for themselves, by glibc's own environment variables, is heeded
CHOICES = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
)
IDLE_S = 10.0


class Heap:
    """Keeps freed memory from now on, and gives it back once nothing has used it for IDLE_S.

    Threads that begin later share the heap that there is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._library = clock, None if any(name in os.environ for name in CHOICES) else _glibc()
        self._uses, self._given, self._since = 0, True, clock()
        if self._library:
            self._library.mallopt(ARENA_MAX, 1)
            self._library.mallopt(MMAP_THRESHOLD, LARGEST)
            self._library.mallopt(TRIM_THRESHOLD, KEPT)

    def look(self, uses: int) -> None:
        """Now and then: `uses` counts all uses so far."""
        now = self._clock()
        if uses != self._uses:
            self._uses, self._given, self._since = uses, False, now
        elif not self._given and now - self._since >= IDLE_S:
            self._given = True
            if self._library:
                self._library.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process, if it is glibc."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
