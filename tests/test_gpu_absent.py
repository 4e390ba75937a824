"""Machines on which the GPU cannot be used: what is missing is named, with the remedy."""

import builtins
import subprocess
import sys
import types

import pytest

from edgeinfer import devices, machine
from edgeinfer.devices import _driver, compiler, gpu
from edgeinfer.errors import BackendUnavailable
from helpers import specs


@pytest.fixture(autouse=True)
def _forgotten():
    """The driver's library is looked for again."""
    _driver.library.cache_clear()
    yield
    _driver.library.cache_clear()


@pytest.fixture
def driver(monkeypatch):
    """A function of functions: cuda-bindings that have those only."""

    def install(**functions):
        module = types.SimpleNamespace(**functions)
        monkeypatch.setattr(_driver, "library", lambda: module)

    return install


def refuse(message):
    def function(*_):
        raise RuntimeError(message)

    return function


def test_a_machine_without_a_driver(monkeypatch):
    pytest.importorskip("cuda.bindings.driver")
    if machine.has_gpu():
        pytest.skip("this machine has a driver")
    with pytest.raises(BackendUnavailable, match="this machine has no NVIDIA driver") as caught:
        gpu.Device(specs.detector())

    assert "install or update the driver" in caught.value.hint


def test_a_machine_without_cuda_bindings(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("cuda"):
            raise ModuleNotFoundError("No module named 'cuda'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendUnavailable, match="cuda-bindings cannot be imported: No module named 'cuda'") as caught:
        gpu.Device(specs.detector())

    assert "edgeinfer[gpu]" in caught.value.hint


def test_whatever_ends_a_processs_use_of_the_gpu_by_nvidias_own_words_is_a_lost_gpu():
    results = pytest.importorskip("cuda.bindings.driver").CUresult
    fatal = [
        one for one in results if "process must be terminated and relaunched" in " ".join(str(one.__doc__).split())
    ]
    if not fatal:
        pytest.skip("these cuda-bindings do not say what their errors mean")

    found = {one.name for one in fatal}
    assert {name for name in found if name.removeprefix("CUDA_ERROR_") not in _driver._LOST} == set()
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in found


def test_a_driver_too_old_for_a_function(driver):
    driver(cuInit=lambda _: (0,), cuDeviceGet=refuse("function cuDeviceGet is not found"))
    with pytest.raises(BackendUnavailable, match="an NVIDIA driver without cuDeviceGet: function") as caught:
        gpu.Device(specs.detector())

    assert "update the driver" in caught.value.hint


@pytest.mark.parametrize(
    "words", ["Failed to dlopen libnvrtc.so.12", "Failure finding libnvrtc.so.13 or libnvrtc.so.12\nin so many folders"]
)
def test_a_compiler_that_is_missing_or_of_another_cuda_version(monkeypatch, words):
    bindings = pytest.importorskip("cuda.bindings")
    nvrtc = types.SimpleNamespace(nvrtcVersion=refuse(words), __name__="nvrtc")
    monkeypatch.setattr(bindings, "nvrtc", nvrtc, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", nvrtc)
    with pytest.raises(BackendUnavailable) as caught:
        compiler.cubin(compiler.KERNELS / "topk.cu", "sm_87")

    assert str(caught.value) == f"NVRTC is not here: {words.splitlines()[0]}"
    assert "both of one CUDA version" in caught.value.hint


@pytest.mark.parametrize("module", [_driver, compiler])
def test_a_device_whose_library_is_missing_is_none_to_load(monkeypatch, module):
    def missing():
        raise BackendUnavailable("it is not here")

    monkeypatch.setattr(module, "library", missing)
    monkeypatch.setattr(gpu, "library", _driver.library)
    with pytest.raises(BackendUnavailable, match="it is not here"):
        devices.load("gpu")


def test_the_gpu_device_needs_no_opencv():
    code = "import sys; sys.modules['cv2'] = None; import edgeinfer.devices.gpu, edgeinfer.pipeline, edgeinfer.loading"

    subprocess.run([sys.executable, "-c", code], check=True)
