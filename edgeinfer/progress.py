"""How long work tells what it is at: it calls `say` with a few words, of which each takes the place of the last."""

from __future__ import annotations

from typing import Callable

Say = Callable[[str], None]


def silent(_: str) -> None:
    """For work that nobody watches."""
