"""Download a known checkpoint once: resumed after a cut, checked by hash, complete in the cache or not there."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgeinfer.bundle import sha256_of
from edgeinfer.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeinfer_export.zoo import Known

    Progress = Callable[[str, int, int], None]

TIMEOUT_S = 30.0
CHUNK = 1 << 18
AGENT = "edgeinfer (checkpoint download)"


def fetch(known: Known, target: Path, progress: Progress | None = None) -> None:
    """Have the checkpoint's file at `target`, downloaded if it is not there yet.

    `progress` is told the name, bytes done and bytes in all (0 when the server does not say).
    """
    part = target.with_name(f"{target.name}.part")
    try:
        if not is_here(target, known):
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                _lock(file, part)
                _complete(known, target, file, progress)
    except OSError as error:
        message = f"{part} cannot be written: {error.strerror or error}"
        raise FetchError(message, hint=_by_hand(known, target)) from error


def _complete(known: Known, target: Path, file: IO[bytes], progress: Progress | None) -> None:
    """Download what the locked `file` lacks, and give it its name; an empty one is not left behind."""
    part = Path(file.name)
    try:
        if not is_here(target, known):  # another process may just have finished it
            _Download(known, target, file).run(progress)
            _accept(known, target, part)
    finally:
        if os.fstat(file.fileno()).st_size == 0:
            part.unlink(missing_ok=True)


def _lock(file: IO[bytes], part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FetchError(
            f"{part} is being downloaded by another process", hint="wait for it, then run again"
        ) from error


def is_here(target: Path, known: Known) -> bool:
    """Whether this file is the checkpoint, whole as far as can be told."""
    return target.is_file() and not _fault(target, known)


def _fault(file: Path, known: Known) -> str:
    """Why this is not the checkpoint: by the hash its author tells, or else by the directory at an archive's end."""
    if not known.sha256_prefix:
        return "" if zipfile.is_zipfile(file) else "is cut off, or a web page: no archive of PyTorch"
    found = sha256_of(file)
    if found.startswith(known.sha256_prefix):
        return ""
    return f"has sha256 {found[:16]}..., expected {known.sha256_prefix}..."


def _accept(known: Known, target: Path, part: Path) -> None:
    """Check the whole download and give it its name, or throw it away."""
    _validator(part).unlink(missing_ok=True)
    fault = _fault(part, known)
    if fault:
        part.unlink()
        raise FetchError(
            f"{known.url} {fault}; the download was removed",
            hint=f"run again; if it stays so, {_by_hand(known, target)}",
        )
    part.replace(target)


def _validator(part: Path) -> Path:
    """Beside a cut download: the server's mark (ETag or date) of the version it is of."""
    return part.with_name(f"{part.name}.version")


def _by_hand(known: Known, target: Path) -> str:
    instead = ", where another file is, or a damaged one" if target.is_file() else ""
    return f"download {known.url} elsewhere and put it at {target}{instead}"


class _Download:
    """One attempt to complete `file`, which holds what earlier attempts got."""

    def __init__(self, known: Known, target: Path, file: IO[bytes]) -> None:
        self.known = known
        self.target = target
        self.file = file
        self.version = _validator(target.with_name(f"{target.name}.part"))

    def run(self, progress: Progress | None) -> None:
        """Ask for what is missing, and append it."""
        try:
            with self._ask() as response:
                total = self._position(response)
                self._copy(response, total, progress)
        except urllib.error.HTTPError as error:
            error.close()
            raise FetchError(
                f"{self.known.url} answered {error.code} {error.reason}, expected the file",
                hint=_by_hand(self.known, self.target),
            ) from error
        except (urllib.error.URLError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise FetchError(
                f"{self.known.url} cannot be reached: {reason}", hint=_by_hand(self.known, self.target)
            ) from error
        except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            raise self._cut(str(error) or type(error).__name__) from error

    def _ask(self) -> http.client.HTTPResponse:
        have, version = self._have(), self._kept_version()
        if have and not version:
            self._restart()  # nothing says that the rest would be of the same file
            have = 0
        try:
            return self._open({"Range": f"bytes={have}-", "If-Range": version} if have else {})
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            error.close()
            self._restart()
            return self._open({})

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        if not self.known.url.startswith(("https://", "http://")):
            raise ValueError("not an http or https address")
        # S310: the scheme was just checked
        request = urllib.request.Request(self.known.url, headers={"User-Agent": AGENT, **headers})  # noqa: S310
        response: http.client.HTTPResponse = urllib.request.build_opener().open(request, timeout=TIMEOUT_S)
        return response

    def _position(self, response: http.client.HTTPResponse) -> int:
        """Put the file where the answer continues it; gives the bytes there will be in all, 0 if unknown."""
        if response.status == http.client.PARTIAL_CONTENT:
            first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
            if not first or int(first[1]) != self._have():
                self._restart()
                raise self._cut("the server sent another part than asked for")
        else:
            self._restart()
        mark = response.headers.get("ETag") or ""
        if mark.startswith("W/") or not mark:
            mark = response.headers.get("Last-Modified") or ""
        self.version.write_text(mark, encoding="utf-8")
        length = response.headers.get("Content-Length") or ""
        return self._have() + int(length) if length.isdecimal() else 0

    def _copy(self, response: http.client.HTTPResponse, total: int, progress: Progress | None) -> None:
        done = self._have()
        while block := response.read(CHUNK):
            self.file.write(block)
            done += len(block)
            if progress:
                progress(self.known.name, done, total)
        self.file.flush()
        os.fsync(self.file.fileno())
        if done < total:
            raise self._cut(f"{done} of {total} bytes came")

    def _cut(self, reason: str) -> FetchError:
        self.file.flush()
        return FetchError(
            f"the download of {self.known.url} broke off: {reason}",
            hint=f"run again, it goes on after {self._have()} bytes; or {_by_hand(self.known, self.target)}",
        )

    def _have(self) -> int:
        return self.file.seek(0, os.SEEK_END)

    def _kept_version(self) -> str:
        return self.version.read_text(encoding="utf-8").strip() if self.version.is_file() else ""

    def _restart(self) -> None:
        self.file.truncate(0)
        self.version.unlink(missing_ok=True)
