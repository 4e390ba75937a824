"""Results as JSON Lines: one object per picture, to stdout or to a file that appears when it is complete.

What came from cameras until something failed is complete too.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgeinfer.errors import EdgeInferError
from edgeinfer.wholefile import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.streams import Seen


class Records:
    """Writes each result as it comes."""

    closed = False

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.live = stream, False

    def add(self, seen: Seen) -> None:
        record = {"source": seen.frame.source, "index": seen.frame.index, **seen.result.to_dict()}
        if seen.live:
            self.live = True
            record["freshness"] = seen.freshness.to_dict()
        # a reader down the pipe sees every line at once
        print(json.dumps(record, ensure_ascii=False), file=self._stream, flush=True)


@contextmanager
def records(target: str) -> Iterator[Records]:
    """Records to this file, or to stdout for `-`."""
    if target == "-":
        yield Records(sys.stdout)
        return
    path, failure = Path(target), None
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        opened = Records(stream)
        try:
            yield opened
        except EdgeInferError as error:
            if not opened.live:
                raise
            failure = error
    if failure:
        raise failure
