"""An engine file opened by NVIDIA's library: what it must be, and contexts over it.

Only names of the library that every release from 8.5 on has are used unasked; the rest is looked for first.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

from edgeinfer import cache
from edgeinfer.backends._nvlibrary import REBUILD
from edgeinfer.errors import BackendUnavailable, EngineError, EngineMismatch

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.backends._nvlibrary import Messages
    from edgeinfer.machine import Gpu
    from edgeinfer.spec import ModelSpec, TensorSpec

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
}


class Plan:
    """An opened engine, shared by the contexts of all lanes; closed when the last of its users has let go."""

    def __init__(self, trt: Any, messages: Messages, path: Path, spec: ModelSpec, gpu: Gpu) -> None:
        self.trt, self.messages, self.path, self.spec = trt, messages, path, spec
        self.users = 0
        self.runtime = self._started()
        self.engine = self._opened()
        self._check()
        self.profiles = self._profiles()
        self.jit = _Jit(self, f"{_identity(path, spec)}-sm{gpu.sm}")

    def failure(self, what: str, mark: int, error: BaseException | None = None) -> EngineError:
        return self.messages.failure(f"{self.path.name}: {what}", mark, error)

    def _started(self) -> Any:
        trt, mark = self.trt, self.messages.mark()
        try:
            runtime = trt.Runtime(self.messages.logger)
        except (TypeError, RuntimeError) as error:
            said = "; ".join(self.messages.since(mark)[-2:]) or error
            raise BackendUnavailable(
                f"{trt.__name__} {trt.__version__} does not start: {said}",
                hint="its CUDA version must fit the driver's: edgeinfer doctor",
            ) from error
        artifact = self.spec.artifact_at(self.path)
        core = artifact.target.get("dla", "") if artifact else ""
        if core:
            if not core.isdecimal() or int(core) >= runtime.num_DLA_cores:
                raise EngineMismatch(
                    f"{self.path.name} is for DLA core {core}, this machine has {runtime.num_DLA_cores or 'none'}"
                )
            runtime.DLA_core = int(core)
        # never on its own: such an engine runs code of its file on the CPU
        if os.environ.get("EDGEINFER_TRUST_ENGINES") == "1" and hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True
        return runtime

    def _opened(self) -> Any:
        mark = self.messages.mark()
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._ask_validity(content)
                engine = self.runtime.deserialize_cuda_engine(content)
        except (OSError, ValueError) as error:
            raise EngineError(f"{self.path} cannot be read: {error}", hint="copy the bundle again") from error
        except (MemoryError, RuntimeError) as error:
            raise self.failure("the engine cannot be opened", mark, error) from error
        if engine is None:
            raise self.failure("the engine cannot be opened", mark)
        return engine

    def _ask_validity(self, content: Any) -> None:
        """TensorRT-RTX tells from an engine's first bytes whether it will run."""
        trt, runtime, mark = self.trt, self.runtime, self.messages.mark()
        if not hasattr(runtime, "get_engine_validity"):
            return
        validity, diagnostics = runtime.get_engine_validity(content)
        if validity == trt.EngineValidity.INVALID:
            known = vars(trt.EngineInvalidityDiagnostics).items()
            names = [name for name, one in known if name.isupper() and int(one) & int(diagnostics)]
            reasons = ", ".join(name.lower().replace("_", " ") for name in names) or f"diagnostics {int(diagnostics)}"
            what = f"the library finds the engine invalid here ({reasons})"
            if self.messages.since(mark):
                raise self.failure(what, mark)
            raise EngineMismatch(f"{self.path.name}: {what}", hint=REBUILD.format(format="rtx"))

    def _check(self) -> None:
        """The engine's tensors must be those that model.json declares."""
        trt, engine = self.trt, self.engine
        found = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        inputs = [name for name in found if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in found if name not in inputs]
        for kind, names, declared in (("inputs", inputs, self.spec.inputs), ("outputs", outputs, self.spec.outputs)):
            wanted = sorted(tensor.name for tensor in declared)
            if sorted(names) != wanted:
                raise EngineError(f"{self.path}: {kind} are {sorted(names)}, model.json says {wanted}")
            for tensor in declared:
                self._check_tensor(tensor)

    def _check_tensor(self, tensor: TensorSpec) -> None:
        trt, engine, name = self.trt, self.engine, tensor.name
        shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
        least, most = tensor.at(tensor.batch.min), tensor.at(tensor.batch.max)
        fits = len(shape) == len(most) and all(
            one == -1 if low != high else one in (-1, low) for one, low, high in zip(shape, least, most)
        )
        if not fits or DTYPES.get(kind) != tensor.dtype:
            raise EngineError(
                f"{self.path}: {name} is {shape} {DTYPES.get(kind, kind)}, model.json says {most} {tensor.dtype}",
                hint="build the engine again from the bundle's ONNX",
            )
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(f"{self.path}: {name} lies in main memory, edgeinfer wants it on the GPU")
        if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise EngineError(
                f"{self.path}: {name} is laid out as {engine.get_tensor_format(name).name}, not row by row"
            )

    def _profiles(self) -> list[tuple[int, int, int]]:
        """Smallest, usual and largest batch of every optimisation profile; none for a fixed batch."""
        engine, first = self.engine, self.spec.inputs[0]
        if engine.get_tensor_shape(first.name)[0] != -1:
            return []
        found = []
        for place in range(engine.num_optimization_profiles):
            least, usual, most = engine.get_tensor_profile_shape(first.name, place)
            found.append((least[0], usual[0], most[0]))
        for batch in (self.spec.batch.min, self.spec.batch.max):
            if not any(least <= batch <= most for least, _, most in found):
                raise EngineMismatch(
                    f"{self.path}: built for batches {found}, the model takes {batch} too",
                    hint="build it again: edgeinfer build BUNDLE --compile trt",
                )
        return found

    def profile(self, images: int) -> int:
        """The optimisation profile for a batch: the one whose usual batch is nearest."""
        fitting = [place for place, (least, _, most) in enumerate(self.profiles) if least <= images <= most]
        if not fitting:
            raise EngineError(f"{self.path.name} has no profile for {images} images, only {self.profiles}")
        return min(fitting, key=lambda place: abs(self.profiles[place][1] - images))

    @property
    def scratch_bytes(self) -> int:
        """Memory that a context needs while it runs."""
        engine = self.engine
        if hasattr(engine, "device_memory_size_v2"):
            return int(engine.device_memory_size_v2)
        if hasattr(engine, "device_memory_size"):
            return int(engine.device_memory_size)
        raise EngineError(f"{self.trt.__name__} {self.trt.__version__} does not say how much memory an engine needs")

    def context(self, scratch: Any) -> Any:
        """A fresh context that works in `scratch`, which contexts that run one at a time may share."""
        engine, mark = self.engine, self.messages.mark()
        try:
            context = self._context(engine)
        except (MemoryError, RuntimeError) as error:
            raise self.failure("no execution context", mark, error) from error
        if context is None:
            raise self.failure("no execution context", mark)
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch.pointer, scratch.nbytes)
        else:
            context.device_memory = scratch.pointer
        return context

    def _context(self, engine: Any) -> Any:
        trt = self.trt
        if not hasattr(trt, "ExecutionContextAllocationStrategy"):
            if not hasattr(engine, "create_execution_context_without_device_memory"):
                raise EngineError(f"{trt.__name__} {trt.__version__} does not let contexts share memory")
            return engine.create_execution_context_without_device_memory()
        return engine.create_execution_context(self.jit.config or trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def release(self) -> None:
        """One user less; the last one frees the engine."""
        self.users -= 1
        if self.users == 0:
            self.jit.keep()
            self.jit.config = self.jit.cache = None
            self.engine = self.runtime = None


class _Jit:
    """TensorRT-RTX's cache of kernels that it compiles on the device, kept on disk; nothing on TensorRT."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._name, self._kept = name, b""
        self.config = self.cache = None
        trt, engine, mark = plan.trt, plan.engine, plan.messages.mark()
        if not hasattr(engine, "create_runtime_config"):
            return
        config = engine.create_runtime_config()
        if config is None or not hasattr(config, "create_runtime_cache"):
            return
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            # a context has one shape for good; kernels that the library replaces later are not in a captured graph
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        cache_ = config.create_runtime_cache()
        self._kept = cache.read("rtx", name) or b""
        if self._kept and not cache_.deserialize(self._kept):
            self._kept = b""  # of another release, driver or GPU: begun anew
        if not config.set_runtime_cache(cache_):
            raise plan.failure("the runtime cache is refused", mark)
        self.config, self.cache = config, cache_

    def keep(self) -> None:
        """Write what has been compiled since; called when a context has run for the first time."""
        if self.cache is None:
            return
        content = self.cache.serialize()
        data = b"" if content is None else bytes(content)
        if data and data != self._kept and cache.write("rtx", self._name, data):
            self._kept = data


def _identity(path: Path, spec: ModelSpec) -> str:
    """A file name for what belongs to this engine file."""
    artifact = spec.artifact_at(path)
    return artifact.sha256[:32] if artifact else path.stem
