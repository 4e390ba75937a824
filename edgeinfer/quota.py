"""What the process's control groups let it have of the processor: Docker's --cpus, Kubernetes' limits, CPUQuota.

Standard library only. A process with more busy threads than its quota has CPUs is stopped by the kernel for the rest of
each period, a tenth of a second as a rule. Files and units: cgroup-v2.rst and sched-bwc.rst of the Linux kernel.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from edgeinfer import machine

ROOT = Path("/")
MOUNTS = "sys/fs/cgroup"


class Quota(NamedTuple):
    """So many `cpus`, of the control group whose folder is `group`."""

    cpus: float
    group: Path

    def stopped_s(self) -> float | None:
        """Seconds that the group's processes have been stopped so far; None where it is not told."""
        units = {"throttled_usec": 1e6, "throttled_time": 1e9}  # of version 2 and of version 1
        for line in _lines(self.group / "cpu.stat"):
            name, _, number = line.partition(" ")
            if name in units and number.isdecimal():
                return int(number) / units[name]
        return None


def here(root: Path = ROOT) -> Quota | None:
    """The tightest quota of this process; None without one."""
    quotas = [Quota(cpus, group) for group in _groups(root) for cpus in _cpus(group)]
    return min(quotas, default=None)


def threads() -> int:
    """As many as the quota has CPUs; 0 if there is none, or it leaves every core.

    A part of a CPU counts as one: with 1.5 CPUs two threads are done sooner than one, also with the stops they meet.
    """
    quota = here()
    count = math.ceil(quota.cpus) if quota else 0
    return count if count < machine.cores() else 0


def cores(root: Path = ROOT) -> str:
    """The cores this process may run on, and what its quota lets it have: `16 cores` or `16 cores, quota 2.5`."""
    quota = here(root)
    return f"{machine.cores()} cores" + (f", quota {quota.cpus:g}" if quota else "")


def _groups(root: Path) -> list[Path]:
    """Folders of the control groups that the process is in, and of those that they are in, as far as they are seen."""
    found: list[Path] = []
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        # version 2 alone, or beside version 1; version 1 under its controllers' names
        for mount in ("", "unified") if number == "0" else (controllers, "cpu"):
            top = root / MOUNTS / mount
            # in a container the path may be that on its host: then the top is the group
            parts = [part for part in path.split("/") if part not in {"", ".."}]
            found += [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return found


def _cpus(group: Path) -> list[float]:
    """The group's own quota in CPUs, if it has one."""
    words = " ".join(_lines(group / "cpu.max")).split()  # version 2: `200000 100000` or `max 100000`
    if not words:
        words = [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]  # version 1; -1: none
    with suppress(ValueError):
        if len(words) == 2 and int(words[0]) > 0 < int(words[1]):
            return [int(words[0]) / int(words[1])]
    return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
