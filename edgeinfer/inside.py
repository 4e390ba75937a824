"""Names of files inside a bundle."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgeinfer.errors import BundleError


def safe_relative(name: str, what: str) -> str:
    """`name` if it is a plain relative POSIX path without `..`; raises BundleError otherwise."""
    path = PurePosixPath(name)
    if (
        name in ("", ".")
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\0" in name
        or str(path) != name
    ):
        raise BundleError(f"{what} {name!r} is not a path inside the bundle", hint="export the bundle again")
    return name
