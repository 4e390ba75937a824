"""A stand-in GPU: "device memory" is main memory, a stream is a list of work that is done when someone waits for it.

What is put on a stream is not done before `wait`, so an engine that reads its outputs too early reads zeros.
"""

from __future__ import annotations

import ctypes
import itertools
import types
from collections import defaultdict

import numpy as np

from edgeinfer.devices import cpu
from edgeinfer.devices._stages import Stages
from edgeinfer.machine import Gpu

STREAMS = defaultdict(list)
_NUMBERS = itertools.count(1000)


def wait(stream):
    while STREAMS[stream]:
        STREAMS[stream].pop(0)()


def at(pointer, shape, dtype):
    """The array that lies at an address."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * count).from_address(pointer)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)


class Context:
    """Whether the GPU's context is current; what needs that asserts it."""

    depth = 0

    def __enter__(self):
        Context.depth += 1

    def __exit__(self, *_):
        Context.depth -= 1

    def alone(self):
        return self


class Tensor:
    def __init__(self, array):
        self.array = array
        self.pointer, self.shape, self.dtype, self.nbytes = (
            array.ctypes.data,
            array.shape,
            str(array.dtype),
            array.nbytes,
        )

    def rows(self, count):
        return Tensor(self.array[:count])

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.array.dtype.str, "data": (self.pointer, False), "version": 3}


class Device:
    """The CPU's arithmetic behind the contract of a GPU: pointers, a stream, nothing done before it is waited for."""

    compute_capability, name, integrated, driver_version = (8, 6), "Stand-in A10", False, "12.8"
    live = 0

    @staticmethod
    def check_libraries():
        pass

    def __init__(self, spec, ordinal=0):
        self.ordinal = ordinal
        self._spec, self._cpu, self.stream = spec, cpu.Device(spec), next(_NUMBERS)
        self._held, self.context = [], Context()
        type(self).live += 1
        self.closed = False

    def empty(self, shape, dtype):
        self._held.append(np.zeros(shape, dtype))
        return Tensor(self._held[-1])

    def preprocess(self, images, pixels="bgr"):
        tensors, placements = self._cpu.preprocess(images, pixels)
        return {name: Tensor(array) for name, array in tensors.items()}, placements

    def postprocess(self, outputs, placements):
        wait(self.stream)
        arrays = {name: at(one.pointer, one.shape, one.dtype) for name, one in outputs.items()}
        return self._cpu.postprocess(arrays, placements)

    def join(self, engine):
        return Way(self, engine)

    def mark(self):
        return self._cpu.mark()

    def elapsed_ms(self, start, end):
        return self._cpu.elapsed_ms(start, end)

    def close(self):
        if not self.closed:
            self.closed = True
            type(self).live -= 1


class Way(Stages):
    def run(self, images, pixels):
        with self._device.context:
            return super().run(images, pixels)


def install(monkeypatch, sm="86", name="Stand-in A10", l4t=""):
    """Let this machine have the stand-in as its GPU."""
    from edgeinfer import machine

    module = types.ModuleType("edgeinfer.devices.gpu")
    module.Device = type("Device", (Device,), {"live": 0})
    monkeypatch.setitem(__import__("sys").modules, "edgeinfer.devices.gpu", module)
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "gpu", lambda *_: Gpu(sm, name, "12.8"))
    monkeypatch.setattr(machine, "l4t", lambda: l4t)
    monkeypatch.setattr(machine, "system", lambda: "linux-x86_64")
    return module.Device
