"""The GPU's tests on a machine without a GPU: the same files, in processes whose driver is the stand-in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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

    def runner(*arguments):
        command = [sys.executable, *arguments]
        facts = {"cwd": ROOT, "env": environment, "timeout": 300}
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


def test_the_gpu_benchmark_runs_and_takes_no_stand_in_for_a_gpu(run):
    quick = run("benchmarks/gpu.py", "--quick")
    real = run("benchmarks/gpu.py", "--json", "/nowhere/report.json", "--bundle", "/nowhere")

    assert quick.returncode == 0, quick.stdout + quick.stderr
    assert "frame page-locked, graph" in quick.stdout
    assert "wrote" not in quick.stdout
    assert (real.returncode, real.stderr) == (1, "error: this is the stand-in driver: its times mean nothing\n")
