"""NVIDIA's library and the messages it logs: an error quotes the last of them, and says what to do about it."""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.errors import BackendUnavailable, EngineError, EngineMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG = logging.getLogger(__name__)
REBUILD = "build it on this machine: edgeinfer build BUNDLE --compile {format}"
REMEDIES = {
    "trt": "Jetson: sudo apt install python3-libnvinfer, and a venv made with --system-site-packages; "
    'desktop: pip install "edgeinfer[tensorrt]"',
    "rtx": 'pip install "edgeinfer[rtx]"',
}
MEMORY = "stop other programs that use the GPU, or use a smaller batch or fewer contexts"
HOST_CODE = "build it here instead; or, where you trust the bundle, set EDGEINFER_TRUST_ENGINES=1"
# words of the library -> what they mean, and what to do
_MEMORY = re.compile(r"[Oo]ut ?[Oo]f ?[Mm]emory|MemoryAllocation|[Ii]nsufficient[\w ]*[Mm]emory|bad_alloc|MemoryError")
_HOST_CODE = re.compile(r"host (executable )?code|[Hh]ostCode|lean runtime", re.IGNORECASE)
_MISMATCH = re.compile(r"[Vv]ersion|[Mm]agic|compute|[Ii]ncompatible|not compatible|different", re.IGNORECASE)
_PREFIX = re.compile(r"^(\[[^\]]*\]\s*)+|^\S+\.cpp:\S*\s*")
_LONGEST = 500


def load(format_: str, names: Sequence[str]) -> Any:
    """The first of these modules that is installed, for engines of this format. Raises BackendUnavailable."""
    remedy = REMEDIES[format_]
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name != name:
                raise
        except (ImportError, OSError) as error:
            raise BackendUnavailable(
                f"{name} is installed but does not load: {error}", hint=f"install it again: {remedy}"
            ) from error
    raise BackendUnavailable(f"{names[0]} is not installed", hint=remedy)


def plain(line: str) -> str:
    """A message without the place in the library's own sources that it names."""
    return _PREFIX.sub("", line).strip()


def quoted(said: Sequence[str]) -> str:
    """The library's last words, as an error quotes them."""
    words = "; ".join(said[-3:]) or "the library does not say why"
    return f"{words[:_LONGEST]}..." if len(words) > _LONGEST else words


class Said(NamedTuple):
    """One message and the thread it came on."""

    thread: int
    serious: bool
    text: str


class Messages:
    """What the library has logged; one for all its engines, since it takes the first logger of a process only."""

    def __init__(self, trt: Any, format_: str) -> None:
        self._said: deque[Said] = deque(maxlen=64)
        self._count = 0
        # what Python frees while a message is noted down may be an engine, of which the library speaks too
        self._lock = threading.RLock()
        self._format = format_
        self.logger = _logger(trt, self)

    def hear(self, severity: str, text: str) -> None:
        """Keep an error or a warning; of other messages nothing."""
        serious = severity.endswith("ERROR")
        if serious or severity == "WARNING":
            LOG.debug("%s: %s", severity, text)
            with self._lock:
                self._count += 1
                self._said.append(Said(threading.get_ident(), serious, plain(text)))

    def mark(self) -> int:
        """A point in the messages, for `since` and `failure`."""
        return self._count

    def since(self, mark: int) -> list[str]:
        """The errors said since `mark` on this thread, or else on any; warnings where there are no errors."""
        with self._lock:
            fresh = list(self._said)[-(self._count - mark) :] if self._count > mark else []
        own = [one for one in fresh if one.thread == threading.get_ident()] or fresh
        telling = [one for one in own if one.serious] or own
        return list(dict.fromkeys(one.text for one in telling))

    def failure(self, what: str, mark: int, error: BaseException | None = None) -> EngineError:
        """The error for a call that failed, quoting what the library said since `mark`."""
        said = self.since(mark) + ([f"{type(error).__name__}: {error}"] if error else [])
        message, everything = f"{what}: {quoted(said)}", "\n".join(said)
        rebuild = REBUILD.format(format=self._format)
        if _MEMORY.search(everything):
            return EngineError(message, hint=MEMORY)
        if _HOST_CODE.search(everything):
            return EngineMismatch(message, hint=HOST_CODE)
        if _MISMATCH.search(everything):
            return EngineMismatch(message, hint=rebuild)
        return EngineError(message, hint=rebuild)


def _logger(trt: Any, messages: Messages) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            messages.hear(severity.name, msg)

    return Logger()
