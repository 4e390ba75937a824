"""The kernels, built once a session."""

import pytest

from kernels import on_cpu


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """Every kernel, run on the CPU; the one reason to skip is a machine without g++."""
    try:
        library = on_cpu.build(tmp_path_factory.mktemp("kernels") / "kernels.so")
    except FileNotFoundError:
        pytest.skip("g++ is not installed")
    return on_cpu.Kernels(library)
