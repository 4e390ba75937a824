"""NVIDIA's library and driver: found, missing, broken."""

import sys

import pytest

from edgeinfer import machine
from edgeinfer.backends import _nvlibrary
from edgeinfer.errors import BackendUnavailable
from edgeinfer_export import vendor


def test_a_missing_library_has_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match="tensorrt is not installed") as caught:
        vendor.load("trt")
    assert "python3-libnvinfer" in caught.value.hint


def test_a_library_that_does_not_load_is_told_apart(monkeypatch):
    def broken(_name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(_nvlibrary.importlib, "import_module", broken)
    with pytest.raises(BackendUnavailable, match="installed but does not load: libnvinfer"):
        vendor.load("trt")


def test_without_a_driver_tensorrt_is_not_touched(monkeypatch):
    def missing(_):
        raise BackendUnavailable("this machine has no NVIDIA driver (libcuda.so.1)")

    monkeypatch.setattr(machine, "gpu", missing)
    with pytest.raises(BackendUnavailable, match=r"compiles on an NVIDIA GPU, and .* no NVIDIA driver") as caught:
        vendor.gpu()
    assert "--compile trt" in caught.value.hint


@pytest.mark.parametrize("release", ["", "36.4.3"])
def test_the_gpu_is_described_for_an_engines_key(monkeypatch, release):
    monkeypatch.setattr(machine, "gpu", lambda *_: machine.Gpu("87", "Orin", "12.6"))
    monkeypatch.setattr(machine, "l4t", lambda: release)
    assert vendor.gpu() == {"sm": "87", "gpu": "Orin", **({"l4t": release} if release else {})}
