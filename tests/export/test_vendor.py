"""NVIDIA's library and driver: found, missing, broken."""

import ctypes
import sys

import pytest

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

    monkeypatch.setattr(vendor.importlib, "import_module", broken)
    with pytest.raises(BackendUnavailable, match="installed but does not load: libnvinfer"):
        vendor.load("trt")


class Driver:
    """A CUDA driver with one Orin."""

    status = 0

    def __init__(self, _name):
        pass

    def cuInit(self, _flags):
        return self.status

    def cuDeviceGet(self, device, _number):
        device._obj.value = 0

    def cuDeviceGetName(self, name, _size, _device):
        name.value = b"Orin"

    def cuDeviceGetAttribute(self, number, attribute, _device):
        number._obj.value = {75: 8, 76: 7}[attribute]


def test_the_gpu_is_described(monkeypatch, tmp_path):
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    monkeypatch.setattr(vendor, "L4T_RELEASE", release)
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert vendor.gpu() == {"sm": "87", "gpu": "Orin", "l4t": "36.4.3"}


def test_without_a_driver_tensorrt_is_not_touched(monkeypatch):
    def missing(_name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver") as caught:
        vendor.gpu()
    assert "--compile trt" in caught.value.hint


def test_a_driver_without_a_gpu_is_said(monkeypatch):
    monkeypatch.setattr(Driver, "status", 100)
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    with pytest.raises(BackendUnavailable, match="cuInit gave 100"):
        vendor.gpu()
