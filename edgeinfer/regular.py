"""Files that are read by a name found in a folder: regular ones alone, for a pipe is waited for without end."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def check(path: Path) -> None:
    """OSError if there is something that is no regular file: a pipe, a socket, a device, a folder."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def content(path: Path, most: int = -1) -> bytes:
    """The bytes of a regular file, no more than asked for. Raises OSError."""
    check(path)
    with path.open("rb") as file:
        # a buffer of all that is asked for is made at once, of which most systems only promise the memory
        return file.read(most if most < 0 else min(most, os.fstat(file.fileno()).st_size))
