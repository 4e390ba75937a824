"""Files that appear whole or not at all. Standard library only; imports on Python 3.9."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, content: Any) -> None:
    """Write `content` (bytes or a buffer) beside `path`, sync, rename. Raises OSError and leaves what was there.

    A process killed in between leaves a hidden `.name.PID.tmp`, which the next write of this path removes.
    """
    _sweep(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(memoryview(content))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


def _sweep(path: Path) -> None:
    """Remove what writers that no longer live have left."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            os.kill(int(stale.name.split(".")[-2]), 0)
        except ProcessLookupError:
            with suppress(OSError):
                stale.unlink()
        except (OSError, ValueError):
            continue


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
