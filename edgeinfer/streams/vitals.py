"""Whether a source shows the present: repeated, frozen and black pictures, silence and lost connections."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATIENCE_S = 1.0  # without a new picture, or with black ones only, before a source counts as ill
INTERVALS = 2.5  # but no fewer than so many of the source's own frame intervals,
RECENT = 5  # as it tells them, or as most of the last so many were
STEP = 8  # every so many rows and columns are looked at first
BLACK = 16, 6.0  # the brightest sample and the mean of what counts as black, 0-255


class Health(NamedTuple):
    """Whether a source is well, and in a sentence why not."""

    well: bool
    reason: str = ""

    @property
    def color(self) -> str:
        return "green" if self.well else "red"


class Vitals:
    """What one capture thread saw, asked by anyone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        # when the newest picture was captured, the newest that differed from the one before, that was not black
        self._shown = self._changed = self._lit = 0.0
        self._told_s, self._intervals_s = 0.0, (0.0,) * RECENT
        self._lost = ""
        self._due, self._dark = True, False
        self._last: NDArray[Any] | None = None
        # since the start: pictures that came, those that were like the one before, connections made anew
        self.pictures = self.repeated = self.reconnects = 0

    def connected(self, fps: float) -> None:
        """The source was opened and gives so many frames a second (0: unknown)."""
        self._told_s = 1 / fps if fps else 0.0

    @property
    def patience(self) -> float:
        """Seconds without a new picture after which the source counts as ill."""
        return max(PATIENCE_S, INTERVALS * max(self._told_s, sorted(self._intervals_s)[RECENT // 2]))

    def saw(self, image: NDArray[Any], captured_s: float, pixels: str = "bgr") -> str:
        """Note a picture of that moment; what is wrong with it: "repeated", "black" or nothing."""
        repeated = _same(self._last, image)
        if not repeated:
            self._last = image.copy()  # whoever gets the picture may draw on it
            self._dark = _black(image, pixels)
        with self._lock:
            self.pictures += 1
            self.repeated += repeated
            self.reconnects += bool(self._lost and self._shown)
            if self._shown:
                self._intervals_s = (*self._intervals_s[1:], captured_s - self._shown)
            self._shown, self._lost = captured_s, ""
            self._changed = self._changed if repeated else captured_s
            self._lit = self._lit if self._dark else captured_s
        return "repeated" if repeated else "black" if self._dark else ""

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        with self._lock:
            self._lost = reason

    def nothing_due(self) -> None:
        """It is a file, or came to its end: only what was lost is wrong with it."""
        with self._lock:
            self._due = False

    def health(self) -> Health:
        """How the source is now."""
        now = time.monotonic()
        with self._lock:
            if self._lost or not self._due:
                return Health(well=not self._lost, reason=self._lost)
            if not self._shown:
                return Health(well=False, reason=f"no picture yet, {now - self._began:.1f} s after the start")
            for since, told in (
                (self._shown, "no picture of the last"),
                (self._lit, "black pictures for"),
                (self._changed, "the same picture for"),
            ):
                if now - since > self.patience:
                    return Health(well=False, reason=f"{told} {now - max(since, self._began):.1f} s")
            return Health(well=True)


def _same(last: NDArray[Any] | None, image: NDArray[Any]) -> bool:
    if last is None or last.shape != image.shape:
        return False
    return np.array_equal(last[::STEP, ::STEP], image[::STEP, ::STEP]) and np.array_equal(last, image)


def _black(image: NDArray[Any], pixels: str) -> bool:
    # of nv12 the upper two thirds are brightness, from 16 on; a fourth channel is no colour
    if pixels == "nv12":
        sample = np.maximum(image[: len(image) * 2 // 3 : STEP, ::STEP], 16) - 16
    else:
        sample = image[..., :3][::STEP, ::STEP]
    brightest, mean = BLACK
    return bool(sample.max() <= brightest and sample.mean() <= mean)
