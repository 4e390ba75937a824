"""NVML: an NVIDIA GPU's clocks, temperature, power, throttle reasons and other users."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from edgeinfer import machine
from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

# where processes are numbered: here, and on the machine itself (PROC_PID_INIT_INO in the Linux kernel's proc_ns.h)
NUMBERED, OUTSIDE = Path("/proc/self/ns/pid"), "pid:[4026531836]"
# of nvmlClocksEventReasons: software power cap, hardware slowdown, software and hardware thermal, power brake
THROTTLES = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
# field -> how it is read, given the library and the GPU
WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "gpu.clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "gpu.memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "gpu.temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    "gpu.power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
    "gpu.throttle_bits": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "gpu.load_percent": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "gpu.memory_mb": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / 1e6,
}
OTHERS = "gpu.other_percent"
FIELDS = (*WAYS, OTHERS)


class Probe:
    """The GPU that CUDA gives this number, or nothing but reasons."""

    def __init__(self, children: Sequence[int] = (), gpu: int = 0) -> None:
        self._children = children
        self.unknown: dict[str, str] = {}
        self._gpu: Any = None
        self._seen_us = 0
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._gpu = _chosen(pynvml, gpu)
        except ImportError:
            self.unknown = dict.fromkeys(FIELDS, 'nvidia-ml-py is not installed: pip install "edgeinfer[profile]"')
        except pynvml.NVMLError as error:
            self.unknown = dict.fromkeys(FIELDS, f"NVML: {error}")
        except BackendUnavailable as error:
            self.unknown = dict.fromkeys(FIELDS, str(error))

    def read(self) -> dict[str, float]:
        if self._gpu is None:
            return {}
        ways: dict[str, Callable[[], Any]] = {name: partial(way, self._nvml, self._gpu) for name, way in WAYS.items()}
        if _own_numbers():
            ways[OTHERS] = self._others
        else:
            self.unknown[OTHERS] = "in a container NVML names processes by their numbers outside"
        fields = {}
        for name, way in ways.items():
            try:
                fields[name] = float(way())
            except self._nvml.NVMLError as error:
                self.unknown[name] = f"NVML: {error}"
        return fields

    def _others(self) -> float:
        """Share of the GPU that other processes took since the last time, percent."""
        nvml = self._nvml
        try:
            used = nvml.nvmlDeviceGetProcessUtilization(self._gpu, self._seen_us)
        except nvml.NVMLError_NotFound:
            return 0.0  # nobody used it
        self._seen_us = max((entry.timeStamp for entry in used), default=self._seen_us)
        newest: dict[int, int] = {}
        for entry in sorted(used, key=lambda entry: entry.timeStamp):
            newest[entry.pid] = entry.smUtil
        own = {os.getpid(), *self._children}
        return float(sum(share for pid, share in newest.items() if pid not in own))

    def close(self) -> None:
        if self._gpu is not None:
            self._gpu = None
            self._nvml.nvmlShutdown()


def _own_numbers() -> bool:
    """Whether processes have the same numbers here as outside all containers, by which NVML names them."""
    try:
        return str(NUMBERED.readlink()) == OUTSIDE
    except OSError:
        return False


def _chosen(nvml: Any, gpu: int) -> Any:
    """NVML counts in another order than CUDA and knows no CUDA_VISIBLE_DEVICES: of several, the one in CUDA's slot.

    The only one is it in any case: that of a Jetson sits in no slot.
    """
    if nvml.nvmlDeviceGetCount() == 1:
        return nvml.nvmlDeviceGetHandleByIndex(0)
    return nvml.nvmlDeviceGetHandleByPciBusId(machine.pci_address(gpu).encode())


def facts(gpu: int = 0) -> dict[str, str]:
    """Name and driver of the GPU that CUDA gives this number; empty where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no library, no driver, no GPU: all the same here
        return {}
    try:
        name = str(pynvml.nvmlDeviceGetName(_chosen(pynvml, gpu)))
        return {"gpu": name, "driver": str(pynvml.nvmlSystemGetDriverVersion())}
    except (pynvml.NVMLError, BackendUnavailable):
        return {}
    finally:
        pynvml.nvmlShutdown()
