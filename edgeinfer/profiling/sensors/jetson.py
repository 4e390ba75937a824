"""Jetson: what NVIDIA's `tegrastats` prints, a line each interval, from JetPack 4 on.

Rails, engines and sensors differ by module, so a line is read for its shapes: `NAME 2532mW/2698mW` (older
releases leave out the unit), `name@48.5C`, `GR3D_FREQ 45%@[1300,1300]`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

from edgeinfer.machine import ROOT
from edgeinfer.profiling.sensors import PERIOD_S

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.profiling.sensors import Probe

# the rails that make up the whole board or module: its input, else those of AGX Orin (of which VIN_SYS_5V0 feeds the
# memory's too) and of AGX Xavier, which have none
WHOLE = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VIN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
_RAIL = re.compile(r"\b((?:VDD|VIN|POM|CV|GPU|CPU|SOC|SYS)[A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")
_HEAT = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?(\d+))?")
_MEMORY = re.compile(r"\bEMC_FREQ (?:(\d+)%)?(?:@(\d+))?")
_CORES = re.compile(r"\bCPU \[([^\]]*)\]")
_MODE = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", re.MULTILINE)
_ABSENT_C = -256.0  # a sensor of a part that is switched off


def parse(line: str) -> dict[str, float]:
    """One line of tegrastats -> fields: board.*_w by rail, board.*_c by sensor, gpu.*, memory.*, cpu.*."""
    fields: dict[str, float] = {}
    rails = {name: int(now) / 1e3 for name, now, _ in _RAIL.findall(line)}
    for name, watts in rails.items():
        fields[f"board.{name.lower()}_w"] = watts
    whole = next((names for names in WHOLE if rails.keys() >= set(names)), ())
    if whole:
        fields["board.power_w"] = sum(rails[name] for name in whole)
    heat = {name.lower(): float(value) for name, value in _HEAT.findall(line)}
    for name, value in heat.items():
        if value != _ABSENT_C:
            fields[f"{name}.temperature_c" if name in ("cpu", "gpu") else f"board.{name}_c"] = value
    _engine(fields, _GPU.search(line), "gpu.load_percent", "gpu.clock_mhz")
    _engine(fields, _MEMORY.search(line), "memory.controller_percent", "memory.clock_mhz")
    cores = _CORES.search(line)
    clocks = [int(clock) for clock in re.findall(r"@(\d+)", cores[1])] if cores else []
    if clocks:
        fields["cpu.clock_mhz"] = float(max(clocks))
    return fields


def _engine(fields: dict[str, float], found: re.Match[str] | None, load: str, clock: str) -> None:
    if found and found[1]:
        fields[load] = float(found[1])
    if found and found[2]:
        fields[clock] = float(found[2])


class Tegrastats:
    """A running `tegrastats`; a reading is its newest line."""

    def __init__(self, program: str) -> None:
        self.unknown = {"board.power_w": "tegrastats does not name the rails of the whole board"}
        self._newest: dict[str, float] = {}
        command = [program, "--interval", str(round(PERIOD_S * 1e3))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._listen, name="edgeinfer-tegrastats", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._newest = parse(line)
        self._newest = {}  # it ended: what it said last is of then

    def read(self) -> dict[str, float]:
        return self._newest

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout:
            self._process.stdout.close()


class Throttles:
    """How often the board throttled itself since boot, for want of voltage or an excess of current."""

    def __init__(self, root: Path = ROOT) -> None:
        self._counters = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
        self.unknown = {"board.throttled_count": "no oc_event_cnt counter (before JetPack 5)"}

    def read(self) -> dict[str, float]:
        counts = [int(path.read_bytes()) for path in self._counters]
        return {"board.throttled_count": float(sum(counts))} if counts else {}

    def close(self) -> None:
        """Nothing is held."""


def probes(root: Path = ROOT) -> list[Probe]:
    """A Jetson's counters, and tegrastats where it is installed; nothing elsewhere."""
    if not (root / "etc/nv_tegra_release").exists():
        return []
    program = shutil.which("tegrastats")
    return [Throttles(root), *([Tegrastats(program)] if program else [])]


def power_mode(said: str) -> str:
    """`MAXN` from what `nvpmodel -q` prints; empty when it names none."""
    found = re.search(r"NV Power Mode:\s*(\S+)", said)
    return found[1] if found else ""


def faster_mode(mode: str, table: str) -> str:
    """The number of the mode with the most watts in nvpmodel.conf, MAXN before all; empty where `mode` has as many."""
    watts = {number: _watts(name) for number, name in _MODE.findall(table)}
    most = max(watts, key=watts.__getitem__, default="")
    return most if most and watts[most] > _watts(mode) else ""


def _watts(mode: str) -> float:
    found = re.search(r"(\d+)W", mode)
    return float("inf") if mode.startswith("MAXN") else float(found[1]) if found else 0.0


def clocks_locked(said: str) -> bool | None:
    """Whether `jetson_clocks --show` has every core at one clock (minimum = maximum); None when it does not tell."""
    spans = re.findall(r"^(?:cpu\d+|GPU).*?MinFreq=(\d+) MaxFreq=(\d+)", said, re.MULTILINE)
    return all(low == high for low, high in spans) if spans else None
