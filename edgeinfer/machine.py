"""Where engines run: operating system, NVIDIA GPU, Jetson release.

Standard library only. `has_gpu()` looks at device files and costs microseconds; `gpu()` asks the driver, once.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from edgeinfer.errors import BackendUnavailable, UsageError

ROOT = Path("/")
# device files of the desktop and server driver, of Jetson's (JetPack 5, 6), and of Windows' under WSL
NODES = ("dev/nvidiactl", "dev/nvhost-gpu", "dev/nvgpu", "dev/dxg")
_HIDDEN = ("", "-1", "NoDevFiles", "void")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


class Gpu(NamedTuple):
    """A CUDA device: `sm` is its compute capability without the dot, `cuda` the newest the driver takes.

    `name` is the model of GPU; on a Jetson, of the board.
    """

    sm: str
    name: str
    cuda: str


def has_gpu() -> bool:
    """Whether an NVIDIA GPU with a loaded driver is here and not hidden by CUDA_VISIBLE_DEVICES."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in _HIDDEN:
        return False
    return any((ROOT / node).exists() for node in NODES)


def ordinal(device: str) -> int | None:
    """Which GPU `auto`, `gpu` or `gpu:1` means, by its place in CUDA's own order; None if any device will do.

    Raises UsageError, and BackendUnavailable where there are GPUs and it is not among them.
    """
    if device == "auto":
        return None
    if not re.fullmatch("gpu(:[0-9]{1,9})?", str(device)):
        hint = "the CPU is a backend: --backend ort"
        raise UsageError(f"device {device!r} is not auto, gpu or such as gpu:1", hint=hint)
    found = int(device.partition(":")[2] or 0)
    if found and has_gpu():
        gpu(found)
    return found


@lru_cache(maxsize=16)
def gpu(ordinal: int = 0) -> Gpu:
    """The GPU that engines run on, by its place in CUDA's own order.

    Raises BackendUnavailable; some NVIDIA libraries crash where this does.
    """
    cuda, device = _opened(ordinal)
    number, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    _check(cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    capability = ""
    for attribute in (_MAJOR, _MINOR):
        _check(cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device), "cuDeviceGetAttribute")
        capability += str(number.value)
    _check(cuda.cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    # every Orin calls its GPU Orin, of whatever size: the board tells them apart
    board = text(ROOT / "proc/device-tree/model") if l4t() else ""
    return Gpu(capability, board or name.value.decode("utf-8", "replace"), version)


def pci_address(ordinal: int = 0) -> str:
    """Where this GPU sits, such as 0000:01:00.0: other libraries of NVIDIA count in another order. Raises as `gpu`."""
    cuda, device = _opened(ordinal)
    address = ctypes.create_string_buffer(32)
    _check(cuda.cuDeviceGetPCIBusId(address, len(address), device), "cuDeviceGetPCIBusId")
    return address.value.decode("ascii", "replace")


def _opened(ordinal: int) -> tuple[ctypes.CDLL, ctypes.c_int]:
    """The driver, and its handle of this GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BackendUnavailable(
            "this machine has no NVIDIA driver (libcuda.so.1)",
            hint="on a machine with a GPU: install its driver; in a container: start it with --gpus all",
        ) from error
    _check(cuda.cuInit(0), "cuInit")
    device, number = ctypes.c_int(), ctypes.c_int()
    if ordinal:
        _check(cuda.cuDeviceGetCount(ctypes.byref(number)), "cuDeviceGetCount")
        if ordinal >= number.value:
            raise BackendUnavailable(
                f"there is no gpu:{ordinal} here: CUDA counts {number.value}, from gpu:0",
                hint="nvidia-smi -L lists them; CUDA_VISIBLE_DEVICES hides and renumbers them",
            )
    _check(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
    return cuda, device


def _check(status: int, call: str) -> None:
    if status:
        raise BackendUnavailable(
            f"the NVIDIA driver finds no usable GPU ({call} gave {status})",
            hint="check nvidia-smi, and that a container was started with its GPU",
        )


def driver() -> str:
    """The release of NVIDIA's kernel driver such as 580.95.05; empty where it does not tell."""
    return text(ROOT / "sys/module/nvidia/version")


def jetson_release(root: Path) -> str:
    """`R36 (release), REVISION: 4.3` on a Jetson; empty elsewhere."""
    return text(root / "etc/nv_tegra_release").partition("GCID")[0].strip(" #,")


def l4t() -> str:
    """The release of L4T, a Jetson's system, such as 36.4.3; empty elsewhere."""
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", jetson_release(ROOT))
    return ".".join(found.groups()) if found else ""


def os_release(root: Path) -> str:
    """The operating system as it calls itself, such as Ubuntu 22.04.5 LTS; empty where it does not."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', text(root / "etc/os-release"), re.MULTILINE)
    return found[1].strip() if found else ""


def system() -> str:
    """Operating system and architecture, such as linux-x86_64."""
    return f"{sys.platform}-{platform.machine()}"


def cpu() -> str:
    """The processor as Linux names it, else the board, else the architecture."""
    named = field(text(ROOT / "proc/cpuinfo"), "model name")
    return named or text(ROOT / "proc/device-tree/model") or platform.machine()


def has_exact_int8() -> bool:
    """Whether this processor adds products of 8 bits without overflow: x86 does with VNNI or AMX alone."""
    flags = field(text(ROOT / "proc/cpuinfo"), "flags")
    return not flags or "vnni" in flags or "amx_int8" in flags


def field(table: str, name: str) -> str:
    """What a table of Linux, such as /proc/cpuinfo, first says under this name; empty where it says nothing."""
    found = re.search(rf"^{name}\s*:\s*(.*)$", table, re.MULTILINE)
    return found[1].strip() if found else ""


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*names: str) -> dict[str, str]:
    """Those of these distributions that are installed, with their versions."""
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def home() -> Path:
    """The user's folder; the root for one who has no name, as containers are given."""
    try:
        return Path("/", Path.home())
    except RuntimeError:
        return Path("/")


def xdg_folder(variable: str, usual: str) -> Path:
    """The folder that an XDG variable names, else the `usual` one in the user's own; never below the working directory.

    The XDG Base Directory Specification has paths that are not absolute passed over.
    """
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else home() / usual


def text(path: Path) -> str:
    """A system file as text; empty where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return ""


def output(*command: str, timeout: float = 20) -> str:
    """What a program prints; empty when it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
