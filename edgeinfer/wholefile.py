"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer import workfolder
from edgeinfer.errors import EdgeInferError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """What the system refuses in the block is an EdgeInferError that names this, except a pipe that nobody reads."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "check the path, free space and permissions"
        raise EdgeInferError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file in a hidden folder beside `path` that takes its name when the block ends well, and goes otherwise.

    A link stays, and what it leads to is written. Something that is not a regular file (`/dev/null`, a named pipe) is
    written as it stands.
    """
    with write_errors(path):
        target = _file(path)
        if target is None:
            yield path
            return
        with workfolder.beside(target) as folder:
            yield folder / target.name
            (folder / target.name).replace(target)


def check_writable(path: Path) -> None:
    """Raise what `whole(path)` would, as far as that shows without writing: to be asked before long work."""
    with write_errors(path):
        if path.is_dir():
            raise _fault(errno.EISDIR, path)
        target = _file(path)
        if target is None:
            _check_access(path, os.W_OK)
        elif not target.parent.exists():
            raise OSError(errno.ENOENT, f"there is no folder {target.parent}")
        else:
            check_folder(target.parent)


def _file(path: Path) -> Path | None:
    """The file that is to be written, where links lead; None for what is there and none, as `/dev/stdout` may be."""
    target = Path(os.path.realpath(path))
    return None if path.exists() and not target.is_file() else target


def check_folder(folder: Path) -> None:
    """Raise the OSError of making something in `folder`, or in the nearest above it that is there already."""
    folder = folder.absolute()
    while not (folder.exists() or folder.is_symlink()):
        folder = folder.parent
    if not folder.is_dir():
        raise _fault(errno.ENOTDIR, folder)
    _check_access(folder, os.W_OK | os.X_OK)


def _check_access(path: Path, mode: int) -> None:
    if not os.access(path, mode, effective_ids=os.access in os.supports_effective_ids):
        raise _fault(errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES, path)


def _fault(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
