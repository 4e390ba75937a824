"""YOLO's text files: one for each picture, a line `class cx cy width height` in fractions of it for each box."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.datasets import Dataset, Names, boxes_sample, pictures_under
from edgeinfer.errors import DatasetError
from edgeinfer.naming import is_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

SPLITS = ("val", "valid", "test")
# numbers written with few digits may leave the picture by a little; Ultralytics trains on as much
SLACK = 0.01


def label_file(picture: Path) -> Path | None:
    """The text file of a picture: in the labels/ tree that goes with its images/ tree, or beside it."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        parts[max(place for place, part in enumerate(parts[:-1]) if part == "images")] = "labels"
        elsewhere = Path(*parts).with_suffix(".txt")
        if elsewhere.is_file():
            return elsewhere
    beside = picture.with_suffix(".txt")
    return beside if beside.is_file() else None


def read_folder(folder: Path, pictures: Sequence[Path], labels: tuple[str, ...]) -> Dataset:
    """These pictures of a folder; their classes are numbers of `labels`, or named by its classes.txt."""
    for sheet in (folder / "classes.txt", folder / "labels" / "classes.txt"):
        if sheet.is_file():
            return _dataset(folder, pictures, labels, _text(sheet).split("\n"))
    return _dataset(folder, pictures, labels, None)


def read_yaml(file: Path, labels: tuple[str, ...]) -> Dataset:
    """The validation pictures (else the test pictures) of a data.yaml, its names matched to `labels`."""
    content = _yaml(file)
    names = content.get("names")
    if isinstance(names, dict):
        if not all(isinstance(key, int) and 0 <= key < 100_000 for key in names):
            raise DatasetError(f"{file}: names has keys that are not class numbers")
        names = [names.get(key, "") for key in range(max(names, default=-1) + 1)]
    if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names):
        raise DatasetError(f"{file}: names is not a list of class names")
    split = next((name for name in SPLITS if content.get(name)), None)
    if split is None:
        raise DatasetError(f"{file} names no pictures under {' or '.join(SPLITS)}", hint="add a line val: images/val")
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    pictures = [path for entry in entries for path in _listed(file, f"{file}: {split}", content.get("path"), entry)]
    if not pictures:
        raise DatasetError(f"{file}: {split} {content[split]!r} has no pictures in it")
    return _dataset(file, pictures, labels, [str(name) for name in names])


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} is not a list of keys like names: and val:")
    return content


def _listed(file: Path, where: str, root: Any, entry: Any) -> list[Path]:
    """The pictures of one entry: a folder, or a text file that lists them."""
    if not isinstance(entry, str) or not isinstance(root, (str, type(None))) or "\0" in f"{root}{entry}":
        raise DatasetError(f"{where} is {entry!r} under path {root!r}, expected a folder")
    # some tools write paths as seen from a sibling of the file: ../valid/images
    plain = entry
    while plain.startswith("../"):
        plain = plain[3:]
    for place in (file.parent / (root or "") / entry, file.parent / entry, file.parent / plain):
        if place.is_dir():
            return pictures_under(place)
        if place.is_file():
            lines = (line.strip() for line in _text(place).split("\n"))
            return [place.parent / line for line in lines if line and is_picture(Path(line))]
    raise DatasetError(f"{where} {entry!r} is not there", hint="check path: and the split's line, or give the folder")


def _dataset(place: Path, pictures: Sequence[Path], labels: tuple[str, ...], names: list[str] | None) -> Dataset:
    """Samples of the pictures; one without a text file has nothing to find in it."""
    files = [label_file(picture) for picture in pictures]
    if not any(files):
        raise DatasetError(f"{place}: none of the {len(pictures)} pictures has a label file", hint="look for labels/")
    rows = [_rows(file) if file else [] for file in files]
    index = _index(place, sorted({number for some in rows for number, _ in some}), labels, names)
    samples = tuple(
        boxes_sample(picture, [(index[number], box, False) for number, box in some], relative=True)
        for picture, some in zip(pictures, rows)
    )
    return Dataset(place, "YOLO", "detect", labels, samples, "by number" if names is None else "by name")


def _index(place: Path, used: Sequence[int], labels: tuple[str, ...], names: list[str] | None) -> dict[int, int]:
    """Every class number in use -> the model's; DatasetError for one that the model does not know."""
    known = len(labels) if names is None else len(names)
    if used and used[-1] >= known:
        raise DatasetError(
            f"{place}: class {used[-1]} is used, and there are {known}: 0 to {known - 1}",
            hint="name the classes in data.yaml or classes.txt, or validate with the model that was trained on them",
        )
    if names is None:
        return {number: number for number in used}
    called = {number: names[number].strip() for number in used}
    index = Names(labels).index(called.values(), f"{place}: class")
    return {number: index[name] for number, name in called.items()}


def _rows(file: Path) -> list[tuple[int, tuple[float, ...]]]:
    """(class number, x1 y1 x2 y2 in fractions) of every line; lines that say the same are one object."""
    lines = [(place, line.split()) for place, line in enumerate(_text(file).split("\n"), 1)]
    rows = dict.fromkeys(_row(f"{file}:{place}", words) for place, words in lines if words)
    return [(number, _corners(sides)) for number, sides in rows]


def _row(where: str, words: list[str]) -> tuple[int, tuple[float, ...]]:
    """One line: its class number, which NumPy and others write as 3.0, and the numbers after it."""
    try:
        number, *sides = (float(word) for word in words)
    except ValueError:
        number, sides = -1.0, []
    known = number >= 0 and number.is_integer()
    if not known or not (len(sides) == 4 or (len(sides) >= 6 and len(sides) % 2 == 0)):
        shown = " ".join(words)[:60]
        raise DatasetError(f"{where}: {shown!r} is not a class number and cx cy width height, or an outline")
    if not all(math.isfinite(side) and -SLACK <= side <= 1 + SLACK for side in sides):
        raise DatasetError(f"{where}: {' '.join(words)[:60]!r} has numbers that are not fractions from 0 to 1")
    return int(number), tuple(sides)


def _corners(sides: tuple[float, ...]) -> tuple[float, ...]:
    """The box of cx cy width height, or of the outline x1 y1 x2 y2 x3 y3... of an object."""
    if len(sides) > 4:
        return min(sides[::2]), min(sides[1::2]), max(sides[::2]), max(sides[1::2])
    x, y, width, height = sides[0], sides[1], max(0.0, sides[2]), max(0.0, sides[3])
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise DatasetError(f"{file} is not a text file: {error}") from error
