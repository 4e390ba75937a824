"""Reports to a file that appears when it is complete, or with `-` to stdout alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgeinfer.cli._tables import printable
from edgeinfer.errors import UsageError
from edgeinfer.naming import PICTURES, VIDEOS
from edgeinfer.wholefile import check_writable, whole

if TYPE_CHECKING:
    from collections.abc import Callable


def check(*targets: str | Path | None) -> None:
    """Refuse what could not be written, before the long work whose outcome is meant for it. Raises EdgeInferError."""
    named = [str(target) for target in targets if target]
    for target in named:
        check_name(target)
        if target != "-":
            check_writable(Path(target))
    twice = next((target for target in named if named.count(target) > 1), None)
    if twice and not (Path(twice).exists() and not Path(twice).is_file()):
        raise UsageError(f"two reports would be written to {twice}", hint="give each a file of its own")


def check_name(target: str | None) -> None:
    """Refuse a picture or video: a source behind an option that was taken for a flag. Raises UsageError."""
    if target and Path(target).suffix.lower() in (*PICTURES, *VIDEOS):
        raise UsageError(
            f"a report would be written over {target}", hint="name its file, such as results.json or results.html"
        )


def check_apart(target: str | None, source: Path) -> None:
    """Refuse a report that would be written over what it is of. Raises UsageError."""
    if target and Path(target).exists() and source.samefile(target):
        raise UsageError(f"a report would be written over {target}", hint="name another file: --json results.json")


def aside(target: str | Path | None) -> TextIO:
    """Where the lines for people go: to stdout, or to stderr where the report takes stdout."""
    return sys.stderr if str(target) == "-" else sys.stdout


def give(table: str, *reports: tuple[str | None, Callable[[], str]]) -> None:
    """The reports, each to its target, and a table for people, whose names come from files. Raises EdgeInferError.

    Neither is lost where the other cannot be written: a full disk, a pipe that `head` has closed.
    """
    said = aside("-" if any(target == "-" for target, _ in reports) else None)
    try:
        for target, made in reports:
            write(target, made)
    finally:
        print("\n".join(map(printable, table.split("\n"))), file=said, flush=True)


def write(target: str | Path | None, made: Callable[[], str]) -> None:
    """Write the text to this file, or to stdout; nothing without a target. Raises EdgeInferError."""
    if str(target) == "-":
        print(made(), end="", flush=True)
    elif target:
        with whole(Path(target)) as part:
            part.write_text(made(), encoding="utf-8", errors="backslashreplace")
