"""NVIDIA's TensorRT libraries: found, checked for a driver, and listened to while they work.

Needs the standard library, the vendor's module and the runtime's core only; imports on Python 3.9.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from edgeinfer import interruption, machine
from edgeinfer.backends import _nvlibrary
from edgeinfer.errors import BackendUnavailable, ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODULES = {"trt": "tensorrt", "rtx": "tensorrt_rtx"}


def load(library: str) -> Any:
    """The Python module of `trt` or `rtx`. Raises BackendUnavailable."""
    return _nvlibrary.load(library, (MODULES[library],))


def gpu(ordinal: int = 0) -> dict[str, str]:
    """Facts about a GPU for an engine's key: `sm`, `gpu`, and `l4t` on a Jetson. Raises BackendUnavailable."""
    try:
        found = machine.gpu(ordinal)
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"TensorRT compiles on an NVIDIA GPU, and {error}",
            hint="build on the device: edgeinfer build BUNDLE --compile trt; for desktop RTX GPUs: --compile rtx",
        ) from error
    facts = {"sm": found.sm, "gpu": found.name, "l4t": machine.l4t()}
    return {name: value for name, value in facts.items() if value}


def check_able(library: str) -> None:
    """Raises BackendUnavailable where `trt` or `rtx` cannot compile on this machine."""
    load(library)
    if library == "trt":
        gpu()


class Listener:
    """Hears what the library says during one build: `errors`, `warnings`, all of it in `log_file`.

    An exception in a callback would end the process inside the library. So what is raised there, and Ctrl-C, is
    kept in `stopped`, the build is told to stop at its next step, and the caller raises it when it has.
    """

    def __init__(self, trt: Any, log_file: Path | None, progress: Callable[[str, int, int], None] | None) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.stopped: BaseException | None = None
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._file = _opened(log_file)
        self.logger = _logger(trt, self)
        self.monitor = _monitor(trt, self)

    def hear(self, severity: str, message: str) -> None:
        if severity.endswith("ERROR"):
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)
        if self._file:
            with suppress(OSError):
                self._file.write(f"{time.strftime('%H:%M:%S')} {severity.lower()} {message}\n")

    def begin(self, phase: str, steps: int) -> None:
        self._steps[phase] = steps

    def advance(self, phase: str, step: int) -> bool:
        """Whether the build may go on."""
        try:
            if self._progress:
                self._progress(phase, step + 1, self._steps.get(phase, 0))
        except BaseException as error:  # noqa: BLE001
            self.stopped = error
        return self.stopped is None

    @contextmanager
    def holding_interrupts(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask the build to stop; a Ctrl-C after that ends the process."""

        def interrupted(_number: int, _frame: object) -> None:
            self.stopped = KeyboardInterrupt()
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        with interruption.taken(interrupted):
            yield

    def close(self) -> None:
        if self._file:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _opened(log_file: Path | None) -> Any:
    if log_file is None:
        return None
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        return log_file.open("a", encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"the log file {log_file} cannot be written: {error.strerror}", hint="choose another --log FILE"
        ) from error


def _logger(trt: Any, listener: Listener) -> Any:
    """The process's one logger of this library, which keeps the first it is given; it now speaks to `listener`."""
    logger, listeners = _only_logger(trt)
    listeners[:] = [listener]
    return logger


@cache
def _only_logger(trt: Any) -> tuple[Any, list[Listener]]:
    listeners: list[Listener] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            # another part of the process may have come first; that is no fault of the engine
            if "differs from one already registered" not in msg:
                for listener in listeners:
                    listener.hear(severity.name, msg)

    return Logger(), listeners


def _monitor(trt: Any, listener: Listener) -> Any:
    """None before 10.0, which does not tell how far it is."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            listener.begin(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return listener.advance(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
