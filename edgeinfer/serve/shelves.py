"""Where bundles stand: those that were named, and those in folders of bundles, which come and go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.bundle import SPEC_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence


class Shelves:
    """Each path is a bundle, or a shelf of bundles, whichever is seen first; which of both it is stays so.

    Neither is a folder that holds none yet.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        # a link keeps its own name: what it leads to may be exchanged under it
        self._paths = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
        self._shelves: set[Path] = set()
        self.empty = self._paths  # folders that hold no bundle yet

    def bundles(self) -> list[Path]:
        """The folders of all bundles, as they stand now; those that were named whether they are there or not."""
        coming = {path for path in self.empty if _holds_none(path)}
        self._shelves |= {path for path in coming if _standing(path)}
        self.empty = [path for path in self.empty if path in coming - self._shelves]
        bundles = (path for path in self._paths if path not in self.empty)
        return [one for path in bundles for one in (_standing(path) if path in self._shelves else [path])]

    def lacks(self, bundle: Path) -> bool:
        """Whether the bundle was taken from its shelf, and others were left there.

        A shelf that is empty, or not there at all, is a disk that was taken away rather than all its bundles.
        """
        shelf = bundle.parent
        return shelf in self._shelves and not os.path.lexists(bundle) and bool(_standing(shelf))


def _holds_none(path: Path) -> bool:
    """Whether this is a folder that is no bundle; one that may not be looked into is taken for what it is called."""
    try:
        return path.is_dir() and not (path / SPEC_FILE).exists()
    except OSError:
        return False


def _standing(shelf: Path) -> list[Path]:
    return sorted(one.parent for one in shelf.glob(f"[!.]*/{SPEC_FILE}"))
