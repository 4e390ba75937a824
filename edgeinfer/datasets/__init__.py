"""Labelled pictures on disk, in the layouts people have them in: what accuracy is measured on.

COCO            instances.json, beside its pictures, in `annotations/`, or with `images/` beside it
YOLO            data.yaml, or images/ and labels/ trees, or a .txt beside each picture
class folders   one sub-folder of pictures for each class, as ImageNet's validation set is unpacked
pictures        a folder without labels: two models can be compared on it, none can be scored
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.errors import DatasetError
from edgeinfer.naming import PICTURES, is_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from edgeinfer.spec import ModelSpec, Size

NAMED = 10  # labels that a message names


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and what is true of it.

    class_ids (n,) int64 into the model's labels: of each box, or the one class of the picture; None without labels.
    boxes (n, 4) float64 x1 y1 x2 y2 in source pixels, or in fractions of the picture's sides if `relative`;
    None without boxes. crowd (n,) bool: boxes round many objects, which count for nothing whether found or not.
    """

    path: Path
    class_ids: NDArray[np.int64] | None = None
    boxes: NDArray[np.float64] | None = None
    crowd: NDArray[np.bool_] | None = None
    relative: bool = False

    def boxes_in(self, size: Size) -> NDArray[np.float64]:
        """Boxes (n, 4) x1 y1 x2 y2 in pixels of the decoded picture, which has this size."""
        assert self.boxes is not None
        if not self.relative:
            return self.boxes
        return self.boxes * np.array((size.width, size.height, size.width, size.height), np.float64)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures in a fixed order, with labels for the task `task`, or without any if it is empty.

    `labels` are the model's, and `matched` says how the set's classes were found among them; `layout` is one of those
    above.
    """

    path: Path
    layout: str
    task: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    matched: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    def spread(self, most: int) -> Dataset:
        """At most so many of its pictures, evenly spread, so that folders sorted by class keep all their classes."""
        if most >= len(self):
            return self
        return replace(self, samples=tuple(self.samples[len(self) * place // most] for place in range(most)))

    def where(self, kept: Iterable[bool]) -> Dataset:
        """Its pictures without those for which this, in their order, is False."""
        return replace(self, samples=tuple(compress(self.samples, kept)))


def read(path: str | Path, spec: ModelSpec) -> Dataset:
    """The data set at `path`, its classes in the order of the labels of `spec`; pictures are not opened.

    A detector's is a COCO .json, a YOLO .yaml, or a folder in one of their layouts; a classifier's has a folder for
    each class; a plain folder of pictures goes with both. Raises DatasetError, which names the file and the field.
    """
    place = Path(path)
    try:
        if not place.exists():
            raise DatasetError(f"{place} does not exist", hint="give a folder, a COCO .json or a YOLO data.yaml")
        return _detection(place, spec) if spec.task == "detect" else _classification(place, spec)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or place} cannot be read: {error.strerror or error}",
            hint="check the path and permissions",
        ) from error


def _detection(place: Path, spec: ModelSpec) -> Dataset:
    from edgeinfer.datasets import coco, yolo

    if place.is_file():
        return _detection_file(place, spec)
    sheets = [place / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (place / name).is_file()]
    if sheets:
        return yolo.read_yaml(sheets[0], spec.labels)
    notes = sorted(place.glob("*.json")) or sorted(place.glob("annotations/*.json"))
    if len(notes) > 1:
        names = ", ".join(str(note.relative_to(place)) for note in notes[:5])
        raise DatasetError(f"{place} holds {len(notes)} .json files: {names}", hint="give the one to be used itself")
    if notes:
        return coco.read(notes[0], spec.labels)
    found = pictures_under(place)
    if any(yolo.label_file(picture) for picture in found):
        return yolo.read_folder(place, found, spec.labels)
    return unlabelled(place, found, spec.labels)


def _detection_file(place: Path, spec: ModelSpec) -> Dataset:
    from edgeinfer.datasets import coco, yolo

    if place.suffix == ".json":
        return coco.read(place, spec.labels)
    if place.suffix in (".yaml", ".yml"):
        return yolo.read_yaml(place, spec.labels)
    raise DatasetError(f"{place} is not a folder, a .json or a .yaml", hint="give the folder of its pictures")


def _classification(place: Path, spec: ModelSpec) -> Dataset:
    from edgeinfer.datasets import folders

    if place.is_file():
        hint = "a classifier's data set is a folder with a sub-folder of pictures for each class"
        raise DatasetError(f"{place} is a file", hint=hint)
    top = [path for path in sorted(place.iterdir()) if is_picture(path)]
    return unlabelled(place, top, spec.labels) if top else folders.read(place, spec.labels)


def unlabelled(place: Path, found: Sequence[Path], labels: tuple[str, ...]) -> Dataset:
    """A data set of these pictures, of which nothing is known."""
    if not found:
        raise DatasetError(f"{place} has no pictures in it", hint=f"pictures end in {' '.join(PICTURES)}")
    return Dataset(place, "pictures", "", labels, tuple(Sample(path) for path in found))


def pictures_under(folder: Path) -> list[Path]:
    """Every picture file in a folder and below it, in order of their paths; hidden ones and hidden folders left out.

    Linked folders are entered, as by those who train on them; not one that leads back to where it stands.
    """
    found: list[Path] = []
    for place, below, files in os.walk(folder, followlinks=True):
        here = Path(place)
        above = {os.path.realpath(one) for one in (here, *here.parents) if one == folder or folder in one.parents}
        below[:] = [name for name in below if name[0] != "." and os.path.realpath(here / name) not in above]
        found += [here / name for name in files if is_picture(here / name)]
    return sorted(found)


class Names:
    """Finds a data set's class names among a model's labels: as written, or else but for case, space, `_` and `-`."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._exact = _places(self._labels)
        self._plain = _places([_plain(label) for label in self._labels])

    def find(self, name: str) -> int | None:
        """The index of the one label of this name; None if there is none, or more than one."""
        places = self._all(name)
        return places[0] if len(places) == 1 else None

    def _all(self, name: str) -> list[int]:
        return self._exact.get(name) or self._plain.get(_plain(name)) or []

    def index(self, names: Iterable[str], where: str) -> dict[str, int]:
        """The index of the one label of each of these names. Raises DatasetError, which begins with `where`."""
        found = {name: self.find(name) for name in sorted({*names})}
        missing = [name for name, place in found.items() if place is None]
        if several := [name for name in missing if self._all(name)]:
            raise DatasetError(
                f"{where} {_some(several)} may be more than one of the model's labels",
                hint="export the model again with --labels FILE, a name of its own for each class",
            )
        if missing:
            raise DatasetError(
                f"{where} {_some(missing)} {'is' if len(missing) == 1 else 'are'} not among the model's "
                f"{len(self._labels)} labels ({_some(self._labels)})",
                hint="validate against the model's own classes, or export it again with --labels FILE",
            )
        return {name: place for name, place in found.items() if place is not None}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return f"{shown}, and {len(names) - NAMED} more" if len(names) > NAMED else shown


def boxes_sample(path: Path, rows: Sequence[tuple[int, Any, bool]], *, relative: bool = False) -> Sample:
    """A sample of rows (class id, x1 y1 x2 y2, whether a crowd); of none, a picture with nothing to find."""
    return Sample(
        path,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], bool),
        relative,
    )
