"""COCO's JSON of boxes: `images`, `annotations` with bbox x y width height in pixels, `categories` by name."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from edgeinfer import regular
from edgeinfer.datasets import Dataset, Names, boxes_sample
from edgeinfer.errors import DatasetError

KEYS = ("images", "annotations", "categories")


def read(file: Path, labels: tuple[str, ...]) -> Dataset:
    """The data set of this JSON file, its category ids matched to `labels` by name."""
    content = _content(file)
    pictures = _pictures(file, content["images"])
    classes = _classes(file, content["categories"])
    rows: dict[Any, list[tuple[str, Any, bool]]] = {key: [] for key in pictures}
    for place, entry in enumerate(content["annotations"]):
        where = f"{file}: annotations[{place}]"
        key, category = _key(entry, "image_id", where), _key(entry, "category_id", where)
        if key not in pictures:
            raise DatasetError(f"{where}.image_id {key!r} is not among the images")
        if category not in classes:
            raise DatasetError(f"{where}.category_id {category!r} is not among the categories")
        rows[key].append((classes[category], _box(entry, where), _crowd(entry, where)))
    index = Names(labels).index((name for some in rows.values() for name, _, _ in some), f"{file}:")
    root = _root(file, pictures.values())
    samples = tuple(
        boxes_sample(root / pictures[key], [(index[name], box, crowd) for name, box, crowd in some])
        for key, some in rows.items()
    )
    return Dataset(file, "COCO", "detect", labels, samples, "by name")


def _content(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(regular.content(file))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file} is not JSON: {error}", hint="export the annotations again") from error
    for key in KEYS:
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            raise DatasetError(
                f"{file} has no list {key!r}; COCO's has {', '.join(KEYS)}",
                hint="give the .json of the annotations, or the folder of the pictures",
            )
    if not content["images"]:
        raise DatasetError(f"{file}: images is empty", hint="export the annotations again")
    return dict(content)


def _key(entry: Any, name: str, where: str) -> Any:
    """A number or a text by which entries name each other."""
    found = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(found, (int, str)) and not isinstance(found, bool):
        return found
    raise DatasetError(f"{where}.{name} is {found!r:.60}, expected a number or a text")


def _pictures(file: Path, entries: list[Any]) -> dict[Any, PurePosixPath]:
    """Image id -> its path, relative and without `..`."""
    pictures: dict[Any, PurePosixPath] = {}
    for place, entry in enumerate(entries):
        where = f"{file}: images[{place}]"
        key, name = _key(entry, "id", where), entry.get("file_name")
        path = PurePosixPath(name.replace("\\", "/")) if isinstance(name, str) else PurePosixPath()
        if not path.name or path.is_absolute() or ".." in path.parts or "\0" in str(path):
            raise DatasetError(f"{where}.file_name is {name!r:.60}, expected a path inside the data set")
        if key in pictures:
            raise DatasetError(f"{where}.id {key!r} is another image's too")
        pictures[key] = path
    return pictures


def _classes(file: Path, entries: list[Any]) -> dict[Any, str]:
    classes: dict[Any, str] = {}
    for place, entry in enumerate(entries):
        where = f"{file}: categories[{place}]"
        key, name = _key(entry, "id", where), entry.get("name")
        if not isinstance(name, str):
            raise DatasetError(f"{where}.name is {name!r:.60}, expected a text")
        if key in classes:
            raise DatasetError(f"{where}.id {key!r} is another category's too")
        classes[key] = name
    return classes


def _box(entry: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of bbox, which is x y width height."""
    found = entry.get("bbox")
    try:
        x, y, width, height = (float(side) for side in found)  # type: ignore[union-attr]
        sound = all(map(math.isfinite, (x, y, width, height))) and width >= 0 and height >= 0
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound or isinstance(found, str):
        raise DatasetError(f"{where}.bbox is {found!r:.60}, expected 4 numbers: x y width height")
    return x, y, x + width, y + height


def _crowd(entry: dict[str, Any], where: str) -> bool:
    found = entry.get("iscrowd", 0)
    if found not in (0, 1):
        raise DatasetError(f"{where}.iscrowd is {found!r:.60}, expected 0 or 1")
    return bool(found)


def _root(file: Path, pictures: Any) -> Path:
    """The folder that the first pictures are in: this one, its images/, or the split's, also one folder up."""
    split = file.stem.replace("instances_", "")
    below = ("", "images", split, f"images/{split}")
    folders = [parent / name for parent in (file.parent, file.absolute().parent.parent) for name in below]
    first = [picture for picture, _ in zip(pictures, range(20))]
    for folder in folders:
        if any((folder / picture).is_file() for picture in first):
            return folder
    raise DatasetError(
        f"{file}: images[0].file_name {str(first[0])!r} is neither beside it nor in images/ or {split}/",
        hint="put the .json beside its pictures",
    )
