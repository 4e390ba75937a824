"""One line on a terminal that says what goes on, and for how long; nothing where nobody looks. What takes its place."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeinfer.cli._tables import line
from edgeinfer.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.progress import Say

PERIOD_S = 1.0
CLEAR = "\r\033[K"


def clear() -> None:
    """Leave nothing on the terminal of a line that said what goes on."""
    if sys.stderr.isatty():
        print(CLEAR, end="", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A `warning:` line."""
    clear()
    print(f"warning: {line(text)}", file=sys.stderr)


@contextmanager
def progress() -> Iterator[Say]:
    """Gives `say(text)`: the text stands there, with its seconds, until the next one or the end."""
    if not sys.stderr.isatty():
        yield silent
        return
    text, since = "", time.monotonic()
    over = threading.Event()

    def show() -> None:
        print(f"{CLEAR}{text}  {time.monotonic() - since:.0f} s", end="", file=sys.stderr, flush=True)

    def say(words: str) -> None:
        nonlocal text, since
        text, since = line(words), time.monotonic()
        show()

    def tick() -> None:
        while not over.wait(PERIOD_S):
            show()

    ticker = threading.Thread(target=tick, name="edgeinfer-progress", daemon=True)
    ticker.start()
    try:
        yield say
    finally:
        over.set()
        ticker.join()
        clear()
