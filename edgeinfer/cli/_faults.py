"""What cannot be read: each fault is named as it comes, and the verb fails once all else is done."""

from __future__ import annotations

from edgeinfer.cli import _progress, _tables
from edgeinfer.errors import SourceError


class Faults:
    """`add` takes each of them, as an `on_error`.

    `what` it is, and the `outcome` of its not being read, are words of the error. What is `alone` is no warning on the
    way: its fault is the verb's own error.
    """

    def __init__(
        self, what: str = "picture", outcome: str = ", and left out of the numbers", *, alone: bool = False
    ) -> None:
        self._what, self._outcome, self._alone = what, outcome, alone
        self._errors: list[SourceError] = []

    @property
    def count(self) -> int:
        return len(self._errors)

    def add(self, error: SourceError) -> None:
        self._errors.append(error)
        if not self._alone:
            _progress.warn(str(error))

    def check(self) -> None:
        """Raise SourceError if there were any."""
        if self._errors and self._alone:
            raise self._errors[0]
        if self._errors:
            remedy = self._errors[0].hint if self.count == 1 else ""
            raise SourceError(
                f"{_tables.counted(self.count, self._what)} could not be read{self._outcome}",
                hint=remedy or "the warnings above say which, and why",
            )
