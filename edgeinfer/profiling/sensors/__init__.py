"""Sensors of the machine, read in a thread beside the measurement; one file here is one source.

A field's name ends in its unit. A field that cannot be read has a reason and no number.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

PERIOD_S = 0.2
# what measures the power of a model that runs on this device, the most inclusive first
METERS = {"cpu": ("board.power_w", "cpu.package_power_w"), "gpu": ("board.power_w", "gpu.power_w")}


class Probe(Protocol):
    """One source of readings. `unknown` holds the fields it ought to give and cannot, with the reason."""

    unknown: dict[str, str]

    def read(self) -> dict[str, float]:
        """The fields that could be read now."""

    def close(self) -> None:
        """Free what it holds."""


class Reading(NamedTuple):
    """All fields at one time, on the clock of `time.perf_counter`."""

    at: float
    fields: dict[str, float]


class Window(NamedTuple):
    """Readings of a span of time: those `inside` it, and `around` it with one more at either end, for counters."""

    inside: list[Reading]
    around: list[Reading]

    def values(self, name: str) -> list[float]:
        """A field's readings inside the span."""
        return _values(self.inside, name)

    def counted(self, name: str) -> float | None:
        """How far a counter rose over the span; None where it cannot be read."""
        values = _values(self.around, name)
        return values[-1] - values[0] if values else None


def _values(readings: Sequence[Reading], name: str) -> list[float]:
    return [reading.fields[name] for reading in readings if name in reading.fields]


class Sensors:
    """Reads every probe each `period_s` while it is open, and once at either end."""

    def __init__(self, probes: Sequence[Probe], period_s: float = PERIOD_S) -> None:
        self._probes, self.period_s = probes, period_s
        self.readings: list[Reading] = []
        self._failed: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edgeinfer-sensors", daemon=True)

    def __enter__(self) -> Sensors:
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._read()
        for probe in self._probes:
            probe.close()

    def _watch(self) -> None:
        while not self._over.wait(self.period_s):
            self._read()

    def _read(self) -> None:
        fields: dict[str, float] = {}
        for probe in self._probes:
            try:
                fields.update(probe.read())
            except Exception as error:  # noqa: BLE001 - a sensor that fails is no reason to stop measuring
                self._failed[type(probe).__name__] = f"{type(error).__name__}: {error}"
        self.readings.append(Reading(time.perf_counter(), fields))

    @property
    def unknown(self) -> dict[str, str]:
        """Fields without a number, and why."""
        known = {name for reading in self.readings for name in reading.fields}
        reasons = {name: reason for probe in self._probes for name, reason in probe.unknown.items()}
        reasons.update({f"{name}.error": text for name, text in self._failed.items()})
        return {name: reason for name, reason in sorted(reasons.items()) if name not in known}

    def between(self, start: float, end: float) -> Window:
        """What was read from `start` to `end`, on the clock of `time.perf_counter`."""
        before = [reading for reading in self.readings if reading.at < start][-1:]
        inside = [reading for reading in self.readings if start <= reading.at <= end]
        after = [reading for reading in self.readings if reading.at > end][:1]
        return Window(inside, before + inside + after)

    def record(self, origin: float) -> dict[str, Any]:
        """As JSON: `time_s` from `origin`, `fields` by name with one value a reading, or null and its reason."""
        names = sorted({name for reading in self.readings for name in reading.fields})
        fields: dict[str, Any] = {
            name: {"values": [reading.fields.get(name) for reading in self.readings]} for name in names
        }
        fields.update({name: {"values": None, "reason": reason} for name, reason in self.unknown.items()})
        times = [round(reading.at - origin, 4) for reading in self.readings]
        return {"period_s": self.period_s, "time_s": times, "fields": fields}


def here(children: Sequence[int] = (), gpu: int = 0) -> list[Probe]:
    """The probes of this machine and this GPU; the processes `children` are part of the measurement, not other load."""
    from edgeinfer.profiling.sensors import jetson, linux, nvml

    return [linux.Probe(children=children), nvml.Probe(children, gpu), *jetson.probes()]
