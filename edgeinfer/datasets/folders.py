"""One sub-folder of pictures for each class, as ImageNet's validation set is usually unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.datasets import Dataset, Names, Sample, pictures_under, unlabelled
from edgeinfer.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path, labels: tuple[str, ...]) -> Dataset:
    """The pictures of every class folder.

    Folders are called as the model's labels are, or by their numbers; or there are as many of them as labels, and they
    are in the order of their names, as torchvision and ImageNet's `n01440764` have it.
    """
    found = {path: pictures_under(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    filled = {path: pictures for path, pictures in found.items() if pictures}
    if not filled:
        return unlabelled(folder, [], labels)
    index, matched = _index(folder, [path.name for path in found], [path.name for path in filled], labels)
    samples = tuple(
        Sample(picture, np.array([index[path.name]], np.int64))
        for path, pictures in filled.items()
        for picture in pictures
    )
    return Dataset(folder, "class folders", "classify", labels, samples, matched)


def _index(folder: Path, every: list[str], filled: list[str], labels: tuple[str, ...]) -> tuple[dict[str, int], str]:
    """Class folder -> index of its label, and how it was found."""
    names = Names(labels)
    try:
        return names.index(filled, f"{folder}: class folder"), "by name"
    except DatasetError:
        if all(name.isascii() and name.isdigit() for name in filled):
            return _by_number(folder, filled, len(labels)), "by number"
        if len(every) == len(labels) and all(names.find(name) is None for name in every):
            return {name: place for place, name in enumerate(every)}, "by order"
        raise


def _by_number(folder: Path, names: list[str], classes: int) -> dict[str, int]:
    over = [name for name in names if int(name) >= classes]
    if over:
        raise DatasetError(f"{folder}: class folder {over[0]!r} is not one of 0 to {classes - 1}") from None
    return {name: int(name) for name in names}
