"""The GPU's tests on a machine without a GPU: the same files, in processes whose driver is the stand-in."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu import run as suite
from gpu import standin

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A folder with libcuda.so.1."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    try:
        return standin.build(tmp_path_factory.mktemp("standin"))
    except FileNotFoundError:
        pytest.skip("g++ is not installed")


@pytest.fixture
def run(driver):
    """A function of Python's arguments: the finished process."""
    paths = [str(ROOT), str(ROOT / "export"), os.environ.get("PYTHONPATH", "")]
    environment = {**standin.environment(driver), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def runner(*arguments, **settings):
        command = [sys.executable, *arguments]
        facts = {"cwd": ROOT, "env": {**environment, **settings}, "timeout": 1200}
        return subprocess.run(command, check=False, capture_output=True, text=True, **facts)

    return runner


def test_the_gpu_path_works_on_a_stand_in_driver(run):
    done = run("-m", "pytest", "-q", "tests/gpu", "--confcutdir=tests/gpu", "-p", "no:cacheprovider")
    passed = re.search(r"(\d+) passed", done.stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert passed
    assert int(passed[1]) > 100
    # other libraries and vendors' engines would take the stand-in for a real driver
    skipped = re.findall(r"SKIPPED .*?(tests/\S+?\.py)", done.stdout)
    assert set(skipped) == {"tests/gpu/test_gpu_libraries.py"}


def test_a_frame_needs_nothing_of_a_driver_that_came_with_a_later_cuda_than_12_0(run):
    """JetPack 6 has 12.6, whichever cuda-bindings pip brings there; what they do not find they cannot call."""
    chosen = "tests/gpu/test_gpu_graphs.py::test_a_graph_is_replayed_and_not_captured_again"
    done = run("-m", "pytest", "-q", chosen, "--confcutdir=tests/gpu", "-p", "no:cacheprovider", STANDIN_CUDA="12000")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_gpu_benchmark_runs_and_takes_no_stand_in_for_a_gpu(run, tmp_path):
    quick = run("benchmarks/gpu.py", "--quick")
    real = run("benchmarks/gpu.py", "--json", str(tmp_path / "report.json"), "--bundle", "/nowhere")

    assert quick.returncode == 0, quick.stdout + quick.stderr
    assert "frame page-locked, graph" in quick.stdout
    assert "wrote" not in quick.stdout
    assert (real.returncode, real.stderr) == (1, "error: this is the stand-in driver: its times mean nothing\n")
    assert not any(tmp_path.iterdir())


def test_the_gpu_benchmark_says_before_it_measures_what_it_lacks(run):
    lacking = run("benchmarks/gpu.py", LD_LIBRARY_PATH="", CUDA_VISIBLE_DEVICES="-1")
    nowhere = run("benchmarks/gpu.py", "--json", "/nowhere/report.json")

    for done in (lacking, nowhere):
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch("error: .+\nhint: .+\n", done.stderr)
    assert "/nowhere" in nowhere.stderr


PYTEST = """
import pytest
@pytest.mark.skip(reason="no such library")
def test_skipped(): pass
def test_passing(): pass
def test_failing(): assert 1 == 2
"""


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A function of commands by name: the suite's report of them, in so many seconds, and its exit code."""

    def run_them(commands, seconds):
        made = [suite.Step(name, command, tmp_path / f"{name}.xml") for name, command in commands.items()]
        monkeypatch.setattr(suite, "steps", lambda _: made)
        file = tmp_path / "report.json"
        monkeypatch.setattr("sys.argv", ["run.py", "--json", str(file), "--seconds", str(seconds)])
        code = suite.main()
        return {row["step"]: row for row in json.loads(file.read_text())["steps"]}, code

    return run_them


def test_the_gpu_suite_says_what_passed_what_failed_and_what_was_skipped(steps, tmp_path):
    (tmp_path / "test_it.py").write_text(PYTEST)
    mixed = [sys.executable, "-m", "pytest", "-q", f"--rootdir={tmp_path}", "-c", "/dev/null", "-p", "no:cacheprovider"]
    rows, code = steps(
        {
            "mixed": [*mixed, f"--junitxml={tmp_path / 'mixed.xml'}", str(tmp_path / "test_it.py")],
            "good": [sys.executable, "-c", ""],
            "bad": [sys.executable, "-c", "raise SystemExit(9)"],
            "tool": ["no-such-tool", "--version"],
        },
        1000,
    )

    assert code == 1
    assert (rows["mixed"]["state"], rows["mixed"]["passed"]) == ("failed", 1)
    assert [one.partition(":")[0] for one in rows["mixed"]["failed"]] == ["test_failing"]
    assert rows["mixed"]["skipped"] == {"no such library": 1}
    assert rows["good"]["state"] == "passed"
    assert (rows["bad"]["state"], rows["bad"]["failed"]) == ("failed", ["exit code 9"])
    assert (rows["tool"]["state"], rows["tool"]["skipped"]) == ("skipped", {"no-such-tool is not installed": 1})


def test_the_gpu_suite_cuts_off_what_hangs_and_names_what_there_was_no_time_for(steps, monkeypatch, capfd):
    monkeypatch.setattr(suite, "SHORTEST", 0)
    monkeypatch.setattr(suite, "SHARE", 1)
    hangs = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while 1: pass'])"
    rows, code = steps({"hangs": [sys.executable, "-c", hangs], "waits": [sys.executable, "-c", ""]}, 1)

    assert code == 1
    assert {name: row["state"] for name, row in rows.items()} == {"hangs": "cut off", "waits": "left out"}
    assert "left out  waits" in capfd.readouterr().out


def test_in_the_gpu_suite_what_hangs_leaves_time_for_the_rest(steps, monkeypatch):
    given, wait = {}, subprocess.Popen.wait

    def waited(process, timeout=None):
        """What hangs is not waited for, only for how long it would be."""
        given.update({process.args[0]: timeout} if timeout else {})
        if timeout and process.args[0] == "sleep":
            raise subprocess.TimeoutExpired(process.args, timeout)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", waited)
    rows, code = steps({"hangs": ["sleep", "600"], "goes on": ["true"]}, 900)

    assert code == 1
    assert {name: row["state"] for name, row in rows.items()} == {"hangs": "cut off", "goes on": "passed"}
    assert given["sleep"] == given["true"] == 300


def test_the_gpu_suite_takes_every_file_there_is():
    files = {file.stem.replace("test_gpu_", "") for file in (ROOT / "tests" / "gpu").glob("test_gpu_*.py")}

    assert set(suite.FILES) == files
