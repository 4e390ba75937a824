"""Files that can be made again, in `$XDG_CACHE_HOME/edgeinfer`: each whole or absent, the user's own.

A cache that cannot be read or written costs time, never a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from edgeinfer import machine, regular


def home() -> Path:
    """The folder of them all."""
    return machine.place("XDG_CACHE_HOME", ".cache") / "edgeinfer"


def path(kind: str, name: str) -> Path:
    """Where a file of this kind is kept, be it there or not."""
    return home() / kind / name


def read(kind: str, name: str) -> bytes | None:
    """What `write` wrote, or None: the file begins with its own SHA-256, so that half a file is none."""
    try:
        data = regular.content(path(kind, name))
    except OSError:
        return None
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None


def write(kind: str, name: str, data: bytes) -> bool:
    """Keep `data`, whole or not at all; False where that cannot be."""
    file = path(kind, name)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, fresh = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(hashlib.sha256(data).digest() + data)
            Path(fresh).replace(file)
        except OSError:
            Path(fresh).unlink()
            return False
        return True
    return False


def names(kind: str) -> list[str]:
    """The names of all that is kept of this kind."""
    try:
        return sorted(file.name for file in path(kind, "").iterdir())
    except OSError:
        return []


def forget(kind: str, name: str) -> None:
    """Remove it, if it is there."""
    with contextlib.suppress(OSError):
        path(kind, name).unlink()
