"""Pictures that cannot be read: each is named as it comes, and the verb fails once all else is done."""

from __future__ import annotations

import sys

from edgeinfer.cli import _tables
from edgeinfer.errors import SourceError


class Faults:
    """`add` takes each of them, as an `on_error`."""

    count = 0

    def add(self, error: SourceError) -> None:
        self.count += 1
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{clear}warning: {_tables.line(str(error))}", file=sys.stderr)

    def check(self) -> None:
        """Raise SourceError if there were any."""
        if self.count:
            raise SourceError(
                f"{_tables.counted(self.count, 'picture')} could not be read, and left out of the numbers",
                hint="the warnings above say which, and why",
            )
