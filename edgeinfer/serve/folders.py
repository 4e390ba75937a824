"""The folders that a service is given: bundles, and folders of bundles, in which bundles come and go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.bundle import SPEC_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence


class Folders:
    """Each path is a bundle, or a folder of bundles, whichever is seen first; which of both it is stays so.

    Neither is a folder that holds none yet: it is `empty`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        # a link keeps its own name: what it leads to may be exchanged under it
        self._paths = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
        self._of_bundles: set[Path] = set()
        self.empty = self._paths

    def bundles(self) -> list[Path]:
        """Every bundle that is there now, and every path that was given as a bundle, whether it is there or not."""
        coming = {path for path in self.empty if _holds_none(path)}
        self._of_bundles |= {path for path in coming if _bundles_in(path)}
        self.empty = [path for path in self.empty if path in coming - self._of_bundles]
        given = (path for path in self._paths if path not in self.empty)
        return [one for path in given for one in (_bundles_in(path) if path in self._of_bundles else [path])]

    def lacks(self, bundle: Path) -> bool:
        """Whether the bundle was taken from its folder of bundles, and others were left there.

        A folder that is empty, or not there at all, is a disk that was taken away rather than all its bundles.
        """
        folder = bundle.parent
        return folder in self._of_bundles and not os.path.lexists(bundle) and bool(_bundles_in(folder))


def _holds_none(path: Path) -> bool:
    """Whether this is a folder that is no bundle; one that may not be looked into is taken for what it is called."""
    try:
        return path.is_dir() and not (path / SPEC_FILE).exists()
    except OSError:
        return False


def _bundles_in(folder: Path) -> list[Path]:
    return sorted(one.parent for one in folder.glob(f"[!.]*/{SPEC_FILE}"))
