"""Pictures on disk: which files a path, folder or pattern names, and which of them can be read."""

from __future__ import annotations

import glob
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from edgeinfer import naming, pictures, regular
from edgeinfer.errors import SourceError
from edgeinfer.pictures import MAX_PIXELS
from edgeinfer.sources.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

OnError = Callable[[SourceError], None]


def files(source: str | Path) -> list[Path]:
    """The files here that a source is read from, whether they can be read or not; none for an address."""
    name, path = str(source), Path(source)
    if naming.is_address(name):
        return []
    if not is_folder_or_pattern(name):
        return [path]
    try:
        return _pictures_in(path) if path.is_dir() else _matches(name)
    except OSError as error:
        raise unreadable(path, error) from error


def is_folder_or_pattern(name: str) -> bool:
    """Whether this is a folder or a pattern."""
    if naming.is_address(name):  # an address may have brackets, and a pipeline stars
        return False
    try:
        return Path(name).is_dir() or (glob.has_magic(name) and not Path(name).exists())
    except OSError as error:
        raise unreadable(Path(name), error) from error


def _natural(path: Path) -> list[Any]:
    parts = re.split(r"(\d+)", str(path).casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _pictures_in(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if naming.is_picture(path)]
    if not found:
        raise SourceError(
            f"{folder} has no pictures in it",
            hint=f"pictures end in {' '.join(naming.PICTURES)}; give sub-folders and videos by name or pattern",
        )
    return sorted(found, key=_natural)


def _matches(pattern: str) -> list[Path]:
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
    found = [path for path in found if not path.is_dir()]
    if not found:
        raise SourceError(f"{pattern} matches no file", hint="quote the pattern, or check it with ls")
    return sorted(found, key=_natural)


def picture(path: Path, index: int = 0, max_pixels: int = MAX_PIXELS) -> Frame:
    """The frame of one picture file. Raises SourceError."""
    captured_ns = time.monotonic_ns()
    return Frame(pictures.decode(_content(path, max_pixels), str(path), max_pixels), str(path), index, captured_ns)


def check(path: Path) -> None:
    """SourceError where a picture file shows that it cannot be read without being decoded."""
    pictures.check(_content(path, MAX_PIXELS), str(path))


def _content(path: Path, max_pixels: int) -> bytes:
    try:
        # no format needs more: 16-bit samples with alpha, uncompressed, and metadata
        return regular.content(path, 8 * max_pixels + (64 << 20))
    except OSError as error:
        raise unreadable(path, error) from error


def start_of(path: Path) -> bytes:
    """The first bytes of a regular file, which tell its format. Raises SourceError."""
    try:
        if not path.exists():
            raise SourceError(f"{path} does not exist", hint="check the path; a camera is camera:0")
        if not path.is_file():
            raise SourceError(f"{path} is not a regular file", hint="a camera is camera:0")
        with path.open("rb") as file:
            return file.read(32)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> SourceError:
    """What the system said of a file, as an error that names it."""
    hint = "change its permissions, or run as its owner" if isinstance(error, PermissionError) else ""
    return SourceError(f"{path} cannot be read: {error.strerror or error}", hint=hint)


def readable(paths: Sequence[Path], on_error: OnError, look: Callable[[Path], object] = picture) -> list[Path]:
    """Those of these pictures that `look`, `picture` or `check`, does not refuse; why it does goes to `on_error`.

    Raises SourceError if none is left.
    """
    faults = {}
    for path in paths:
        try:
            look(path)
        except SourceError as error:
            faults[path] = error
    leave_out(list(faults.values()), len(set(paths)), on_error)
    return [path for path in paths if path not in faults]


def leave_out(faults: Sequence[SourceError], total: int, on_error: OnError) -> None:
    """Why some of so many pictures cannot be read goes to `on_error`; SourceError if none can."""
    if faults and len(faults) == total:
        first, *others = faults
        what = f"none of the {total} pictures can be read: " if others else ""
        raise SourceError(f"{what}{first}", hint=first.hint)
    for fault in faults:
        on_error(fault)
