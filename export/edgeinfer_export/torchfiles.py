"""PyTorch's two file formats: the zip archive of 1.6 and later, and the run of pickles before it.

Both give a `TorchFile`: the pickled object, and a way to the numbers of each storage, which stay in
the bytes of the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import CheckpointError, UnsafeCheckpoint
from edgeinfer_export.pickles import Machine
from edgeinfer_export.storages import Storage, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MAX_PICKLE = 64 << 20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_TEXT = f"L{LEGACY_MAGIC}L\n".encode()  # how a pickle of protocol 1 begins
LEGACY_PROTOCOL = 1001
# what zipfile and struct raise for directories that lie
DAMAGED = (zipfile.BadZipFile, ValueError, IndexError, OverflowError, OSError, struct.error, NotImplementedError)
LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class TorchFile:
    """A file's pickled object and where its storages lie: `places` maps key -> (start, size in bytes)."""

    data: bytes
    root: object
    places: dict[str, tuple[int, int]]
    order: str = "<"
    _read: dict[str, NDArray[Any]] = field(default_factory=dict)

    def numbers(self, storage: Storage) -> NDArray[Any]:
        """The numbers (numel,) of `storage`, read once and shared by all its tensors."""
        kept = f"{storage.key}:{storage.dtype}"
        if kept not in self._read:
            if storage.key not in self.places:
                raise CheckpointError(f"the file has no storage {storage.key!r}")
            start, size = self.places[storage.key]
            if storage.size_bytes > size:
                raise UnsafeCheckpoint(
                    f"storage {storage.key!r} claims {storage.size_bytes} bytes, the file holds {size}"
                )
            self._read[kept] = numbers(self.data, start, storage, self.order)
        return self._read[kept]


def read_zip(data: bytes) -> TorchFile:
    """A file of `torch.save` since PyTorch 1.6: <name>/data.pkl, <name>/data/<key>, <name>/byteorder."""
    try:
        members = _members(data)
    except DAMAGED as error:
        raise CheckpointError(f"the zip archive is cut off or damaged: {error}") from error
    prefix = _archive_root(members)
    start, size = members[f"{prefix}data.pkl"]
    if size > MAX_PICKLE:
        raise UnsafeCheckpoint(f"the pickle is {size} bytes long, above {MAX_PICKLE}")
    root = Machine().run(io.BytesIO(data[start : start + size]))
    folder = f"{prefix}data/"
    places = {name[len(folder) :]: place for name, place in members.items() if name.startswith(folder)}
    return TorchFile(data, root, places, _byte_order(data, members.get(f"{prefix}byteorder")))


def _members(data: bytes) -> dict[str, tuple[int, int]]:
    """Name -> (start, size in bytes) of every member; they may not be compressed, doubled or overlapping."""
    members: dict[str, tuple[int, int]] = {}
    listed = zipfile.ZipFile(io.BytesIO(data)).infolist()
    _refuse_script(entry.filename for entry in listed)
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnsafeCheckpoint(
                f"member {entry.filename[:80]!r} is compressed; PyTorch stores members as they are",
                hint="unpack the archive and pack it again without compression (zip -0)",
            )
        if entry.filename in members:
            raise UnsafeCheckpoint(f"member {entry.filename[:80]!r} is in the archive twice")
        members[entry.filename] = (_start(data, entry), entry.file_size)
    total = sum(size for _, size in members.values())
    if total > len(data):
        raise UnsafeCheckpoint(f"the members claim {total} bytes, the file holds {len(data)}")
    return members


def _refuse_script(names: Iterable[str]) -> None:
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(
            "the file is a TorchScript archive (torch.jit.save), expected weights",
            hint="save the original model's state_dict() with torch.save",
        )


def _start(data: bytes, entry: zipfile.ZipInfo) -> int:
    # the directory at the end says where a member's local header is; only that knows how long it is itself
    fields = LOCAL_HEADER.unpack_from(data, entry.header_offset)
    start: int = entry.header_offset + LOCAL_HEADER.size + fields[-2] + fields[-1]
    if fields[0] != b"PK\x03\x04" or start + entry.file_size > len(data) or entry.flag_bits & 1:
        raise zipfile.BadZipFile(f"member {entry.filename[:80]!r} is encrypted or not where the directory says")
    return start


def _archive_root(members: dict[str, tuple[int, int]]) -> str:
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"the zip archive has {len(pickles)} data.pkl, expected one: not a file of torch.save",
            hint="save the model with torch.save(model.state_dict(), path)",
        )
    return pickles[0].removesuffix("data.pkl")


def _byte_order(data: bytes, place: tuple[int, int] | None) -> str:
    if place is None:
        return "<"
    said = data[place[0] : place[0] + min(place[1], 16)]
    if said not in (b"little", b"big"):
        raise CheckpointError(f"byteorder is {said!r}, expected little or big")
    return ">" if said == b"big" else "<"


def read_legacy(data: bytes) -> TorchFile:
    """A file of `torch.save` before PyTorch 1.6: magic, protocol, system, object, storage keys, storages."""
    file, machine = io.BytesIO(data), Machine()
    if machine.run(file) != LEGACY_MAGIC:
        raise CheckpointError(
            "the file is a plain pickle, expected a file of torch.save",
            hint="load it where it was made and save it with torch.save(model.state_dict(), path)",
        )
    protocol = machine.run(file)
    if protocol != LEGACY_PROTOCOL:
        raise CheckpointError(
            f"the file's protocol is not {LEGACY_PROTOCOL}", hint="save it again with a newer PyTorch"
        )
    machine.run(file)
    root, keys = machine.run(file), machine.run(file)
    if not isinstance(keys, list):
        raise CheckpointError("the list of storages is missing")
    return TorchFile(data, root, _places(data, file.tell(), keys, machine.storages))


def _places(data: bytes, start: int, keys: list[Any], storages: dict[str, Storage]) -> dict[str, tuple[int, int]]:
    # storages follow one another: 8 bytes of length in numbers, then the numbers, always little-endian
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        header = data[start : start + 8]
        if storage is None or key in places or len(header) < 8:
            raise CheckpointError("the list of storages is damaged or cut off")
        size = int.from_bytes(header, "little") * storage.itemsize
        if size != storage.size_bytes or start + 8 + size > len(data):
            raise CheckpointError(f"storage {key!r} needs {storage.size_bytes} bytes, {len(data) - start - 8} are left")
        places[key] = (start + 8, size)
        start += 8 + size
    return places
