"""What the process's control groups let it have of processor and memory: Docker's --cpus and --memory, CPUQuota.

Standard library only. A process with more busy threads than its quota has CPUs is stopped by the kernel for the rest of
each period, a tenth of a second as a rule; one that takes more memory than its limit is ended. Files and units:
cgroup-v2.rst, sched-bwc.rst and cgroup-v1/memory.rst of the Linux kernel.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from edgeinfer import machine
from edgeinfer.machine import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS = "sys/fs/cgroup"
# of a group: the limit, what is used, and the counter of file pages in it that make room when there is none
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.high", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


class Quota(NamedTuple):
    """How many `cpus` the processes of a control group may use together; `group` is its folder."""

    cpus: float
    group: Path

    def stopped_s(self) -> float | None:
        """Seconds that the group's processes have been stopped so far; None where it is not told."""
        units = {"throttled_usec": 1e6, "throttled_time": 1e9}  # of version 2 and of version 1
        told = counters(self.group / "cpu.stat")
        return next((told[name] / unit for name, unit in units.items() if name in told), None)


class Memory(NamedTuple):
    """Bytes: what the machine has and has `available`; the `limit` of the process, 0 without one, and the room in it.

    A limit is the tightest of all groups that the process is in, and so is the room, which may be that of another.
    """

    total: int
    available: int
    limit: int
    room: int

    @property
    def free(self) -> int:
        """What this process can still have."""
        return min(self.available, self.room) if self.limit else self.available


def memory(root: Path = ROOT) -> Memory | None:
    """The memory of the machine and of this process; None where the machine does not tell."""
    known = counters(root / "proc/meminfo", 1024)
    if "MemTotal" not in known:
        return None
    total, available = known["MemTotal"], known.get("MemAvailable", 0)
    # version 1 has a huge number where there is no limit
    found = [one for group in _groups(root, "memory") for one in _limits(group) if one[0] < total]
    limit, room = (min(column) for column in zip(*found)) if found else (0, 0)
    return Memory(total, available, limit, room)


def cpu_quota(root: Path = ROOT) -> Quota | None:
    """The tightest quota of this process; None without one."""
    quotas = [Quota(cpus, group) for group in _groups(root, "cpu") for cpus in _cpus(group)]
    return min(quotas, default=None)


def threads() -> int:
    """How many threads a model should have: the quota's CPUs; 0 if there is no quota, or it leaves every core.

    A part of a CPU counts as one: with 1.5 CPUs two threads are done sooner than one, also with the stops they meet.
    """
    quota = cpu_quota()
    count = math.ceil(quota.cpus) if quota else 0
    return count if count < machine.cores() else 0


def most_threads() -> int:
    """How many threads, or contexts, a model may have: more would leave the machine no time for anything else."""
    return 16 * machine.cores()


def cores(root: Path = ROOT) -> str:
    """The cores this process may run on, and what its quota lets it have: `16 cores` or `16 cores, quota 2.5`."""
    quota = cpu_quota(root)
    return f"{machine.cores()} cores" + (f", quota {quota.cpus:g}" if quota else "")


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of the controller's groups that the process is in, and those that they are in, as far as seen."""
    found: list[Path] = []
    for line in machine.text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        # version 2 alone, or beside version 1; version 1 under its controllers' names
        for mount in ("", "unified") if number == "0" else (controllers, controller):
            top = root / MOUNTS / mount
            # in a container the path may be that on its host: then the top is the group
            parts = [part for part in path.split("/") if part not in {"", ".."}]
            found += [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return found


def _cpus(group: Path) -> list[float]:
    """The group's own quota in CPUs, if it has one."""
    words = machine.text(group / "cpu.max").split()  # version 2: `200000 100000` or `max 100000`
    if not words:
        words = [machine.text(group / f"cpu.cfs_{part}_us") for part in ("quota", "period")]  # version 1; -1: none
    with suppress(ValueError):
        if len(words) == 2 and int(words[0]) > 0 < int(words[1]):
            return [int(words[0]) / int(words[1])]
    return []


def _limits(group: Path) -> list[tuple[int, int]]:
    """The group's own limits of memory, and the room that is left in each."""
    found = []
    for limit, used, spare in LIMITS:
        most, now = (machine.text(group / name) for name in (limit, used))
        if most.isdecimal() and now.isdecimal():
            held = int(now) - counters(group / "memory.stat").get(spare, 0)
            found.append((int(most), max(0, int(most) - held)))
    return found


def counters(path: Path, unit: int = 1) -> dict[str, int]:
    """The numbers in a file of lines `name value` or `name: value kB`, each times `unit`."""
    words = [line.replace(":", " ").split() for line in machine.text(path).splitlines()]
    return {line[0]: unit * int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}
