"""The builder's timing cache in a file: what one build has measured, the next need not measure again.

Needs the standard library only; imports on Python 3.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer_export import wholefile

if TYPE_CHECKING:
    from pathlib import Path


def attach(config: Any, file: Path) -> Any:
    """Give the builder what `file` holds; one that is missing, broken or of another release or GPU counts as empty."""
    for content in (_read(file), b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def keep(config: Any, file: Path) -> str:
    """Write the builder's cache to `file`, with what others have put there meanwhile; gives why not, or nothing."""
    cache = config.get_timing_cache()
    if cache is None:
        return ""
    present = _read(file)
    other = config.create_timing_cache(present) if present else None
    if other is not None:
        cache.combine(other, False)
    content = cache.serialize()
    if content is None:
        return f"the timing cache {file} was not kept: the library gave none"
    try:
        wholefile.write(file, content)
    except OSError as error:
        return f"the timing cache {file} was not kept: {error.strerror or error}"
    return ""


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
