"""A window that shows annotated pictures as they come."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeinfer.errors import EdgeInferError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.streams import Seen

TITLE = "edgeinfer (q quits)"
STILL_MS = 1000
QUIT_KEYS = (ord("q"), 27)


class Window:
    """`closed` once the user pressed q or Escape."""

    closed = False

    def add(self, seen: Seen) -> None:
        import cv2

        cv2.imshow(TITLE, seen.result.draw(seen.frame.bgr()))
        self.closed |= cv2.waitKey(1 if seen.frame.fps else STILL_MS) & 0xFF in QUIT_KEYS


@contextmanager
def window() -> Iterator[Window]:
    """A window while the block lasts; EdgeInferError where none can be."""
    import cv2

    hint = "save pictures instead: --save DIR"
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise EdgeInferError("--show needs an OpenCV with windows, and this one is headless", hint=hint)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EdgeInferError("--show needs a display, and there is none here", hint=hint)
    try:
        yield Window()
    finally:
        cv2.destroyAllWindows()
