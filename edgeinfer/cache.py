"""Files that can be made again, in `$XDG_CACHE_HOME/edgeinfer`: each whole or absent, the user's own.

A cache that cannot be read or written costs time, never a result.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeinfer import machine, regular, workfolder

if TYPE_CHECKING:
    from pathlib import Path


def home() -> Path:
    """The folder of them all."""
    return machine.xdg_folder("XDG_CACHE_HOME", ".cache") / "edgeinfer"


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
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with workfolder.beside(file) as folder:
            part = folder / name
            part.touch(mode=0o600)
            part.write_bytes(hashlib.sha256(data).digest() + data)
            part.replace(file)
    except OSError:
        return False
    return True


def folder(kind: str, name: str = "") -> Path | None:
    """Where a library may keep files of its own; None where no folder can be had that may be written into."""
    found = path(kind, name)
    with suppress(OSError):
        found.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found if os.access(found, os.W_OK) else None


def names(kind: str) -> list[str]:
    """The names of all that is kept of this kind."""
    try:
        return sorted(file.name for file in path(kind, "").iterdir())
    except OSError:
        return []
