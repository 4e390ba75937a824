"""What a look at the machine brings to light, one line each."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from edgeinfer import interpreter
from edgeinfer.machine import output

OK, NOTE, PROBLEM = "ok", "note", "problem"


class Finding(NamedTuple):
    """`topic: text`; `state` is ok, note or problem, and `remedy` says what to do about the last two."""

    topic: str
    state: str
    text: str
    remedy: str = ""


def probe(code: str) -> Any:
    """What this Python code prints as JSON in a process of its own, which may crash; None when it does."""
    try:
        return json.loads(output(*interpreter.program(code), timeout=60) or "null")
    except ValueError:
        return None
