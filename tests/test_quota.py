"""CPU quotas and memory limits of control groups: found wherever they are kept, and heeded."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer import cli, machine, plans, quota
from edgeinfer.bundle import Bundle
from edgeinfer.cli._machine import memory, processor
from edgeinfer.errors import UsageError
from edgeinfer.profiling import context
from edgeinfer.profiling.sensors import linux
from helpers.patience import until

GROUPS = "sys/fs/cgroup"
V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"
TREES = {
    "a container of version 2": ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "150000 100000\n"}, 1.5),
    "a unit within a slice that has less": (
        {
            "proc/self/cgroup": "0::/edge.slice/edgeinfer.service\n",
            f"{GROUPS}/edge.slice/cpu.max": "50000 100000\n",
            f"{GROUPS}/edge.slice/edgeinfer.service/cpu.max": "300000 100000\n",
        },
        0.5,
    ),
    "a host's path seen from inside, version 2": (
        {"proc/self/cgroup": "0::/../../kubepods/pod1\n", f"{GROUPS}/cpu.max": "200000 100000\n"},
        2.0,
    ),
    "a name with colons, as containerd gives": (
        {
            "proc/self/cgroup": "0::/kubepods.slice:cri-containerd:1f2e\n",
            f"{GROUPS}/kubepods.slice:cri-containerd:1f2e/cpu.max": "150000 100000\n",
        },
        1.5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": V1,
            f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "25000\n",
            f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "10000\n",
        },
        2.5,
    ),
    "a host's path seen from inside, version 1": (
        {
            "proc/self/cgroup": V1,
            f"{GROUPS}/cpu/cpu.cfs_quota_us": "100000\n",
            f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
        },
        1.0,
    ),
    "version 2 beside version 1": (
        {"proc/self/cgroup": "0::/x\n", f"{GROUPS}/unified/x/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "no quota of version 2": ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "max 100000\n"}, None),
    "no quota of version 1": (
        {
            "proc/self/cgroup": V1,
            f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1\n",
            f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "that of other controllers": (
        {"proc/self/cgroup": "5:cpuset:/a\n", f"{GROUPS}/cpuset/a/cpu.max": "100000 100000\n"},
        None,
    ),
    "no control groups": ({}, None),
    "half of a quota": ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "150000\n"}, None),
    "nonsense": (
        {"proc/self/cgroup": "\n:\n0:\n0::/\n", f"{GROUPS}/cpu.max": "much 0\n", f"{GROUPS}/unified/cpu.max": "5 0\n"},
        None,
    ),
}


MEMORY = "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n"
NO_LIMIT = (0, 0, 4096_000_000)
# the files; the limit, the room in it, and what the process can still have, in bytes
MEMORIES = {
    "a container of version 2, where pages of files make room": (
        {
            "proc/self/cgroup": "0::/\n",
            f"{GROUPS}/memory.max": "2000000000\n",
            f"{GROUPS}/memory.current": "1500000000\n",
            f"{GROUPS}/memory.stat": "anon 1\ninactive_file 700000000\n",
        },
        (2_000_000_000, 1_200_000_000, 1_200_000_000),
    ),
    "a unit within a slice that has less room": (
        {
            "proc/self/cgroup": "0::/edge.slice/edgeinfer.service\n",
            f"{GROUPS}/edge.slice/memory.max": "3000000000\n",
            f"{GROUPS}/edge.slice/memory.current": "2900000000\n",
            f"{GROUPS}/edge.slice/edgeinfer.service/memory.max": "2000000000\n",
            f"{GROUPS}/edge.slice/edgeinfer.service/memory.current": "500000000\n",
        },
        (2_000_000_000, 100_000_000, 100_000_000),
    ),
    "a soft limit below the hard one": (
        {
            "proc/self/cgroup": "0::/x\n",
            f"{GROUPS}/x/memory.max": "3000000000\n",
            f"{GROUPS}/x/memory.high": "1000000000\n",
            f"{GROUPS}/x/memory.current": "1200000000\n",
        },
        (1_000_000_000, 0, 0),
    ),
    "version 1": (
        {
            "proc/self/cgroup": V1,
            f"{GROUPS}/memory/docker/abc/memory.limit_in_bytes": "1000000000\n",
            f"{GROUPS}/memory/docker/abc/memory.usage_in_bytes": "600000000\n",
            f"{GROUPS}/memory/docker/abc/memory.stat": "inactive_file 5\ntotal_inactive_file 100000000\n",
            f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n",
            f"{GROUPS}/memory/memory.usage_in_bytes": "900000000\n",
        },
        (1_000_000_000, 500_000_000, 500_000_000),
    ),
    "a host's path seen from inside, version 1": (
        {
            "proc/self/cgroup": V1,
            f"{GROUPS}/memory/memory.limit_in_bytes": "6000000000\n",
            f"{GROUPS}/memory/memory.usage_in_bytes": "1000000000\n",
        },
        (6_000_000_000, 5_000_000_000, 4096_000_000),
    ),
    "no limit of version 2": (
        {"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": "max\n", f"{GROUPS}/memory.current": "1\n"},
        NO_LIMIT,
    ),
    "a limit of which it is not told how much is used": (
        {"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": "2000000000\n"},
        NO_LIMIT,
    ),
    "more than the machine has": (
        {"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": "9000000000\n", f"{GROUPS}/memory.current": "1\n"},
        NO_LIMIT,
    ),
    "a limit of the processor's group alone": ({**TREES["version 1"][0]}, NO_LIMIT),
    "no control groups": ({}, NO_LIMIT),
    "nonsense": ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": "-1 2 x\n"}, NO_LIMIT),
}


@pytest.fixture
def tree(tmp_path):
    """A root with these files."""

    def made(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return made


@pytest.mark.parametrize("name", TREES)
def test_the_tightest_quota_is_found_wherever_it_is_kept(tree, name):
    files, cpus = TREES[name]
    found = quota.cpu_quota(tree(files))
    assert (found and found.cpus) == cpus


@pytest.mark.parametrize("name", MEMORIES)
def test_the_tightest_limit_of_memory_and_the_room_in_it_are_found(tree, name):
    files, expected = MEMORIES[name]
    found = quota.memory(tree({"proc/meminfo": MEMORY, **files}))
    assert (found.limit, found.room, found.free) == expected
    assert (found.total, found.available) == (8192_000_000, 4096_000_000)


def test_a_machine_that_does_not_tell_its_memory_has_none_that_is_known(tree):
    assert quota.memory(tree(MEMORIES["version 1"][0])) is None


def test_doctor_and_profiles_tell_the_limit_of_memory(tree, detector):
    root = tree({"proc/meminfo": MEMORY, **MEMORIES["version 1"][0]})
    (told,) = memory(root)
    assert told.text == "8.2 GB, 4.1 GB of it free; limited to 1.0 GB, 0.5 GB of it free"
    assert (told.state, "limit" in told.remedy) == ("note", True)
    facts = context.describe(Bundle.open(detector), root=root)["device"]
    assert (facts["memory_mb"], facts["memory_limit_mb"]) == (8192, 1000)
    assert linux.Probe(root).read()["memory.available_mb"] == 500


@pytest.mark.parametrize(("room", "told"), [(100_000_000, True), (150_000_000, False)])
def test_info_tells_where_a_bundle_is_likely_to_need_more_than_the_limit(detector, monkeypatch, capsys, room, told):
    monkeypatch.setattr(quota, "memory", lambda: quota.Memory(8 << 30, 4 << 30, 200_000_000, room))
    assert cli.main(["info", str(detector)]) == 0
    line = "memory: it needs about 100.0 MB, and 100.0 MB is free, of a limit of 200.0 MB"
    assert (line in capsys.readouterr().out) == told


@pytest.mark.parametrize(("line", "seconds"), [("throttled_usec 2500000", 2.5), ("throttled_time 2500000000", 2.5)])
def test_the_time_that_it_stopped_the_process_is_a_field_of_profiles(tree, line, seconds):
    root = tree({**TREES["a container of version 2"][0], f"{GROUPS}/cpu.stat": f"nr_periods 7\n{line}\n"})
    assert quota.cpu_quota(root).stopped_s() == seconds
    assert linux.Probe(root).read()["cpu.quota_stopped_ms"] == 1e3 * seconds


def test_lines_that_are_no_counter_are_passed_over(tmp_path):
    (tmp_path / "stat").write_text("\nbroken\nmost max\nhigh -1\nHugePages: 2 kB\n")
    assert quota.counters(tmp_path / "stat", 1024) == {"HugePages": 2048}


def test_without_a_quota_there_is_no_such_field(tree):
    probe = linux.Probe(tree({}))
    assert "cpu.quota_stopped_ms" not in {**probe.read(), **probe.unknown}


@pytest.mark.parametrize(
    ("cores", "cpus", "threads"), [(8, 2.0, 2), (8, 2.5, 3), (8, 0.3, 1), (2, 1.5, 0), (2, 4.0, 0), (8, None, 0)]
)
def test_there_are_as_many_threads_as_a_quota_has_cpus(monkeypatch, cores, cpus, threads):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(quota, "cpu_quota", lambda *_: cpus and quota.Quota(cpus, Path("none")))
    assert quota.threads() == threads


@pytest.mark.parametrize(("asked", "taken"), [(0, 4), (2, 2)])
def test_a_model_takes_the_threads_of_the_quota_unless_it_is_told_how_many(detector, monkeypatch, asked, taken):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(quota, "cpu_quota", lambda *_: quota.Quota(3.5, Path("none")))
    with edgeinfer.load(detector, "ort", threads=asked) as model:
        assert model.engine._session.get_session_options().intra_op_num_threads == taken


@pytest.mark.parametrize("what", ["threads", "contexts"])
def test_so_many_threads_or_contexts_that_nothing_else_would_run_are_refused(detector, monkeypatch, what):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    with pytest.raises(UsageError, match=f"33 {what} are more than the 32 allowed on 2 CPUs"):
        edgeinfer.load(detector, "null", **{what: 33})
    with edgeinfer.load(detector, "null", **{what: 32}) as model:
        assert model.backend == "null"


def test_it_is_told_wherever_the_processor_is(tree, detector, monkeypatch):
    root = tree(TREES["a container of version 2"][0])
    cores = len(os.sched_getaffinity(0))
    assert f"{cores} cores, quota 1.5" in processor(root)[0].text
    facts = context.describe(Bundle.open(detector), root=root)["device"]
    assert facts["quota_cpus"] == 1.5
    assert context.place(facts)[-2:] == [f"{cores} cores", "quota 1.5"]
    monkeypatch.setattr(quota, "cpu_quota", lambda *_: quota.Quota(1.5, Path("none")))
    assert plans.fingerprint()["cpu quota"] == "1.5"


LIMITED = """
import os, pathlib, sys, time
group = pathlib.Path(sys.argv[1])
(group / "cgroup.procs").write_text(str(os.getpid()))
from edgeinfer import quota
found, end = quota.cpu_quota(), time.monotonic() + 60
while not found.stopped_s() and time.monotonic() < end:
    sum(range(10_000))
print(found.cpus, found.stopped_s() > 0)
"""


def test_the_kernels_own_quota_is_found_and_its_stops_are_counted():
    version1 = Path("/sys/fs/cgroup/cpu")
    group = (
        version1 if (version1 / "cpu.cfs_quota_us").exists() else Path("/sys/fs/cgroup")
    ) / f"edgeinfer-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("cpu.cfs_quota_us" if group.parent == version1 else "cpu.max")).write_text("10000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        done = subprocess.run([sys.executable, "-c", LIMITED, group], capture_output=True, text=True, check=True)
        assert done.stdout == "0.1 True\n"
    finally:
        until(lambda: removed(group))


def removed(group):
    """Whether nobody is in it any more."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()
