"""NVIDIA's TensorRT libraries: found, checked for a driver, and listened to while they work.

Needs the standard library and the vendor's module only; imports on Python 3.9.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import BackendUnavailable, ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULES = {"trt": "tensorrt", "rtx": "tensorrt_rtx"}
REMEDIES = {
    "trt": "Jetson: sudo apt install python3-libnvinfer, and a venv made with --system-site-packages; "
    'desktop: pip install "edgeinfer[tensorrt]"',
    "rtx": 'pip install "edgeinfer[rtx]"',
}
L4T_RELEASE = Path("/etc/nv_tegra_release")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


def load(library: str) -> Any:
    """The Python module of `trt` or `rtx`. Raises BackendUnavailable."""
    name = MODULES[library]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        raise BackendUnavailable(f"{name} is not installed", hint=REMEDIES[library]) from missing
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"{name} is installed but does not load: {error}", hint=f"install it again: {REMEDIES[library]}"
        ) from error


def driver() -> ctypes.CDLL:
    """The CUDA driver, initialised: some TensorRT releases crash where there is none. Raises BackendUnavailable."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BackendUnavailable(
            "TensorRT compiles on an NVIDIA GPU, and this machine has no NVIDIA driver (libcuda.so.1)",
            hint="build on the device: edgeinfer build BUNDLE --compile trt; for desktop RTX GPUs: --compile rtx",
        ) from error
    status = cuda.cuInit(0)
    if status:
        raise BackendUnavailable(
            f"TensorRT compiles on an NVIDIA GPU, and the driver finds none usable (cuInit gave {status})",
            hint="check nvidia-smi, and that a container was started with its GPU",
        )
    return cuda


def gpu() -> dict[str, str]:
    """Facts about the first GPU for an engine's key: `sm`, `gpu`, and `l4t` on a Jetson."""
    cuda = driver()
    device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    capability = ""
    for attribute in (_MAJOR, _MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability += str(number.value)
    facts = {"sm": capability, "gpu": name.value.decode("utf-8", "replace")}
    release = l4t()
    return {**facts, "l4t": release} if release else facts


def l4t() -> str:
    """The Jetson system's release such as 36.4.3; empty elsewhere."""
    try:
        text = L4T_RELEASE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
    return ".".join(found.groups()) if found else ""


def system() -> str:
    """Operating system and architecture, such as linux-x86_64."""
    return f"{sys.platform}-{platform.machine()}"


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
        """Ctrl-C asks the build to stop; a second one ends the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupted(_number: int, _frame: object) -> None:
            self.stopped = KeyboardInterrupt()
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)

    def close(self) -> None:
        if self._file:
            with suppress(OSError):
                self._file.close()


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
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            listener.hear(severity.name, msg)

    return Logger()


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
