"""When numbers may be trusted, and when not."""

import pytest

from edgeinfer.profiling.samples import Samples
from edgeinfer.profiling.sensors import Reading, Window
from edgeinfer.profiling.validity import judge

QUIET = {
    "cpu.clock_mhz": 2000.0,
    "cpu.throttled_count": 7.0,
    "board.throttled_count": 0.0,
    "cpu.quota_stopped_ms": 30.0,
    "cpu.other_percent": 1.0,
    "gpu.clock_mhz": 1500.0,
    "gpu.throttle_bits": 0.0,
    "gpu.other_percent": 0.0,
    "memory.swapped_pages": 120.0,
}


def window(**changes):
    """Five readings of a quiet machine; a change is the value of the last three."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    readings = [Reading(float(at), {**QUIET, **(changes if at > 1 else {})}) for at in range(5)]
    return Window(readings[1:-1], readings)


def samples(count=2000, **facts):
    return Samples(0.0, latency_ms=[1.0] * count, **facts)


def reasons(device="cpu", scenario="single-stream", taken=None, **changes):
    return judge(scenario, taken or samples(), window(**changes), device).reasons


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_quiet_machine_is_valid_and_fully_checked(device):
    assert judge("single-stream", samples(), window(), device) == ([], [])


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({"cpu__throttled_count": 9.0}, "cpu", "the processor throttled"),
        (
            {"cpu__quota_stopped_ms": 250.0},
            "cpu",
            "the process's CPU quota stopped it for 220 ms: give it more, or use fewer threads (--threads)",
        ),
        ({"board__throttled_count": 4.0}, "gpu", "the board throttled"),
        ({"gpu__throttle_bits": float(0x60)}, "gpu", "the GPU throttled: software thermal, hardware thermal"),
        ({"cpu__clock_mhz": 1890.0}, "cpu", "the clock moved by 6%, from 1890 to 2000 MHz (cpu.clock_mhz)"),
        ({"gpu__clock_mhz": 1300.0}, "gpu", "the clock moved by 13%, from 1300 to 1500 MHz (gpu.clock_mhz)"),
        ({"cpu__other_percent": 40.0}, "cpu", "other processes took 27 % of the processor"),
        ({"cpu__other_percent": 40.0}, "gpu", "other processes took 27 % of the processor"),
        ({"gpu__other_percent": 30.0}, "gpu", "other processes took 20 % of the GPU"),
        ({"memory__swapped_pages": 122.0}, "cpu", "2 pages were swapped"),
    ],
)
def test_a_disturbed_machine_is_not(changes, device, reason):
    assert reasons(device, **changes) == [reason]


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu__clock_mhz": 1910.0},
        {"gpu__throttle_bits": float(0x01)},
        {"gpu__clock_mhz": 100.0},
        {"cpu__other_percent": 6},
    ],
)
def test_small_things_and_an_idle_gpu_do_not_disturb_a_processor(changes):
    assert reasons("cpu", **changes) == []


def test_clocks_may_fall_in_the_gaps_of_a_camera():
    assert reasons(scenario="paced", cpu__clock_mhz=800.0) == []


@pytest.mark.parametrize(
    ("scenario", "count"),
    [("single-stream", 64), ("multi-stream", 662), ("server", 662), ("offline", 11), ("paced", 64), ("cold", 11)],
)
def test_too_few_samples_are_named(scenario, count):
    assert reasons(scenario=scenario, taken=samples(count)) == []
    (reason,) = reasons(scenario=scenario, taken=samples(count - 1))
    assert reason.startswith(f"too few samples: {count - 1}, and p")
    assert f"needs {count}" in reason


def test_a_clock_set_back_an_interruption_and_a_fault_are_reasons():
    taken = samples(backwards=2, interrupted=True, faults=["broken"])
    assert reasons(taken=taken) == ["broken", "the clock went backwards 2 times", "interrupted"]


def test_what_no_sensor_tells_is_unchecked_not_invalid():
    blind = judge("single-stream", samples(), Window([], []), "gpu")
    assert blind.reasons == []
    assert blind.unchecked == [
        "throttling",
        "steady clocks (gpu.clock_mhz)",
        "load of other processes (cpu.other_percent)",
        "load of other processes (gpu.other_percent)",
        "swapping (memory.swapped_pages)",
    ]


@pytest.mark.parametrize(
    ("device", "told", "checked"),
    [
        ("cpu", "cpu.throttled_count", True),
        ("cpu", "board.throttled_count", True),
        ("cpu", "gpu.throttle_bits", False),
        ("gpu", "gpu.throttle_bits", True),
        ("gpu", "board.throttled_count", True),
        ("gpu", "cpu.throttled_count", False),
    ],
)
def test_throttling_is_checked_where_the_device_or_the_board_tells_of_it(device, told, checked):
    readings = [Reading(float(at), {told: 0.0}) for at in range(5)]
    seen = judge("single-stream", samples(), Window(readings[1:-1], readings), device)
    assert ("throttling" in seen.unchecked) is not checked
