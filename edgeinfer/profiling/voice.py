"""How a child process speaks to its parent: a JSON object a line, on the stdout it was given and nobody else's."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable

Voice = Callable[[dict[str, Any]], None]


def speak(work: Callable[[dict[str, Any], Voice], None]) -> None:
    """Do the work that a line of JSON on stdin asks for; an error is the last word: `{"error": ..., "hint": ...}`.

    What libraries print goes to stderr, so that the parent reads nothing but these lines.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)

        def say(words: dict[str, Any]) -> None:
            print(json.dumps(words), file=stdout, flush=True)

        try:
            work(json.loads(sys.stdin.readline()), say)
        except Exception as error:  # noqa: BLE001 - the parent tells it in its own words
            say({"error": str(error) or type(error).__name__, "hint": getattr(error, "hint", "")})
