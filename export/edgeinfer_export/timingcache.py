"""The builder's timing cache in a file: what one build has measured, the next need not measure again.

Needs the standard library and the runtime's core; imports on Python 3.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer import regular
from edgeinfer.errors import EdgeInferError
from edgeinfer.wholefile import whole

if TYPE_CHECKING:
    from pathlib import Path


def attach(config: Any, file: Path) -> None:
    """Give the builder what `file` holds; one that is missing, broken or of another release or GPU counts as empty."""
    for content in (_read(file), b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


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
        return f"the timing cache was not kept: the library gave none for {file}"
    try:
        with whole(file) as part:
            part.write_bytes(content)
    except EdgeInferError as error:
        return f"the timing cache was not kept: {error}"
    return ""


def _read(file: Path) -> bytes:
    try:
        return regular.content(file)
    except OSError:
        return b""
