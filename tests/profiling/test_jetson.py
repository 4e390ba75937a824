"""What tegrastats and its companions print, from JetPack 4 to 6; lines as the boards gave them."""

import os
import stat
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.profiling.sensors import jetson
from helpers.patience import LONG_S, until

LINES = Path(__file__).parent.parent / "data" / "tegrastats"
EXPECTED = {
    "orin-nano-jetpack6": {
        "board.power_w": 16.321,
        "board.vdd_cpu_gpu_cv_w": 7.104,
        "board.vdd_soc_w": 3.12,
        "board.tj_c": 58.312,
        "cpu.temperature_c": 57.125,
        "gpu.temperature_c": 58.625,
        "gpu.load_percent": 99.0,
        "gpu.clock_mhz": 612.0,
        "memory.controller_percent": 61.0,
        "memory.clock_mhz": 2133.0,
        "cpu.clock_mhz": 1497.0,
    },
    "agx-orin-jetpack5": {
        "board.power_w": 6.755,  # GPU, processor and the 5 V rail, of which the memory's is a part
        "board.vdd_gpu_soc_w": 2.34,
        "board.vddq_vdd2_1v8ao_w": 0.301,
        "cpu.temperature_c": 44.562,
        "gpu.clock_mhz": 0.0,
        "gpu.temperature_c": None,
        "board.cv0_c": None,
        "cpu.clock_mhz": 729.0,
    },
    "xavier-nx-jetpack5": {"board.power_w": 2.763, "gpu.clock_mhz": 114.0, "gpu.temperature_c": 45.5},
    "agx-xavier-jetpack4": {"board.power_w": 3.113, "board.sys5v_w": 1.889, "gpu.temperature_c": 32.0},
    "nano-jetpack4": {
        "board.power_w": 0.9,
        "board.pom_5v_cpu_w": 0.123,
        "gpu.load_percent": 0.0,
        "gpu.clock_mhz": None,
        "memory.clock_mhz": None,
        "cpu.clock_mhz": 102.0,
    },
}


@pytest.mark.parametrize("board", EXPECTED)
def test_a_line_of_tegrastats_is_read(board):
    fields = jetson.parse((LINES / f"{board}.txt").read_text().strip())
    assert {name: fields.get(name) for name in EXPECTED[board]} == pytest.approx(EXPECTED[board])


@pytest.mark.parametrize("board", EXPECTED)
@given(cut=st.integers(0, 500))
def test_a_line_cut_anywhere_gives_no_wrong_power(board, cut):
    line = (LINES / f"{board}.txt").read_text().strip()
    whole, part = jetson.parse(line), jetson.parse(line[:cut])
    rails = {name: value for name, value in part.items() if name.endswith("_w")}
    assert {name: whole.get(name) for name in rails} == rails


@given(st.text())
def test_any_text_is_no_crash(line):
    assert all(isinstance(value, float) for value in jetson.parse(line).values())


def test_a_running_tegrastats_is_listened_to_and_stopped(tmp_path):
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile :; do cat {LINES}/orin-nano-jetpack6.txt; sleep 0.05; done\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    probe = jetson.Tegrastats(str(program))
    try:
        assert until(probe.read)["board.power_w"] == 16.321
    finally:
        probe.close()
    assert probe._process.returncode is not None


def test_the_last_words_of_a_tegrastats_that_has_ended_are_no_reading(tmp_path):
    program, gate = tmp_path / "tegrastats", tmp_path / "gate"
    os.mkfifo(gate)
    program.write_text(f"#!/bin/sh\ncat {LINES}/orin-nano-jetpack6.txt; read word < {gate}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with closing(jetson.Tegrastats(str(program))) as probe:
        assert until(probe.read)["board.power_w"] == 16.321
        gate.write_text("end\n")
        probe._thread.join(LONG_S)
        assert probe.read() == {}


def test_a_board_that_throttles_is_counted(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    probe = next(iter(jetson.probes(tmp_path)))
    assert probe.read() == {}
    assert "board.throttled_count" in probe.unknown
    folder = tmp_path / "sys/class/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for number, count in ((1, 0), (2, 15), (3, 37)):
        (folder / f"oc{number}_event_cnt").write_text(f"{count}\n")
    assert jetson.Throttles(tmp_path).read() == {"board.throttled_count": 52.0}


def test_without_a_jetson_there_is_no_probe(tmp_path):
    assert jetson.probes(tmp_path) == []


def test_the_power_mode_is_read():
    assert jetson.power_mode("NV Fan Mode:quiet\nNV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert jetson.power_mode("permission denied") == ""


@pytest.mark.parametrize(("low", "locked"), [(1510400, True), (729600, False)])
def test_locked_clocks_are_told_from_free_ones(low, locked):
    said = (
        "SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Developer Kit\nOnline CPUs: 0-5\n"
        f"cpu0:  Online=1 Governor=schedutil MinFreq={low} MaxFreq=1510400 CurrentFreq=1510400 IdleStates: WFI=0 c7=0\n"
        "GPU MinFreq=624750000 MaxFreq=624750000 CurrentFreq=624750000\n"
        "EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=1\n"
    )
    assert jetson.clocks_locked(said) is locked
    assert jetson.clocks_locked("Error: must be root") is None
