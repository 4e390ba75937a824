"""How much of memory requests may fill together."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

from edgeinfer.serve.refusals import OVERLOADED, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Memory:
    """Bytes of all requests under way, whichever protocol they came by: at most `most`. `uses` counts requests."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self.uses = most, 0, 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """One request's share: each call takes more bytes, Refusal if there is no room; the end gives them back."""
        taken = 0
        self.uses += 1

        def take(size: int) -> None:
            nonlocal taken
            taken += size
            self._held += size
            if self._held > self._most:
                raise Refusal(OVERLOADED, "too many large requests at once")

        try:
            yield take
        finally:
            self._held -= taken
