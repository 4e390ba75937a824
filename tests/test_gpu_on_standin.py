"""The GPU's tests on a machine without a GPU: the same files, in processes whose driver is the stand-in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu import standin

ROOT = Path(__file__).parents[1]
FILES = sorted(path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py"))


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A folder with libcuda.so.1."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    try:
        return standin.build(tmp_path_factory.mktemp("standin"))
    except FileNotFoundError:
        pytest.skip("g++ is not installed")


@pytest.mark.parametrize("file", FILES)
def test_the_gpu_path_works_on_a_stand_in_driver(driver, file):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"tests/gpu/{file}",
        "--confcutdir=tests/gpu",
        "-p",
        "no:cacheprovider",
    ]
    paths = [str(ROOT), str(ROOT / "export"), os.environ.get("PYTHONPATH", "")]
    environment = {**standin.environment(driver), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* passed", done.stdout)
    assert "error" not in done.stdout.splitlines()[-1]
