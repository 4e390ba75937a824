"""What a number belongs to: device, power mode, driver, library versions, the very files, the command."""

from __future__ import annotations

import datetime as dt
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeinfer
from edgeinfer import machine, plans, quota
from edgeinfer.bundle import SPEC_FILE, sha256_of
from edgeinfer.errors import BackendUnavailable
from edgeinfer.machine import ROOT
from edgeinfer.profiling.sensors import jetson, nvml

if TYPE_CHECKING:
    from edgeinfer.bundle import Bundle

# besides those that a plan is tied to
LIBRARIES = ("numpy", "cuda-bindings", "mlcommons-loadgen", "nvidia-ml-py")


def describe(bundle: Bundle, gpu: int = 0, root: Path = ROOT) -> dict[str, Any]:
    """The context of a report: of this machine and GPU, this process and this bundle. What is unknown is None."""
    return {
        "time": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "edgeinfer": edgeinfer.__version__,
        "commit": _commit(),
        "bundle": {"path": str(bundle.path), "name": bundle.spec.name, "sha256": sha256_of(bundle.path / SPEC_FILE)},
        "device": _device(gpu, root),
        "power": _power(root),
        "system": _system(root),
        "libraries": machine.versions(*plans.LIBRARIES, *LIBRARIES),
    }


def place(facts: dict[str, Any]) -> list[str]:
    """What a context's `device` is called: board, GPU, processor, cores and quota, as far as there are any."""
    limit = facts.get("quota_cpus")  # reports made before there was this field have none
    named = [facts["board"], facts["gpu"], facts["cpu"], f"{facts['cores']} cores", limit and f"quota {limit:g}"]
    return [name for name in named if name]


def _device(ordinal: int, root: Path) -> dict[str, Any]:
    processor = machine.field(machine.text(root / "proc/cpuinfo"), "model name")
    limit = quota.cpu_quota(root)
    board = machine.text(root / "proc/device-tree/model")
    gpu = nvml.facts(ordinal) or _cuda(ordinal)
    memory = quota.memory(root)
    return {
        "board": board or None,
        "cpu": processor or platform.machine(),
        "cores": machine.cores(),
        "quota_cpus": limit.cpus if limit else None,
        "memory_mb": round(memory.total / 1e6) if memory else None,
        "memory_limit_mb": round(memory.limit / 1e6) if memory and memory.limit else None,
        "gpu": gpu.get("gpu"),
        "driver": gpu.get("driver"),
    }


def _cuda(ordinal: int) -> dict[str, str]:
    """The GPU as CUDA names it: an older Jetson has no NVML."""
    try:
        found = machine.gpu(ordinal) if machine.has_gpu() else None
    except BackendUnavailable:
        return {}
    return {"gpu": f"{found.name}, compute {found.sm}", "driver": f"CUDA {found.cuda}"} if found else {}


def _power(root: Path) -> dict[str, Any]:
    governors = {machine.text(path) for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")}
    return {
        "mode": jetson.power_mode(machine.output("nvpmodel", "-q")) or None,
        "clocks_locked": jetson.clocks_locked(machine.output("jetson_clocks", "--show")),
        "governor": ", ".join(sorted(filter(None, governors))) or None,
    }


def _system(root: Path) -> dict[str, Any]:
    return {
        "os": machine.os_release(root) or platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "l4t": machine.jetson_release(root) or None,
    }


def _commit() -> str | None:
    """Of the source tree this package runs from; None when it was installed."""
    home = Path(edgeinfer.__file__).parent.parent
    if not (home / ".git").exists():
        return None
    return machine.output("git", "-C", str(home), "describe", "--always", "--dirty")
