"""Linux: clocks, temperatures, energy, memory, swap, and what other processes take of the processor."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeinfer import machine, quota
from edgeinfer.machine import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# of the columns of /proc/stat: user nice system irq softirq steal; not idle, not waiting for a disk
_BUSY = (0, 1, 2, 5, 6, 7)
_WHY = {
    "cpu.clock_mhz": "no cpufreq (a virtual machine?)",
    "cpu.temperature_c": "no thermal zone",
    "cpu.package_power_w": "no RAPL energy counter here",
    "cpu.throttled_count": "no thermal_throttle counter here",
    "cpu.other_percent": "/proc/stat cannot be read",
    "memory.swapped_pages": "/proc/vmstat cannot be read",
    "memory.available_mb": "/proc/meminfo cannot be read",
    "process.memory_mb": "/proc/self/statm cannot be read",
}


class Probe:
    """Reads below `root`, for the processors this process may run on; `children` count as its own work."""

    def __init__(self, root: Path = ROOT, children: Sequence[int] = ()) -> None:
        self._root, self._children = root, children
        self._cpus = sorted(os.sched_getaffinity(0))
        self.unknown = dict(_WHY)
        self._clocks = self._readable(
            "cpu.clock_mhz", [self._cpu(cpu) / "cpufreq/scaling_cur_freq" for cpu in self._cpus]
        )
        self._zones = self._readable("cpu.temperature_c", self._thermal_zones())
        self._energy = self._readable("cpu.package_power_w", self._packages())
        counters = [self._cpu(cpu) / "thermal_throttle" for cpu in self._cpus]
        throttles = [folder / f"{unit}_throttle_count" for folder in counters for unit in ("core", "package")]
        self._throttles = self._readable("cpu.throttled_count", throttles)
        self._quota = quota.cpu_quota(root)
        self._before = self._now()

    def _cpu(self, number: int) -> Path:
        return self._root / f"sys/devices/system/cpu/cpu{number}"

    def _thermal_zones(self) -> list[Path]:
        """The processor's own zones where they are named so, else all."""
        zones = sorted((self._root / "sys/class/thermal").glob("thermal_zone*"))
        named = {zone: machine.text(zone / "type") for zone in zones}
        of_cpu = [zone for zone, kind in named.items() if re.search(r"cpu|x86_pkg|soc|package", kind, re.IGNORECASE)]
        return [zone / "temp" for zone in of_cpu or zones]

    def _packages(self) -> list[Path]:
        """RAPL's counters of the packages. That of the whole platform, which laptops have beside them, holds theirs."""
        zones = sorted((self._root / "sys/class/powercap").glob("*rapl:?"))
        return [zone / "energy_uj" for zone in zones if machine.text(zone / "name") != "psys"]

    def _readable(self, field: str, paths: list[Path]) -> list[Path]:
        """Those of the files that can be read; where none can, the reason is kept."""
        found = []
        for path in paths:
            try:
                int(path.read_bytes())
                found.append(path)
            except PermissionError:
                self.unknown[field] = f"no permission to read {path}"
            except (OSError, ValueError):
                continue
        return found

    def read(self) -> dict[str, float]:
        fields = {}
        for name, paths, scale in (("cpu.clock_mhz", self._clocks, 1e3), ("cpu.temperature_c", self._zones, 1e3)):
            values = _numbers(paths)
            if values:
                # the busy core is the fast one and the hot one
                fields[name] = max(values) / scale
        if self._throttles:
            fields["cpu.throttled_count"] = float(sum(_numbers(self._throttles)))
        stopped_s = self._quota.stopped_s() if self._quota else None
        if stopped_s is not None:
            fields["cpu.quota_stopped_ms"] = 1e3 * stopped_s
        fields.update(self._memory())
        before, self._before = self._before, self._now()
        fields.update(_since(before, self._before))
        return fields

    def _memory(self) -> dict[str, float]:
        fields = {}
        memory = quota.memory(self._root)
        pages = quota.counters(self._root / "proc/vmstat")
        if memory:
            fields["memory.available_mb"] = memory.free / 1e6
        if "pswpin" in pages:
            fields["memory.swapped_pages"] = float(pages["pswpin"] + pages["pswpout"])
        with suppress(IndexError, ValueError):
            fields["process.memory_mb"] = int(machine.text(self._root / "proc/self/statm").split()[1]) * _PAGE / 1e6
        return fields

    def _now(self) -> dict[str, float]:
        """Counters, of which only the differences say anything."""
        own = sum(os.times()[:4]) + sum(_used_s(self._root / f"proc/{child}/stat") for child in self._children)
        now = {"time": time.perf_counter(), "own": own}
        if self._energy:
            now["energy"] = sum(_numbers(self._energy)) / 1e6
        with suppress(IndexError, ValueError):
            now["busy"] = _busy_s(machine.text(self._root / "proc/stat"), self._cpus)
            now["cpus"] = len(self._cpus)
        return now

    def close(self) -> None:
        """Nothing is held."""


_PAGE = os.sysconf("SC_PAGE_SIZE")


def _numbers(paths: list[Path]) -> list[int]:
    values = []
    for path in paths:
        try:
            values.append(int(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return values


def _used_s(stat: Path) -> float:
    """Seconds of processor a process has used; none once it is gone, for then its parent has them."""
    try:
        # its name, in brackets, may hold anything
        columns = machine.text(stat).rpartition(")")[2].split()
        return (int(columns[11]) + int(columns[12])) * _TICK_S
    except (IndexError, ValueError):
        return 0.0


def _busy_s(stat: str, cpus: list[int]) -> float:
    """Seconds that these processors were busy since boot, in all."""
    rows = [line.split() for line in stat.splitlines() if re.match(r"cpu\d", line)]
    wanted = {f"cpu{number}" for number in cpus}
    ticks = [int(row[1 + place]) for row in rows if row[0] in wanted for place in _BUSY]
    if not ticks:
        raise ValueError("no line for a processor")
    return sum(ticks) * _TICK_S


def _since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Rates between two readings of the counters; none over a span too short to tell (ticks are 10 ms)."""
    spent = {name: now[name] - before[name] for name in now if name in before}
    fields: dict[str, float] = {}
    if spent["time"] <= 0:
        return fields
    if spent.get("energy", -1.0) >= 0:  # the counter wraps around
        fields["cpu.package_power_w"] = spent["energy"] / spent["time"]
    if "busy" in spent:
        # a tick more or less either way: not clipped at 0, or the mean would lie
        fields["cpu.other_percent"] = 100 * (spent["busy"] - spent["own"]) / (spent["time"] * now["cpus"])
    return fields
