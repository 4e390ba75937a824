"""A stand-in onnxruntime-gpu: ONNX Runtime itself, whose "CUDA" tensors lie in the stand-in GPU's memory.

`loads` False is a CUDA provider whose libraries are missing: the real one then prints so, and runs on the CPU.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime

from helpers import fake_gpu, fake_nvinfer

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


class Binding:
    def __init__(self, gpu):
        self._gpu, self.given, self.taken = gpu, {}, {}

    def clear_binding_inputs(self):
        self.given = {}

    def clear_binding_outputs(self):
        self.taken = {}

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        self.given[name] = self._place(device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        self.taken[name] = self._place(device_type, device_id, element_type, shape, buffer_ptr)

    def _place(self, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id) == ("cuda", self._gpu)
        return buffer_ptr, tuple(shape), np.dtype(element_type)


def module(monkeypatch, *, loads=True, providers=(CUDA, CPU), fails=False):
    """Put the stand-in where the backends find ONNX Runtime; gives a list of the sessions' provider options."""
    opened = []

    class Session:
        def __init__(self, path, options, providers):
            opened.append(dict(providers))
            kept = dict(providers).get(TENSORRT, {}).get("trt_engine_cache_path")
            if kept:
                Path(kept).mkdir(exist_ok=True)  # as the provider does: no parents
            self._session = onnxruntime.InferenceSession(path, providers=[CPU])
            cuda = dict(providers)[CUDA]
            self._gpu, self._stream = int(cuda["device_id"]), int(cuda["user_compute_stream"])
            self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs
            self._names = [name for name, _ in providers]

        def get_providers(self):
            return [*self._names, CPU] if loads else [CPU]

        def disable_fallback(self):
            pass

        def io_binding(self):
            return Binding(self._gpu)

        def run_with_iobinding(self, binding, options):
            if fails:
                raise RuntimeError("CUDA failure 700: an illegal memory access")
            assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
            given, taken = dict(binding.given), dict(binding.taken)

            def work():
                values = self._session.run(list(taken), {name: fake_gpu.at(*place) for name, place in given.items()})
                for place, value in zip(taken.values(), values, strict=True):
                    fake_gpu.at(*place)[...] = value

            fake_gpu.STREAMS[self._stream].append(work)

    stand = types.ModuleType("onnxruntime")
    stand.__version__ = "1.31.1"
    stand.get_available_providers = lambda: list(providers)
    stand.SessionOptions, stand.RunOptions = onnxruntime.SessionOptions, onnxruntime.RunOptions
    stand.InferenceSession = Session
    stand.preload_dlls = lambda: None if loads else print("Failed to load libcublasLt.so.13: no such file")
    importlib.import_module("edgeinfer.backends.ort")  # the CPU's keeps the real one
    monkeypatch.setitem(sys.modules, "onnxruntime", stand)
    for name in ("ort_gpu", "ort_trt"):
        fake_nvinfer.forget(monkeypatch, name)
    return opened
