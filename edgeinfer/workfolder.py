"""A hidden folder beside a target, for what is to take its place: locked while its writer lives, swept after that.

A number of a process says little: in containers every writer has the same few, and a folder may be shared by several
of them. It is asked only where the file system knows no locks.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, readable for whom the umask lets; it goes, if it is still there, with the block.

    What writers that were killed have left is removed first. Raises OSError.
    """
    _sweep(target)
    folder, lock = _made(target)
    try:
        yield folder
    finally:
        try:
            _remove(folder)
        finally:
            os.close(lock)


def _made(target: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock."""
    while True:
        folder = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            folder.mkdir()
            with suppress(FileNotFoundError):
                lock = os.open(folder, os.O_RDONLY)
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                # another's sweep, between these steps, has taken it for a dead writer's
                if folder.exists():
                    return folder, lock
                os.close(lock)
        except BaseException:
            with suppress(OSError):
                folder.rmdir()
            raise


def _remove(folder: Path) -> None:
    """Also where a signal breaks it off; a second one leaves the rest to the next writer."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sweep(target: Path) -> None:
    """Remove what no writer has any more."""
    named = re.compile(rf"\.{re.escape(target.name)}\.(\d{{1,7}})\.[0-9a-f]{{8}}(-old)?")
    with suppress(PermissionError):  # of a folder that may be written into, but not listed
        for folder in target.parent.iterdir():
            if found := named.fullmatch(folder.name):
                with suppress(OSError), _locked(folder, int(found[1])):
                    shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path, writer: int) -> Iterator[None]:
    """The folder's lock while the block lasts; BlockingIOError if its writer lives."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # of anything else it could wait without end
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # no locks on this file system
            if _lives(writer):
                raise
        yield
    finally:
        os.close(lock)


def _lives(writer: int) -> bool:
    try:
        os.kill(writer, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
