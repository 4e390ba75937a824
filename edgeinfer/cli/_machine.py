"""The machine itself: processor, memory, system, NVIDIA GPU and driver, Jetson board."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from edgeinfer import machine, quota, verdicts
from edgeinfer.cli._findings import NOTE, OK, PROBLEM, Finding
from edgeinfer.errors import BackendUnavailable
from edgeinfer.machine import ROOT, field, jetson_release, os_release, output, text
from edgeinfer.profiling.sensors.jetson import faster_mode, power_mode

if TYPE_CHECKING:
    from pathlib import Path

# what speeds inference up, newest last
X86_FLAGS = ("avx2", "f16c", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
LITTLE = 1e9  # bytes of memory


def processor(root: Path = ROOT) -> list[Finding]:
    """Model, cores this process may use, and the instructions that matter."""
    table = text(root / "proc/cpuinfo")
    flags = set((field(table, "flags") or field(table, "Features")).split())
    useful = [flag for flag in (*X86_FLAGS, *ARM_FLAGS) if flag in flags]
    model = field(table, "model name") or text(root / "proc/device-tree/model") or platform.machine()
    facts = f"{model}, {quota.cores(root)}"
    if not useful and platform.machine() in {"x86_64", "AMD64"} and flags:
        return [Finding("processor", NOTE, f"{facts}, without AVX2", "expect a fraction of the usual speed")]
    return [Finding("processor", OK, f"{facts}, {' '.join(useful) or platform.machine()}")]


def memory(root: Path = ROOT) -> list[Finding]:
    """What the machine has, and what the process's control groups let it have of that."""
    found = quota.memory(root)
    if not found:
        return []
    facts = f"{found.total / 1e9:.1f} GB, {found.available / 1e9:.1f} GB of it free"
    if found.limit:
        facts += f"; limited to {found.limit / 1e9:.1f} GB, {found.room / 1e9:.1f} GB of it free"
    if found.free >= LITTLE:
        return [Finding("memory", OK, facts)]
    limits = found.limit and found.room < found.available
    remedy = "raise the container's or unit's limit" if limits else "close other programs"
    return [Finding("memory", NOTE, facts, f"{remedy} before large models")]


def system(root: Path = ROOT) -> list[Finding]:
    facts = f"{os_release(root) or platform.system()}, {platform.machine()}, Linux {platform.release()}"
    return [
        Finding("system", OK, facts if platform.system() == "Linux" else platform.platform()),
        Finding("python", OK, f"{platform.python_version()} ({platform.python_implementation()})"),
    ]


def gpu(root: Path = ROOT) -> list[Finding]:
    """NVIDIA GPUs, asked of the driver without opening CUDA."""
    listed = output("nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader")
    if listed:
        return [_listed(line) for line in listed.splitlines()]
    driver = re.search(r"Kernel Module\D*([\d.]+)", text(root / "proc/driver/nvidia/version"))
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if driver:
        names = ", ".join(field(text(card), "Model") for card in cards) or "no GPU"
        return [Finding("gpu", OK if cards else NOTE, f"{names}, driver {driver[1]}")]
    if _on_bus(root) and not jetson_release(root):
        remedy = "install it: sudo ubuntu-drivers install, or nvidia.com/drivers"
        return [Finding("gpu", PROBLEM, "an NVIDIA GPU is on the bus, but its driver is not loaded", remedy)]
    return [] if jetson_release(root) else [Finding("gpu", NOTE, "no NVIDIA GPU; models run on the CPU")]


def engines() -> list[Finding]:
    """What an engine must have been built for to fit this GPU exactly, and which failed their self-test here."""
    if not machine.has_gpu():
        return []
    try:
        found = machine.gpu()
    except BackendUnavailable as error:
        return [Finding("engines", PROBLEM, str(error), error.hint)]
    release = f", L4T {machine.l4t()}" if machine.l4t() else ""
    findings = [Finding("engines", OK, f"for sm_{found.sm}, {found.name}, {machine.system()}{release}")]
    for file, verdict in verdicts.failed():
        text = f"{file} failed its self-test on {verdict.when}: {verdict.detail}"
        findings.append(Finding("engines", NOTE, text, "edgeinfer verify BUNDLE tries it again"))
    return findings


def _listed(line: str) -> Finding:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 4:
        return Finding("gpu", NOTE, f"nvidia-smi says: {line}", "restart after a driver update")
    name, capability, size, driver = parts
    facts = (name, f"compute {capability}", size, f"driver {driver}")
    return Finding("gpu", OK, ", ".join(fact for fact in facts if "N/A" not in fact))  # of Jetsons little is told


def _on_bus(root: Path) -> bool:
    """Whether a display controller of NVIDIA's is plugged in."""
    for device in (root / "sys/bus/pci/devices").glob("*"):
        if text(device / "vendor") == "0x10de" and text(device / "class").startswith("0x03"):
            return True
    return False


def jetson(root: Path = ROOT) -> list[Finding]:
    release = jetson_release(root)
    if not release:
        return []
    board = text(root / "proc/device-tree/model") or "Jetson"
    findings = [Finding("jetson", OK, f"{board}, L4T {release}")]
    mode = power_mode(output("nvpmodel", "-q"))
    faster = faster_mode(mode, text(root / "etc/nvpmodel.conf"))
    if not mode:
        findings.append(Finding("power mode", NOTE, "unknown", "sudo nvpmodel -q"))
    elif not faster:
        findings.append(Finding("power mode", OK, mode))
    else:
        remedy = f"for full speed: sudo nvpmodel -m {faster} && sudo jetson_clocks"
        findings.append(Finding("power mode", NOTE, f"{mode}, not the fastest", remedy))
    return findings
