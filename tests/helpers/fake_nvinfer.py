"""The runtime of the stand-in NVIDIA library: its plans hold ONNX, and ONNX Runtime computes what they say.

Its names and signatures are those of a release, from `fake_tensorrt`; its rules are NVIDIA's: a plan of another
release or GPU is refused, contexts want memory, shapes and addresses first, TensorRT 8 gives a profile to one context.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime

from edgeinfer import backends
from helpers import fake_gpu, fake_tensorrt

SCRATCH = 4096
KINDS = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float16)": "HALF"}
DTYPES = {"FLOAT": np.float32, "UINT8": np.uint8, "INT32": np.int32, "HALF": np.float16}


def plan(onnx, version, sm="86", profiles=()):
    """A plan of this release for this GPU."""
    facts = {"version": version, "sm": sm, "profiles": profiles}
    return b"plan" + json.dumps(facts).encode() + b"\n" + onnx


class Library(fake_tensorrt.Fake):
    """One release whose runtime works; `sm` is the GPU it finds."""

    def __init__(self, release, sm="86", answers=()):
        super().__init__(release)
        self.sm = sm
        self._answers.update({**_runtime(self), **dict(answers)})

    @staticmethod
    def current():
        """Whether a CUDA context is."""
        return fake_gpu.Context.depth

    @staticmethod
    def enqueue(stream, given, taken, compute):
        """Put work on the stand-in GPU's stream: arrays (address, shape, dtype) by name -> others."""

        def work():
            found = compute({name: fake_gpu.at(*place) for name, place in given.items()})
            for name, place in taken.items():
                fake_gpu.at(*place)[...] = found[name]

        fake_gpu.STREAMS[stream].append(work)


def install(monkeypatch, release="10.3.0", sm="86", answers=()):
    """The stand-in as the library that the backend of its kind loads; gives the module."""
    library = Library(release, sm, answers)
    backend = "rtx" if release.startswith("rtx") else "trt"
    monkeypatch.setitem(sys.modules, library.__name__, library)
    forget(monkeypatch, backend)
    return library


def forget(monkeypatch, backend):
    """Let this backend be imported anew in the test, and again after it."""
    name = f"edgeinfer.backends.{backend}"
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    monkeypatch.delattr(backends, backend, raising=False)


def failing(words, value):
    """A call that says something and gives `value`; to be put in a library's answers under its name."""

    def call(stand, *_):
        _say(LOGGERS[-1], words)
        return value

    return call


LOGGERS = []


def _say(logger, text):
    told = logger.log
    told(fake_tensorrt.Member("ERROR", 1), f"[file.cpp::call::1] {text}")


def _runtime(trt):
    def start(runtime, logger):
        assert trt.current(), "no context is current"
        LOGGERS.append(logger)
        runtime.put(logger=logger)

    def deserialize(runtime, buffer):
        content = bytes(buffer)
        head, _, onnx = content.partition(b"\n")
        if not head.startswith(b"plan{"):
            return _say(runtime.logger, "Error Code 1: Serialization (magic tag does not match)")
        facts = json.loads(head[4:])
        if facts["version"] != trt.__version__:
            return _say(runtime.logger, f"Version tag does not match: plan {facts['version']}")
        if facts["sm"] != trt.sm:
            return _say(runtime.logger, f"incompatible device, expecting compute {trt.sm} got {facts['sm']}")
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        return trt.ICudaEngine().put(
            session=session,
            values={one.name: one for one in (*session.get_inputs(), *session.get_outputs())},
            inputs=[one.name for one in session.get_inputs()],
            profiles=[tuple(one) for one in facts["profiles"]],
            taken=set(),
        )

    def shape(engine, name):
        return tuple(side if isinstance(side, int) else -1 for side in engine.values[name].shape)

    def profile_shape(engine, name, place):
        return [(batch, *shape(engine, name)[1:]) for batch in engine.profiles[place]]

    def context(engine, *chosen):
        assert trt.current(), "no context is current"
        made = trt.IExecutionContext().put(engine=engine, shapes={}, addresses={}, memory=0, chosen=chosen)
        exclusive = trt.__version__.startswith("8.") and engine.profiles
        free = not (exclusive and engine.taken)
        engine.taken.add(0)
        return made.put(active_optimization_profile=0 if free else -1)

    def choose(context, profile, stream):
        engine = context.engine
        if trt.__version__.startswith("8.") and profile in engine.taken:
            _say(LOGGERS[-1], f"Profile {profile} has been chosen by another IExecutionContext")
            raise RuntimeError("Error in set optimization profile async.")
        engine.taken.add(profile)
        context.put(active_optimization_profile=profile)
        return True

    def set_shape(context, name, wanted):
        least, _, most = profile_shape(context.engine, name, context.active_optimization_profile)
        if not least[0] <= wanted[0] <= most[0]:
            return _say(LOGGERS[-1], f"Dimension {wanted[0]} is outside of the profile") or False
        context.shapes[name] = tuple(wanted)
        return True

    def context_shape(context, name):
        declared = shape(context.engine, name)
        batch = next(iter(context.shapes.values()), declared)[0]
        return tuple(batch if side == -1 else side for side in declared)

    def place(context, name, address):
        assert name in context.engine.values
        context.addresses[name] = address
        return True

    def memory(context, address, size):
        assert address % 8 == 0
        assert size >= SCRATCH
        context.put(memory=address)

    def execute(context, stream):
        assert trt.current(), "no context is current"
        engine = context.engine
        assert context.addresses.keys() == engine.values.keys(), "a tensor has no address"
        assert context.memory or context.__dict__.get("device_memory"), "the context has no memory"
        names = [one.name for one in engine.session.get_outputs()]
        places = {
            name: (address, context_shape(context, name), DTYPES[KINDS[engine.values[name].type]])
            for name, address in context.addresses.items()
        }
        given = {name: places[name] for name in engine.inputs}
        taken = {name: places[name] for name in names}
        trt.enqueue(
            stream, given, taken, lambda arrays: dict(zip(names, engine.session.run(names, arrays), strict=True))
        )
        profiler = context.__dict__.get("profiler")
        if profiler:
            fake_gpu.wait(stream)
            profiler.report_layer_time("conv", 0.25)
            profiler.report_layer_time("head", 0.5)
        return True

    kernels = {"text": b""}

    def load_cache(_cache, blob):
        assert trt.current(), "no context is current"
        kernels["text"] = bytes(blob)
        return bytes(blob).startswith(b"kernels")

    return {
        "Runtime.__init__": start,
        "Runtime.deserialize_cuda_engine": deserialize,
        "Runtime.num_DLA_cores": 0,
        "Runtime.get_engine_validity": lambda _, buffer: (trt.EngineValidity.VALID, 0),
        "ICudaEngine.num_io_tensors": lambda engine: len(engine.values),
        "ICudaEngine.get_tensor_name": lambda engine, place: list(engine.values)[place],
        "ICudaEngine.get_tensor_mode": lambda engine, name: (
            trt.TensorIOMode.INPUT if name in engine.inputs else trt.TensorIOMode.OUTPUT
        ),
        "ICudaEngine.get_tensor_shape": shape,
        "ICudaEngine.get_tensor_dtype": lambda engine, name: getattr(trt.DataType, KINDS[engine.values[name].type]),
        "ICudaEngine.get_tensor_location": lambda *_: trt.TensorLocation.DEVICE,
        "ICudaEngine.get_tensor_format": lambda *_: trt.TensorFormat.LINEAR,
        "ICudaEngine.num_optimization_profiles": lambda engine: max(1, len(engine.profiles)),
        "ICudaEngine.get_tensor_profile_shape": profile_shape,
        "ICudaEngine.device_memory_size": SCRATCH,
        "ICudaEngine.device_memory_size_v2": SCRATCH,
        "ICudaEngine.create_execution_context": context,
        "ICudaEngine.create_execution_context_without_device_memory": context,
        "ICudaEngine.create_runtime_config": lambda _: trt.IRuntimeConfig(),
        "IRuntimeConfig.create_runtime_cache": lambda _: trt.IRuntimeCache(),
        "IRuntimeConfig.set_runtime_cache": True,
        "IRuntimeCache.deserialize": load_cache,
        "IRuntimeCache.serialize": lambda _: kernels["text"] or b"kernels compiled here",
        "IExecutionContext.set_optimization_profile_async": choose,
        "IExecutionContext.set_input_shape": set_shape,
        "IExecutionContext.get_tensor_shape": context_shape,
        "IExecutionContext.set_tensor_address": place,
        "IExecutionContext.set_device_memory": memory,
        "IExecutionContext.execute_async_v3": execute,
        "IExecutionContext.is_stream_capturable": True,
    }
