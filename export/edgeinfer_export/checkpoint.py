"""A checkpoint file (.pt, .pth, .safetensors) as named tensors and facts, without PyTorch and without running it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from edgeinfer.bundle import SPEC_FILE
from edgeinfer.errors import CheckpointError, UnsafeCheckpoint
from edgeinfer.spec import Size
from edgeinfer_export import modeltree
from edgeinfer_export.allowlist import Record
from edgeinfer_export.safetensors_file import read_safetensors
from edgeinfer_export.storages import StoredTensor
from edgeinfer_export.tensornames import COUNTER, naming
from edgeinfer_export.torchfiles import LEGACY_TEXT, TorchFile, read_legacy, read_zip

if TYPE_CHECKING:
    from numpy.typing import NDArray

# where nothing better is known
AGAIN = "download or copy the file again, or save it again with torch.save(model.state_dict(), path)"
DISTRUST = (
    "do not load this file with PyTorch; if you trust its author, ask for model.state_dict() or safetensors, "
    'of YOLO for {"model": model.state_dict(), "yaml": model.yaml}'
)
MOST_SHARED = 8  # times the file: tensors may be tied
MAX_STRIDES = 16
MAX_TRAINED = 8192  # pixels of an input's side: beyond all that is trained
ZIP = b"PK\x03\x04"
SAFETENSORS = b"\0\0\0\0{"  # from the fifth byte on: the eight of a length far below 2^32, the header's brace
HEAD = 512  # bytes that tell what a file is


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds; whatever it does not say is empty.

    `tensors` are read-only views of the file's bytes in the dtype stored there (bfloat16 becomes float32), named
    as the model's own `state_dict()` would, without the prefixes of wrappers. `origin` is the pickled class,
    "state dict" or "safetensors"; `ema` says that the averaged weights were taken. `modules`: what a model that was
    saved whole says of its layers (strides, activations), by their path and in order; `architecture`: what training
    programs call it; `beside`: tensors of the file that are none of the model's (losses, metrics); `size`: the input's
    that Ultralytics trained it at and exports it by. The file may be overwritten while the tensors are in use.
    """

    path: Path
    sha256: str
    origin: str
    tensors: dict[str, NDArray[Any]]
    yaml: dict[str, Any] | None = None
    labels: tuple[str, ...] = ()
    strides: tuple[float, ...] = ()
    ema: bool = False
    license: str = ""
    architecture: str = ""
    beside: tuple[str, ...] = ()
    size: Size | None = None
    modules: dict[str, modeltree.Module] = field(default_factory=dict)


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is run, and it may take no more memory than its size explains."""
    path = Path(path)
    _check_file(path)
    try:
        data = _content(path)
        if data[4:9] == SAFETENSORS:  # before legacy: its first byte may be a pickle's too
            return _from_safetensors(path, data)
        return _from_torch(path, read_zip(data) if data.startswith(ZIP) else read_legacy(data))
    except CheckpointError as error:
        usual = DISTRUST if isinstance(error, UnsafeCheckpoint) else AGAIN
        raise type(error)(f"{path.name}: {error}", hint=error.hint or usual) from error


def _check_file(path: Path) -> None:
    if path.is_file():
        return
    found = "is a directory" if path.is_dir() else "is not a file" if path.exists() else "is not there"
    hint = "give the path of a .pt, .pth or .safetensors"
    if (path / SPEC_FILE).is_file():
        hint = f"a bundle is compiled by: edgeinfer build {quote(str(path))} --compile trt"
    raise CheckpointError(f"{path} {found}, expected a checkpoint file", hint=hint)


def _content(path: Path) -> bytes:
    """All of the file, if it begins as a checkpoint does.

    It is not mapped: a training that writes over it would change the tensors, or end this process.
    """
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD)
            if not head.startswith((ZIP, b"\x80", LEGACY_TEXT)) and head[4:9] != SAFETENSORS:
                raise _unknown(head)
            file.seek(0)
            return file.read()
    except OSError as error:
        hint = "check its permissions, and the disk it is on"
        raise CheckpointError(f"the file cannot be opened: {error.strerror}", hint=hint) from error


def _unknown(data: bytes) -> CheckpointError:
    if not data:
        return CheckpointError("the file is empty")
    head = data.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return CheckpointError("the file is a Git LFS pointer, expected the weights", hint="run: git lfs pull")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return CheckpointError(
            "the file is a web page, expected weights", hint="download the file itself, not its page"
        )
    if data[257:262] == b"ustar":
        return CheckpointError(
            "the file is a tar archive", hint="unpack it, or save it again with PyTorch 1.6 or later"
        )
    return CheckpointError(
        f"the file starts with {data[:8]!r}, which is no PyTorch or safetensors file",
        hint="expected .pt or .pth of torch.save, or .safetensors",
    )


def _from_torch(path: Path, file: TorchFile) -> Checkpoint:
    model, ema = modeltree.payload(file.root)
    top = modeltree.entries(file.root)
    facts = model.attributes() if isinstance(model, Record) and modeltree.is_module(model) else {}
    stored = modeltree.state(model)
    if not stored:
        raise CheckpointError(
            f"no weights in it, found {_found(model)}", hint="save model.state_dict() with torch.save"
        )
    names = naming(stored, partly="pytorch-lightning_version" in top)
    tensors = {
        names.own(name): tensor.view(file.numbers(tensor.storage)) for name, tensor in stored.items() if names.own(name)
    }
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_SHARED * len(file.data):
        raise UnsafeCheckpoint(
            f"the tensors share their numbers: {MOST_SHARED} times the file would not hold them",
            hint="tied or expanded tensors: save each with .clone(), or do not trust this file",
        )
    yaml = modeltree.plain(facts.get("yaml", top.get("yaml")))
    strides = _strides(file, facts.get("stride", top.get("stride")))
    return Checkpoint(
        path=path,
        sha256=hashlib.sha256(file.data).hexdigest(),
        origin=model.origin if isinstance(model, Record) and facts else "state dict",
        tensors=tensors,
        yaml=yaml if isinstance(yaml, dict) else None,
        labels=modeltree.labels(facts, top),
        strides=strides,
        ema=ema,
        license=modeltree.line(top.get("license")),
        architecture=modeltree.line(top.get("arch")),
        beside=tuple(name for name in stored if name != COUNTER and not names.own(name)),
        size=_size(modeltree.entries(top.get("train_args")).get("imgsz"), int(max(strides, default=1)) or 1),
        modules={names.own(path): module for path, module in modeltree.modules(model).items() if names.own(path)},
    )


def _found(model: object) -> str:
    if isinstance(model, Record):
        return model.origin
    keys = [key[:40] for key in list(modeltree.entries(model))[:8] if isinstance(key, str)]
    return f"the entries {keys}" if keys else f"a {type(model).__name__}"


def _strides(file: TorchFile, value: object) -> tuple[float, ...]:
    if isinstance(value, StoredTensor) and value.storage.numel <= MAX_STRIDES:
        value = value.view(file.numbers(value.storage)).ravel().tolist()
    return _numbers(value)


def _numbers(value: object) -> tuple[float, ...]:
    if isinstance(value, (list, tuple)) and len(value) <= MAX_STRIDES:
        return tuple(float(step) for step in value if type(step) in (int, float) and 0 < step < 1e6)
    return ()


def _size(value: object, stride: int) -> Size | None:
    """One side or height and width, in whole strides; None if it is neither, or beyond all that is trained."""
    sides: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(sides) <= 2 or not all(type(side) is int and 1 <= side <= MAX_TRAINED for side in sides):
        return None
    height, width = (-(-side // stride) * stride for side in (sides[0], sides[-1]))
    return Size(height, width) if max(height, width) <= MAX_TRAINED else None


def _from_safetensors(path: Path, data: bytes) -> Checkpoint:
    """Facts come from the header's metadata, which holds texts: yaml, names and stride as JSON."""
    tensors, metadata = read_safetensors(data)
    short = naming(tensors)
    yaml = _json(metadata, "yaml")
    return Checkpoint(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        origin="safetensors",
        tensors={own: tensor for name, tensor in tensors.items() if (own := short.own(name))},
        yaml=yaml if isinstance(yaml, dict) else None,
        labels=modeltree.labels_from(_json(metadata, "names")),
        strides=_numbers(_json(metadata, "stride")),
        license=modeltree.line(metadata.get("license")),
    )


def _json(metadata: dict[str, str], name: str) -> Any:
    try:
        return modeltree.plain(json.loads(metadata.get(name, "null")))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"__metadata__ {name} is not JSON: {type(error).__name__}") from error
