"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeinfer.errors import EdgeInferError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` that takes its name when the block ends well, and goes otherwise.

    Something that is not a regular file (`/dev/null`, a named pipe) is written as it stands.
    """
    regular = not path.exists() or path.is_file()
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}") if regular else path
    try:
        yield part
        if regular:
            part.replace(path)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if regular:
            part.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> EdgeInferError:
    """What to say when the system refuses to write."""
    return EdgeInferError(
        f"{path} cannot be written: {error.strerror or error}", hint="check the path, free space and permissions"
    )
