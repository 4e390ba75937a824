"""ONNX Runtime on the GPU by its CUDA provider, on the device's own tensors and stream."""

from __future__ import annotations

import io
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeinfer.backends import _ortmodel
from edgeinfer.errors import BackendUnavailable, DeviceLost, EngineError

try:
    import onnxruntime
except ImportError as error:
    raise BackendUnavailable(
        f"ONNX Runtime cannot be imported: {error}", hint='pip install "edgeinfer[gpu]"'
    ) from error

PROVIDERS = onnxruntime.get_available_providers()
if "CUDAExecutionProvider" not in PROVIDERS:
    raise BackendUnavailable(
        "this ONNX Runtime has no CUDA provider",
        hint='pip uninstall -y onnxruntime && pip install "edgeinfer[gpu]"',
    )

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.devices import Tensors
    from edgeinfer.devices.gpu import Device
    from edgeinfer.spec import Artifact, ModelSpec

LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]': its CUDA and cuDNN must be of the versions it was built with"


class Engine:
    """One session for each lane, since a session's stream is given when it is made."""

    device = "gpu"
    formats = ("onnx",)
    precisions: ClassVar[tuple[str, ...]] = ("fp16", "fp32")
    library = f"onnxruntime {onnxruntime.__version__}"
    # what must have loaded; nothing else is tried, and the CPU never runs in its place
    provider = "CUDAExecutionProvider"
    uncapturable = "ONNX Runtime allocates memory while it runs"

    def __init__(self, path: Path, spec: ModelSpec, device: Device, *, threads: int = 0, contexts: int = 1) -> None:  # noqa: ARG002
        self._path, self._spec, self._device, self._threads = path, spec, device, threads
        with device.context.alone():
            self._session = self._opened()
        _ortmodel.check(path, spec, self._session.get_inputs(), self._session.get_outputs())
        largest = spec.batch.max
        self._outputs = {tensor.name: device.empty(tensor.at(largest), tensor.dtype) for tensor in spec.outputs}
        self._binding = self._session.io_binding()
        self._options = onnxruntime.RunOptions()
        # the device's stream orders everything: nothing is waited for here
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._bound: tuple[int, ...] = ()
        self._views: Tensors = {}

    def _opened(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):  # it prints what it misses, where a command's own output goes
                if hasattr(onnxruntime, "preload_dlls"):
                    onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, where they are
                session = onnxruntime.InferenceSession(self._path, options, providers=self._providers())
        except _ortmodel.failures() as error:
            raise EngineError(f"{self._path}: ONNX Runtime refused it: {error}", hint=LIBRARIES) from error
        loaded = session.get_providers()
        if self.provider not in loaded:
            what = f"{self.provider} did not load, only {', '.join(loaded)}; nothing runs on the GPU"
            said = printed.getvalue().partition("\n")[0]
            raise EngineError(f"{what}: {said}" if said else what, hint=LIBRARIES)
        session.disable_fallback()
        return session

    def _providers(self) -> list[tuple[str, dict[str, str]]]:
        """Providers and their options, best first."""
        return [("CUDAExecutionProvider", self._where())]

    def _where(self) -> dict[str, str]:
        return {"device_id": str(self._device.ordinal), "user_compute_stream": str(self._device.stream)}

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:  # noqa: ARG003
        return ""

    def fork(self, device: Device) -> Engine:
        return type(self)(self._path, self._spec, device, threads=self._threads)

    def run(self, inputs: Tensors) -> Tensors:
        """Inputs by name (n, ...) on the device -> outputs, there too once the device's stream has come so far."""
        images = next(iter(inputs.values())).shape[0]
        bound = (images, *(tensor.pointer for tensor in inputs.values()))
        fresh = self._bound != bound
        # for a new batch it takes memory and looks for the fastest convolutions
        with self._device.context.alone() if fresh else self._device.context:
            if fresh:
                self._bind(inputs, images)
                self._bound = bound
            try:
                self._session.run_with_iobinding(self._binding, self._options)
            except _ortmodel.failures() as error:
                raise EngineError(f"ONNX Runtime failed: {error}", hint="run edgeinfer verify on the bundle") from error
        return self._views

    def _bind(self, inputs: Tensors, images: int) -> None:
        binding, self._bound = self._binding, ()  # a signal's exception may break it off anywhere
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        self._views = {name: output.rows(images) for name, output in self._outputs.items()}
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, self._views)):
            for name, tensor in tensors.items():
                bind(name, "cuda", self._device.ordinal, np.dtype(tensor.dtype).type, tensor.shape, tensor.pointer)

    def close(self) -> None:
        if self._session is None:
            return
        # what the library holds it frees in the context that is current; on a lost GPU that cannot be
        with suppress(DeviceLost), self._device.context.alone():
            self._session = self._binding = None
        self._outputs, self._views, self._bound = {}, {}, ()
