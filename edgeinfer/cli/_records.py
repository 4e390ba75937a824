"""Results as JSON Lines: one object per picture, to stdout or to a file that appears when it is complete.

What came from cameras until something failed is complete too.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from edgeinfer.wholefile import whole, write_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from edgeinfer.streams import Seen


class Records:
    """Writes each result as it comes: a reader down the pipe sees every line at once. `live` once a camera's was."""

    closed = False

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self.live = write, False

    def add(self, seen: Seen) -> None:
        record = {"source": seen.frame.source, "index": seen.frame.index, **seen.result.to_dict()}
        if seen.live:
            record["freshness"] = seen.freshness.to_dict()
        self._write(json.dumps(record, ensure_ascii=False))
        self.live |= seen.live


@contextmanager
def records(target: str) -> Iterator[Records]:
    """Records to this file, or to stdout for `-`."""
    if target == "-":
        yield Records(partial(print, flush=True))
        return
    path, failure = Path(target), None
    with whole(path) as part, part.open("wb", buffering=0) as file:
        opened = Records(partial(_append, path, file))
        try:
            yield opened
        except BaseException as error:
            if not opened.live:
                raise
            failure = error
    if failure:
        raise failure


def _append(path: Path, file: FileIO, line: str) -> None:
    """Add the line to the file that will be called `path`, or nothing of it where there is no room. EdgeInferError."""
    data, size = f"{line}\n".encode(errors="backslashreplace"), 0
    with write_errors(path):
        try:
            while size < len(data):
                size += file.write(data[size:])
        except OSError:
            with suppress(OSError):  # of a pipe
                file.truncate(file.tell() - size)
            raise
