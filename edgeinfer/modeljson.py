"""`model.json` to `ModelSpec` and back; an unknown, missing or mistyped key is an error that names it."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import SpecError
from edgeinfer.spec import (
    Artifact,
    Batch,
    Boxes,
    Decode,
    Dim,
    Expected,
    Golden,
    ModelSpec,
    Preprocess,
    Provenance,
    Size,
    TensorSpec,
    TopK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = 1
READ_HINT = "check its disk, and that this user may read all of the bundle: chmod -R a+rX BUNDLE"
_REQUIRED: Any = object()


class Node:
    """One JSON object being read: every key is taken once and by type; what is left over is refused."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise SpecError(f"{where} must be an object, got {value!r:.60}")
        self.where = where
        self._left = dict(value)

    def _take(self, key: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self._left.pop(key, default)
        if value is _REQUIRED:
            raise SpecError(f"{self.where}: {key} is missing")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise SpecError(f"{self.where}: {key} must be {kinds[0].__name__}, got {value!r:.60}")
        return value

    def text(self, key: str, default: str = _REQUIRED) -> str:
        return str(self._take(key, (str,), default))

    def flag(self, key: str, default: bool = _REQUIRED) -> bool:
        return bool(self._take(key, (bool,), default))

    def integer(self, key: str, default: int = _REQUIRED) -> int:
        return int(self._take(key, (int,), default))

    def number(self, key: str, default: float = _REQUIRED) -> float:
        value = self._take(key, (float, int), default)
        if not abs(value) <= 1e300:  # NaN is not, either
            raise SpecError(f"{self.where}: {key} must be a finite number, got {value!r:.60}")
        return float(value)

    def items(self, key: str, default: list[Any] = _REQUIRED) -> list[Any]:
        return list(self._take(key, (list,), default))

    def left(self) -> list[str]:
        """The keys not yet taken."""
        return list(self._left)

    def texts(self, key: str) -> tuple[str, ...]:
        row = self._row(key, _REQUIRED)
        return tuple(row.text(place) for place in row.left())

    def numbers(self, key: str, default: list[Any] = _REQUIRED) -> tuple[float, ...]:
        row = self._row(key, default)
        return tuple(row.number(place) for place in row.left())

    def _row(self, key: str, default: list[Any]) -> Node:
        """A list as an object whose keys are its places."""
        items = self.items(key, default)
        return Node({f"item {place}": item for place, item in enumerate(items)}, f"{self.where}: {key}")

    def object(self, key: str, default: dict[str, Any] = _REQUIRED) -> Node:
        return Node(self._take(key, (dict,), default), f"{self.where}: {key}")

    def objects(self, key: str, default: list[Any] = _REQUIRED) -> list[Node]:
        rows = enumerate(self.items(key, default))
        return [Node(item, f"{self.where}: {key}[{place}]") for place, item in rows]

    def texts_by_name(self, key: str) -> dict[str, str]:
        part = self.object(key, {})
        return {name: part.text(name) for name in part.left()}

    def numbers_by_name(self, key: str) -> dict[str, float]:
        part = self.object(key, {})
        return {name: part.number(name) for name in part.left()}

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Refuse keys nobody asked for, and say where a value was refused."""
        try:
            yield
        except SpecError as error:
            message, part = str(error), self.where.rpartition(": ")[2]
            if message.startswith(self.where):
                raise
            raise SpecError(f"{self.where}: {message.removeprefix(f'{part}: ')}") from None
        if self._left:
            unknown = ", ".join(map(repr, self._left))
            raise SpecError(f"{self.where}: unknown key {unknown}", hint="update edgeinfer, or remove the key")


def read(path: Path) -> ModelSpec:
    """The spec in this `model.json`; SpecError when it is not JSON or not a spec."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}", hint=READ_HINT) from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", hint="export the bundle again") from error
    return from_json(value, str(path))


def write(spec: ModelSpec, path: Path) -> None:
    """Write `model.json`, a line for each key, and sync it to disk."""
    rows = ",\n".join(f" {json.dumps(key)}: {_rows(value)}" for key, value in to_json(spec).items())
    with path.open("w", encoding="utf-8") as file:
        file.write("{\n" + rows + "\n}\n")
        file.flush()
        os.fsync(file.fileno())


def _rows(value: Any) -> str:
    """JSON text; a list of objects gets one line each."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in value) + "\n ]"
    return json.dumps(value, ensure_ascii=False)


def _filled(part: Any) -> dict[str, Any]:
    """A dataclass as JSON, without the fields that are empty."""
    return {key: value for key, value in dataclasses.asdict(part).items() if value not in ("", (), {}, 0)}


def to_json(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain JSON values, keys in their documented order."""
    kind = "boxes" if isinstance(spec.decode, Boxes) else "topk"
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "task": spec.task,
        "inputs": [tensor_json(tensor) for tensor in spec.inputs],
        "outputs": [tensor_json(tensor) for tensor in spec.outputs],
        "preprocess": _preprocess_json(spec.preprocess),
        "decode": {"kind": kind, **dataclasses.asdict(spec.decode)},
        "labels": list(spec.labels),
        "provenance": _filled(spec.provenance),
        "artifacts": [_filled(artifact) for artifact in spec.artifacts],
        "golden": [_golden_json(golden) for golden in spec.golden],
    }


def tensor_json(tensor: TensorSpec) -> dict[str, Any]:
    """An input or output as plain JSON values; an open batch is a list."""
    shape = [["batch", dim.min, dim.max] if isinstance(dim, Batch) else dim for dim in tensor.shape]
    return {"name": tensor.name, "shape": shape, "dtype": tensor.dtype}


def _preprocess_json(part: Preprocess) -> dict[str, Any]:
    value = dataclasses.asdict(part)
    size = value.pop("size")
    value["mean"], value["std"] = list(part.mean), list(part.std)
    if not part.resize:
        del value["resize"]
    return {"fit": value.pop("fit"), **size, **value}


def _golden_json(golden: Golden) -> dict[str, Any]:
    expect = [
        {"class_id": item.class_id, "score": item.score, **({"box": list(item.box)} if item.box else {})}
        for item in golden.expect
    ]
    return {"image": golden.image, "score": golden.score, "expect": expect}


def from_json(value: Any, where: str = "model.json") -> ModelSpec:
    """A spec from parsed JSON."""
    node = Node(value, where)
    schema = node.integer("schema")
    if schema != SCHEMA:
        hint = "update edgeinfer" if schema > SCHEMA else "export the bundle again"
        raise SpecError(f"{where}: schema {schema} is not {SCHEMA}", hint=hint)
    with node.closing():
        return ModelSpec(
            name=node.text("name"),
            task=node.text("task"),
            inputs=tuple(_read_tensor(item) for item in node.objects("inputs")),
            outputs=tuple(_read_tensor(item) for item in node.objects("outputs")),
            preprocess=_read_preprocess(node.object("preprocess")),
            decode=_read_decode(node.object("decode")),
            labels=node.texts("labels"),
            provenance=_read_provenance(node.object("provenance", {})),
            artifacts=tuple(_read_artifact(item) for item in node.objects("artifacts", [])),
            golden=tuple(_read_golden(item) for item in node.objects("golden", [])),
        )


def _read_dim(value: Any, where: str) -> Dim:
    if isinstance(value, list) and len(value) == 3 and value[0] == "batch":
        row = Node({"min": value[1], "max": value[2]}, where)
        return Batch(row.integer("min"), row.integer("max"))
    return Node({"dimension": value}, where).integer("dimension")


def _read_tensor(node: Node) -> TensorSpec:
    with node.closing():
        shape = tuple(_read_dim(value, f"{node.where}: shape") for value in node.items("shape"))
        return TensorSpec(node.text("name"), shape, node.text("dtype"))


def _read_preprocess(node: Node) -> Preprocess:
    with node.closing():
        return Preprocess(
            size=Size(node.integer("height"), node.integer("width")),
            fit=node.text("fit"),
            pad=node.integer("pad", Preprocess.pad),
            color=node.text("color", Preprocess.color),
            mean=node.numbers("mean", list(Preprocess.mean)),
            std=node.numbers("std", list(Preprocess.std)),
            scale=node.number("scale", Preprocess.scale),
            interpolation=node.text("interpolation", Preprocess.interpolation),
            where=node.text("where", Preprocess.where),
            resize=node.integer("resize", Preprocess.resize),
        )


def _read_decode(node: Node) -> Decode:
    with node.closing():
        kind = node.text("kind")
        if kind == "topk":
            return TopK(node.integer("k", TopK.k), node.text("activation", TopK.activation))
        if kind != "boxes":
            raise SpecError(f"kind {kind!r} is not one of boxes, topk")
        return Boxes(
            layout=node.text("layout"),
            score=node.number("score", Boxes.score),
            iou=node.number("iou", Boxes.iou),
            limit=node.integer("limit", Boxes.limit),
            class_agnostic=node.flag("class_agnostic", Boxes.class_agnostic),
            where=node.text("where", Boxes.where),
        )


def _read_provenance(node: Node) -> Provenance:
    with node.closing():
        return Provenance(
            source=node.text("source", ""),
            sha256=node.text("sha256", ""),
            architecture=node.text("architecture", ""),
            license=node.text("license", ""),
            parameters=node.integer("parameters", 0),
            gflops=node.number("gflops", 0.0),
            edgeinfer=node.text("edgeinfer", ""),
            recipe=node.text("recipe", ""),
            recipe_sha256=node.text("recipe_sha256", ""),
        )


def _read_artifact(node: Node) -> Artifact:
    with node.closing():
        return Artifact(
            file=node.text("file"),
            format=node.text("format"),
            precision=node.text("precision"),
            sha256=node.text("sha256"),
            flavor=node.text("flavor", ""),
            built_with=node.text("built_with", ""),
            target=node.texts_by_name("target"),
            accuracy=node.numbers_by_name("accuracy"),
            made=node.texts_by_name("made"),
        )


def _read_golden(node: Node) -> Golden:
    with node.closing():
        expect = tuple(_read_expected(item) for item in node.objects("expect"))
        return Golden(node.text("image"), expect, node.number("score", Golden.score))


def _read_expected(node: Node) -> Expected:
    with node.closing():
        return Expected(node.integer("class_id"), node.number("score"), node.numbers("box", []))
