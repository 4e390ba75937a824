"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import on_cpu

FLAGS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A function of arguments: the finished process of sanitized.py on an instrumented library."""
    library = tmp_path_factory.mktemp("sanitized") / "kernels.so"
    try:
        on_cpu.build(library, *FLAGS)
    except FileNotFoundError:
        pytest.skip("g++ is not installed")
    asked = ["g++", "-print-file-name=libasan.so"]
    runtime = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": os.pathsep.join([str(on_cpu.HERE.parent), str(on_cpu.HERE.parent.parent)]),
        "OPENBLAS_NUM_THREADS": "1",
    }

    def run(*arguments):
        command = [sys.executable, "-m", "kernels.sanitized", str(library), *arguments]
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_no_kernel_touches_a_byte_outside_its_buffers(sanitized):
    done = sanitized()

    assert (done.stdout, done.returncode) == ("clean\n", 0), done.stderr


def test_a_touched_byte_would_be_seen(sanitized):
    done = sanitized("overrun")

    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "preprocess.cu" in done.stderr
