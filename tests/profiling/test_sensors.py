"""Sensors on made-up system trees, and on this very machine."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeinfer.profiling import sensors
from edgeinfer.profiling.sensors import Reading, Sensors, Window, linux, nvml
from helpers.patience import until

CPU = min(os.sched_getaffinity(0))
TREE = {
    f"sys/devices/system/cpu/cpu{CPU}/cpufreq/scaling_cur_freq": "1998000\n",
    f"sys/devices/system/cpu/cpu{CPU}/thermal_throttle/core_throttle_count": "3\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "99000\n",
    "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone1/temp": "61500\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "5000000\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "1000000\n",
    "sys/class/powercap/intel-rapl:1/name": "psys\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "9000000\n",
    "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
    "proc/vmstat": "pgpgin 7\npswpin 100\npswpout 20\n",
    "proc/self/statm": "3000 1000 500 1 0 900 0\n",
    "proc/stat": f"cpu  1 1 1 1\ncpu{CPU} 100 0 50 1000 5 0 0 0 0 0\nintr 5\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A root with a processor of one core; `tree(path, text)` changes a file, `tree.pass_(seconds, own)` the clocks."""
    clock = SimpleNamespace(now=100.0, own=1.0)
    monkeypatch.setattr(linux.os, "sched_getaffinity", lambda _: {CPU})
    monkeypatch.setattr(linux.os, "times", lambda: (clock.own, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(linux, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def pass_(seconds, own=0.0):
        clock.now, clock.own = clock.now + seconds, clock.own + own

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    for path, text in TREE.items():
        write(path, text)
    write.root, write.pass_ = tmp_path, pass_
    return write


class Static:
    """A probe of fixed fields, or of an error."""

    def __init__(self, fields=None, unknown=(), error=None):
        self.fields, self.unknown, self.error, self.closed = fields or {}, dict(unknown), error, False

    def read(self):
        if self.error:
            raise self.error
        return self.fields

    def close(self):
        self.closed = True


def test_linux_fields_have_their_units(tree):
    fields = linux.Probe(tree.root).read()
    assert fields["cpu.clock_mhz"] == 1998.0
    assert fields["cpu.temperature_c"] == 61.5  # the processor's own zone, not the hotter other
    assert fields["cpu.throttled_count"] == 3.0
    assert fields["memory.available_mb"] == 4096.0
    assert fields["memory.swapped_pages"] == 120.0
    assert fields["process.memory_mb"] == pytest.approx(1000 * os.sysconf("SC_PAGE_SIZE") / 1e6)


def test_power_is_the_packages_energy_over_time(tree):
    probe = linux.Probe(tree.root)
    tree.pass_(10)
    tree("sys/class/powercap/intel-rapl:0/energy_uj", "155000000")
    tree("sys/class/powercap/intel-rapl:1/energy_uj", "409000000")  # the whole platform, the package within
    assert probe.read()["cpu.package_power_w"] == pytest.approx(15.0)
    tree.pass_(10)
    tree("sys/class/powercap/intel-rapl:0/energy_uj", "7")  # the counter has wrapped around
    assert "cpu.package_power_w" not in probe.read()


def test_the_load_of_others_is_what_this_process_did_not_use(tree):
    probe = linux.Probe(tree.root)
    tree.pass_(10, own=2)
    tree("proc/stat", f"cpu{CPU} 400 0 150 1200 5 0 0 100 0 0\n")  # 5 s more busy, 1 s of it stolen
    assert probe.read()["cpu.other_percent"] == pytest.approx(30.0)


def test_children_are_part_of_the_measurement(tree):
    stat = "{pid} (a) b) S 1 1 1 0 -1 4194304 100 0 0 0 {user} 50 0 0 20 0 1 0 100 1000 100"
    tree("proc/77/stat", stat.format(pid=77, user=100))
    probe = linux.Probe(tree.root, children=[77, 78])
    tree.pass_(10)
    tree("proc/77/stat", stat.format(pid=77, user=500))  # 4 s
    tree("proc/stat", f"cpu{CPU} 500 0 150 1200 5 0 0 0 0 0\n")  # 5 s
    assert probe.read()["cpu.other_percent"] == pytest.approx(10.0)


def test_what_cannot_be_read_has_a_reason_and_no_number(tmp_path):
    with Sensors([linux.Probe(tmp_path)]) as watch:
        pass
    fields = watch.record(0.0)["fields"]
    assert set(fields) == set(linux._WHY)
    assert all(field["values"] is None and field["reason"] for field in fields.values())


def test_a_missing_permission_is_named(tree, monkeypatch):
    energy = tree.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    read = Path.read_bytes

    def denied(path):
        if path == energy:
            raise PermissionError
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    probe = linux.Probe(tree.root)
    assert probe.unknown["cpu.package_power_w"] == f"no permission to read {energy}"
    assert "cpu.package_power_w" not in probe.read()


def test_without_an_nvidia_driver_every_gpu_field_says_so():
    if nvml.facts():
        pytest.skip("this machine has an NVIDIA GPU")
    probe = nvml.Probe()
    assert probe.read() == {}
    assert set(probe.unknown) == set(nvml.FIELDS)
    probe.close()


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """An NVML of one GPU, on which process 7 and this one have each taken a half; outside all containers."""
    used = [SimpleNamespace(pid=pid, smUtil=50, timeStamp=1) for pid in (7, os.getpid())]
    names = ("NVMLError", "NVMLError_NotFound")
    library = SimpleNamespace(
        **{name: type(name, (Exception,), {}) for name in names},
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda _: "gpu",
        nvmlDeviceGetProcessUtilization=lambda *_: used,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetClockInfo=lambda _, kind: 1000 * kind,
        nvmlDeviceGetTemperature=lambda *_: 55,
        nvmlDeviceGetPowerUsage=lambda _: 62500,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 4,
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=99),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=2_000_000_000),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(nvml, "NUMBERED", tmp_path / "pid")
    nvml.NUMBERED.symlink_to(nvml.OUTSIDE)


@pytest.mark.usefixtures("driver")
def test_fields_of_a_gpu_have_their_units():
    assert nvml.Probe().read() == {
        "gpu.clock_mhz": 1000.0,
        "gpu.memory_clock_mhz": 2000.0,
        "gpu.temperature_c": 55.0,
        "gpu.power_w": 62.5,
        "gpu.throttle_bits": 4.0,
        "gpu.load_percent": 99.0,
        "gpu.memory_mb": 2000.0,
        "gpu.other_percent": 50.0,
    }


@pytest.mark.usefixtures("driver")
def test_a_child_that_comes_later_is_no_other_user_of_the_gpu():
    children = []
    probe = nvml.Probe(children)
    assert probe.read()["gpu.other_percent"] == 50.0
    children.append(7)
    assert probe.read()["gpu.other_percent"] == 0.0


@pytest.mark.usefixtures("driver")
def test_in_a_container_other_users_of_the_gpu_are_unknown():
    nvml.NUMBERED.unlink()
    nvml.NUMBERED.symlink_to("pid:[4026532500]")
    probe = nvml.Probe()
    assert "gpu.other_percent" not in probe.read()
    assert "container" in probe.unknown["gpu.other_percent"]


def test_sensors_read_on_while_they_are_open():
    probe = Static({"x.y_w": 4.0})
    with Sensors([probe], period_s=0.01) as watch:
        until(lambda: len(watch.readings) > 5)
    assert probe.closed
    times = [reading.at for reading in watch.readings]
    assert times == sorted(times)
    record = watch.record(times[0])
    assert record["time_s"][0] == 0.0
    assert record["fields"]["x.y_w"]["values"] == [4.0] * len(times)


def test_a_sensor_that_fails_stops_nothing_and_is_named():
    broken, sound = Static(error=OSError("gone")), Static({"x.y_w": 1.0})
    with Sensors([broken, sound]) as watch:
        pass
    fields = watch.record(0.0)["fields"]
    assert fields["Static.error"] == {"values": None, "reason": "OSError: gone"}
    assert fields["x.y_w"]["values"] == [1.0, 1.0]


def test_a_window_holds_the_readings_inside_and_one_more_at_either_end():
    watch = Sensors([])
    watch.readings = [Reading(float(at), {"n": float(at)}) for at in range(10)]
    window = watch.between(3.5, 6.5)
    assert window.values("n") == [4.0, 5.0, 6.0]
    assert window.counted("n") == 4.0  # from 3 to 7
    assert Window([], []).counted("n") is None


def test_the_probes_of_this_machine_give_numbers():
    def known():
        return {name for reading in watch.readings for name in reading.fields}

    with Sensors(sensors.here(), period_s=0.05) as watch:
        until(lambda: {"memory.available_mb", "process.memory_mb", "cpu.other_percent"} <= known())
    assert not known() & set(watch.unknown)
