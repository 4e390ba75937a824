"""Windows that show annotated pictures as they come."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeinfer.cli._findings import probe
from edgeinfer.errors import EdgeInferError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.streams import Seen

TITLE = "edgeinfer (q quits)"
STILL_MS = 1000
QUIT_KEYS = (ord("q"), 27)
SIDE = 1280  # pixels of a window's longer side when it opens
OPENING = "import cv2; cv2.namedWindow('edgeinfer'); cv2.waitKey(1); print('[]')"


class Window:
    """One window for all files, one for each camera; `closed` once the user pressed q or Escape, or closed one."""

    closed = False

    def __init__(self) -> None:
        self._titles: set[str] = set()

    def add(self, seen: Seen) -> None:
        import cv2

        title = f"{seen.frame.source} - {TITLE}" if seen.live else TITLE
        image = seen.result.draw(seen.frame.bgr())
        if title not in self._titles:
            self._titles.add(title)
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            scale = min(1, SIDE / max(image.shape[:2]))
            cv2.resizeWindow(title, *(max(1, round(side * scale)) for side in image.shape[1::-1]))
        cv2.imshow(title, image)
        self.closed |= cv2.waitKey(1 if seen.frame.fps else STILL_MS) & 0xFF in QUIT_KEYS
        # each of them: whichever was closed would be opened again by its next picture
        self.closed |= any(cv2.getWindowProperty(one, cv2.WND_PROP_VISIBLE) < 1 for one in self._titles)


@contextmanager
def window() -> Iterator[Window]:
    """Windows while the block lasts; EdgeInferError where none can be."""
    import cv2

    hint = "save pictures instead: --save DIR"
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise EdgeInferError("--show needs an OpenCV with windows, and this one is headless", hint=hint)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EdgeInferError("--show needs a display, and there is none here", hint=hint)
    # toolkits end the whole process where a display does not answer, so that another one tries first
    if probe(OPENING) is None:
        raise EdgeInferError("--show needs a display, and the one here opens no window", hint=hint)
    try:
        yield Window()
    finally:
        cv2.destroyAllWindows()
