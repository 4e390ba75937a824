"""ONNX Runtime on the CPU: runs everywhere, and the reference for every other backend."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgeinfer.backends import _ortmodel
from edgeinfer.errors import BackendUnavailable, EngineError

try:
    import onnxruntime
except ImportError as error:
    raise BackendUnavailable(
        f"ONNX Runtime cannot be imported: {error}", hint='pip install "edgeinfer[cpu]"'
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeinfer.backends import Layer
    from edgeinfer.devices import Device
    from edgeinfer.spec import Artifact, ModelSpec


class Engine:
    """One session; each fork shares it and owns the tensors it writes to."""

    device = "cpu"
    formats = ("onnx",)
    precisions = ("fp32", "int8", "fp16")

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        device: Device,
        *,
        threads: int = 0,
        execution: str = "sequential",
        spinning: str = "on",
    ) -> None:
        self._configure = partial(_options, threads, execution, spinning)
        try:
            self._session = onnxruntime.InferenceSession(path, self._configure(), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime refused it: {error}", hint="export the bundle again") from error
        _ortmodel.check(path, spec, self._session)
        self._path = path
        self._bind(spec, device)

    def _bind(self, spec: ModelSpec, device: Device) -> None:
        """Own outputs for the largest batch: without them the library maps fresh pages every run."""
        self._spec = spec
        self._outputs = {tensor.name: device.empty(tensor.at(spec.batch.max), tensor.dtype) for tensor in spec.outputs}
        self._binding = self._session.io_binding()
        self._bound: tuple[int, ...] = ()
        self._views: Mapping[str, Any] = {}

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:
        if artifact.flavor == "trt":
            return "int8 flavor trt is slower than float32 in ONNX Runtime on a CPU"
        return ""

    @classmethod
    def settings(cls) -> Mapping[str, tuple[str, ...]]:
        return {"execution": ("sequential", "parallel"), "spinning": ("on", "off")}

    def fork(self, device: Device) -> Engine:
        twin = object.__new__(Engine)
        twin._session, twin._path, twin._configure = self._session, self._path, self._configure
        twin._bind(self._spec, device)
        return twin

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Inputs by name (n, ...) -> outputs by name, valid until the next run."""
        addresses = tuple(tensor.ctypes.data for tensor in inputs.values())
        images = len(next(iter(inputs.values())))
        if self._bound != (*addresses, images):
            self._rebind(inputs, images)
            self._bound = (*addresses, images)
        try:
            self._session.run_with_iobinding(self._binding)
        except _ortmodel.failures() as error:
            raise EngineError(f"ONNX Runtime failed: {error}", hint="run edgeinfer verify on the bundle") from error
        return self._views

    def _rebind(self, inputs: Mapping[str, Any], images: int) -> None:
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for name, tensor in inputs.items():
            self._binding.bind_input(name, "cpu", 0, tensor.dtype.type, tensor.shape, tensor.ctypes.data)
        self._views = {name: output[:images] for name, output in self._outputs.items()}
        for name, view in self._views.items():
            self._binding.bind_output(name, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data)

    def profile_layers(self, inputs: Mapping[str, Any]) -> list[Layer]:
        """What each node takes, from ONNX Runtime's own profiler."""
        from edgeinfer.backends import _ortlayers

        return _ortlayers.profiled(self._path, self._configure(), self._session.get_providers(), inputs)

    def close(self) -> None:
        self._session = self._binding = None
        self._outputs, self._views, self._bound = {}, {}, ()


def _options(threads: int, execution: str, spinning: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if execution == "parallel":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    # between frames the cores are for pre- and postprocessing: threads that spin on would take them from it
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if spinning == "off":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
