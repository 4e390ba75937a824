"""An engine on the GPU's stream whose arithmetic is done by the host: inputs come down, a function runs, outputs go up.

It needs no inference library for the GPU, and still is a whole engine to the device: it only enqueues, its outputs
stay where they are, and a CUDA graph can capture it. So pictures become boxes through every other part of the GPU
path with results that ONNX Runtime on the CPU has to give too.
"""

from __future__ import annotations

import ctypes

import numpy as np

from edgeinfer.devices._driver import call, library
from edgeinfer.devices._memory import view
from edgeinfer.errors import DeviceError


class HostFunction:
    """A function that the host runs when a stream comes to it, whenever that is, and again in each replay.

    Not through cuda-bindings: older ones let a function be called once, and a graph calls again.
    """

    def __init__(self, function):
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
        self._launch = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc
        self._launch.argtypes = [ctypes.c_void_p, type(self._callback), ctypes.c_void_p]

    def enqueue(self, stream, number=0):
        status = self._launch(stream, self._callback, number)
        if status:
            raise DeviceError(f"cuLaunchHostFunc failed: {library().CUresult(status).name} ({status})", hint="none")


class HostEngine:
    """`function` takes {input name: array (n, ...)} and gives {output name: array (n, ...)}."""

    device = "gpu"
    formats = ()
    precisions = ("fp32",)
    uncapturable = ""

    def __init__(self, function, spec, device):
        self._function, self._spec, self._device = function, spec, device
        batch = spec.batch.max
        self._outputs = {one.name: device.empty(one.at(batch), one.dtype) for one in spec.outputs}
        self._sides = {one.name: device.pinned((_nbytes(one, batch),)) for one in (*spec.inputs, *spec.outputs)}
        self._host = HostFunction(self._on_the_host)
        self.failure = None

    def fork(self, device):
        return type(self)(self._function, self._spec, device)

    def run(self, inputs):
        count = next(iter(inputs.values())).shape[0]
        with self._device.context:
            return self._enqueue(inputs, count)

    def _enqueue(self, inputs, count):
        for name, tensor in inputs.items():
            call("cuMemcpyDtoHAsync", self._address(name), tensor.pointer, tensor.nbytes, self._device.handle)
        self._host.enqueue(self._device.stream, count)
        outputs = {name: tensor.rows(count) for name, tensor in self._outputs.items()}
        for name, tensor in outputs.items():
            call("cuMemcpyHtoDAsync", tensor.pointer, self._address(name), tensor.nbytes, self._device.handle)
        return outputs

    def _address(self, name):
        return self._sides[name].ctypes.data

    def _on_the_host(self, count):
        try:
            inputs = {one.name: self._array(one, count) for one in self._spec.inputs}
            for name, array in self._function(inputs).items():
                (tensor,) = [one for one in self._spec.outputs if one.name == name]
                self._array(tensor, count)[...] = array
        except BaseException as error:  # noqa: BLE001 - nothing may leave a callback
            self.failure = error

    def _array(self, tensor, count):
        return self._sides[tensor.name].view(tensor.dtype).reshape(tensor.at(self._spec.batch.max))[:count]

    def close(self):
        if self.failure:
            raise self.failure


def _nbytes(tensor, batch):
    return int(np.prod(tensor.at(batch))) * np.dtype(tensor.dtype).itemsize


def session(path):
    """A function for `HostEngine`: ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums whatever the batch
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in opened.get_outputs()]
    return lambda inputs: dict(zip(names, opened.run(names, inputs), strict=True))


def fetch(tensor, device):
    """A tensor of the device's as an array."""
    with device.context:
        address = device.memory.on_host(tensor.nbytes)
        call("cuMemcpyDtoHAsync", address, tensor.pointer, tensor.nbytes, device.handle)
        device.wait()
        array = view(address, tensor.nbytes).view(tensor.dtype).reshape(tensor.shape).copy()
        device.memory.free(address)
    return array


def zeros(spec):
    """A function for `HostEngine` that finds nothing."""

    def function(inputs):
        count = len(next(iter(inputs.values())))
        return {one.name: np.zeros(one.at(count), one.dtype) for one in spec.outputs}

    return function


def send(array, device):
    """An array as a tensor of the device's."""
    tensor = device.empty(array.shape, str(array.dtype))
    side = device.pinned((array.nbytes,))
    side[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    with device.context:
        call("cuMemcpyHtoDAsync", tensor.pointer, side.ctypes.data, array.nbytes, device.handle)
        device.wait()
    return tensor
