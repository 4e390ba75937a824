"""The machine's clock, which people and time servers set, beside the one that only goes on."""

from __future__ import annotations

import time

STEP_S = 0.05  # a clock that is slewed moves less between two looks


class WallClock:
    """Tells whether the clock was set since the last look. However late a look is, that is not mistaken for it."""

    def __init__(self) -> None:
        self._least, self._most = _apart()

    def was_set(self) -> bool:
        least, most = _apart()
        jumped = least > self._most + STEP_S or most < self._least - STEP_S
        self._least, self._most = least, most
        return jumped


def _apart() -> tuple[float, float]:
    """Seconds between the two clocks, at least and at most: they cannot be read at the same moment."""
    before = time.monotonic()
    now = time.time()
    return now - time.monotonic(), now - before
