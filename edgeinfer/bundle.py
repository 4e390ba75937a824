"""A bundle: one folder with `model.json` and the files it names; read with suspicion, written all or nothing."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from edgeinfer import modeljson, onnxfile, workfolder
from edgeinfer.errors import BundleError
from edgeinfer.wholefile import check_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.spec import Artifact, ModelSpec

SPEC_FILE = "model.json"
SOURCES = (".pt", ".pth", ".safetensors", ".onnx", ".engine")  # what is taken for a bundle before it is one
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".zst")  # what a bundle may be sent in
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
_AT_FDCWD = -100


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Bundle:
    """An opened bundle: `path` of its folder and its `spec`. Files are checked when they are asked for."""

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        self.path, self.spec = path, spec

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """The bundle in this folder. Raises BundleError or SpecError."""
        if not isinstance(path, (str, os.PathLike)):
            raise BundleError(f"a bundle is opened by the path of its folder, not by {type(path).__name__}")
        folder = Path(path)
        check_named(folder)
        with _reading(folder):
            if not folder.is_dir():
                found = "is a file" if folder.exists() else "does not exist"
                raise BundleError(f"{folder} {found}; a bundle is a folder with {SPEC_FILE}", hint=_instead(folder))
            if not (folder / SPEC_FILE).is_file():
                raise BundleError(f"{folder} holds no {SPEC_FILE}", hint=_instead(folder))
        return cls(folder, modeljson.read(folder / SPEC_FILE))

    def file(self, name: str) -> Path:
        """The path of a file of this bundle; BundleError if it is missing or lies outside."""
        path = self.path / name
        try:
            inside = path.resolve(strict=True).is_relative_to(self.path.resolve())
        except PermissionError as error:
            raise _unreadable(path, error) from error
        except (OSError, RuntimeError):
            raise BundleError(f"{path} is missing", hint=f"export {self.spec.name} again") from None
        if not inside or not path.is_file():
            raise BundleError(f"{path} is not a file inside the bundle", hint=f"export {self.spec.name} again")
        return path

    def content(self, name: str) -> bytes:
        """The bytes of a file of this bundle, as they are now. Raises BundleError."""
        path = self.file(name)
        with _reading(path):
            return path.read_bytes()

    def artifact_file(self, artifact: Artifact) -> Path:
        """The artifact's path once its hash and, for ONNX, its external files are found right."""
        path = self.file(artifact.file)
        with _reading(path):
            found = sha256_of(path)
        if found != artifact.sha256:
            raise BundleError(
                f"{path} has sha256 {found[:12]}..., {SPEC_FILE} says {artifact.sha256[:12]}...",
                hint="the file was changed or cut off; copy or export the bundle again",
            )
        if artifact.format == "onnx":
            external = onnxfile.external_files(path)
            if external:
                raise BundleError(
                    f"{path} keeps weights in another file ({external[0]!r})",
                    hint="a bundle's ONNX holds its weights itself",
                )
        return path

    def verify(self) -> None:
        """Check every artifact and golden image; raises BundleError at the first that is wrong."""
        for artifact in self.spec.artifacts:
            self.artifact_file(artifact)
        for golden in self.spec.golden:
            self.file(golden.image)


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path} cannot be read: {error.strerror or error}", hint=modeljson.READ_HINT)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def _instead(path: Path) -> str:
    """What may have been meant: the bundle that a file is in, one in the folder, or one that is yet to be made."""
    if (path.parent / SPEC_FILE).is_file():
        return f"give the folder: {path.parent}"
    inside = next(iter(sorted(path.glob(f"*/{SPEC_FILE}"))), None)
    if inside:
        return f"give one of the bundles in it, such as {inside.parent}"
    if path.is_file() and path.suffix in ARCHIVES:
        return "unpack it, and give the folder"
    bundle, ways, _ = str(path).rpartition("@")
    if ways and (Path(bundle) / SPEC_FILE).is_file():
        return f"@ is for edgeinfer compare alone: give {quote(bundle)}, and --backend or --precision"
    source = quote(str(path)) if path.is_file() and path.suffix in SOURCES else "CHECKPOINT"
    return f"make one: edgeinfer export {source} -o DIR"


def check_named(path: Path) -> None:
    """Raise BundleError if the path is no text: no library that opens models takes its bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BundleError(
            f"{path}: its name is not {sys.getfilesystemencoding().upper()} text, as libraries of models need it",
            hint="rename it, or run in a locale of UTF-8",
        ) from error


@contextmanager
def writing(target: Path, mark: str = SPEC_FILE) -> Iterator[Path]:
    """A new folder beside `target` that takes its place, at once and whole, when the block ends well.

    A folder that holds files is replaced only if `mark`, the file that tells its kind, is among them.
    Whoever is killed at any moment leaves the old folder or the new one, and at most a hidden
    `.name.*` folder beside it, which the next write removes.
    """
    target = target.absolute()
    check_writable(target, mark)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with workfolder.beside(target) as fresh:
            yield fresh
            _sync_tree(fresh)
            _put(fresh, target)
    except OSError as error:
        raise _unwritable(target, error) from error


def check_writable(target: Path, mark: str = SPEC_FILE) -> None:
    """Raise the BundleError of `writing(target, mark)`, as far as that shows without writing: to be asked first."""
    check_named(target)
    try:
        if target.absolute().is_mount():  # whether or not what it lies in may be written
            raise _mounted(target)
        check_folder(target.absolute().parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    if target.is_symlink():
        raise BundleError(f"{target} is a link, which would be replaced", hint=f"say -o {target.resolve()}")
    if target.exists() and not target.is_dir():
        raise BundleError(f"{target} exists and is not a folder", hint="choose another -o DIR")
    if target.is_dir() and any(target.iterdir()) and not (target / mark).is_file():
        raise BundleError(f"{target} holds other files, but no {mark}", hint="choose another -o DIR")


def _mounted(target: Path) -> BundleError:
    return BundleError(f"{target} is a mount point, which cannot be replaced", hint="choose a folder inside it")


def _unwritable(target: Path, error: OSError) -> BundleError:
    if error.errno == errno.EBUSY:  # `is_mount` does not see those of one file system
        return _mounted(target)
    return BundleError(
        f"{target} cannot be written: {error.strerror or error}",
        hint="check free space and permissions, then run again",
    )


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path.is_dir():  # to open a pipe could take for ever
            _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(fresh: Path, target: Path) -> None:
    """Make `fresh` be `target`; what was there comes to lie at `fresh`. Who stood in the old one stands in the new."""
    within = target.exists() and target.samefile(os.curdir)
    if not target.exists():
        fresh.rename(target)
    elif not _exchange(fresh, target):
        # no atomic exchange on this file system: the old folder steps aside for one rename
        aside = fresh.with_name(fresh.name + "-old")
        target.rename(aside)
        try:
            fresh.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    if within:
        os.chdir(target)
    with suppress(PermissionError):  # a folder may be written into, but not read
        _sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (Linux renameat2); False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    return int(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE)) == 0
