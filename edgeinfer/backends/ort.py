"""ONNX Runtime on the CPU: runs everywhere, and the reference for every other backend."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgeinfer.backends import _ortmodel, _orttail, reads_rows
from edgeinfer.backends._orttail import Tail
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
        contexts: int = 1,  # noqa: ARG002 - each runs in its caller's thread
        execution: str = "sequential",
        spinning: str = "on",
    ) -> None:
        self._path, self._configure = path, partial(_options, threads, execution, spinning)
        self._session, self._tail = self._opened(spec)
        self._bind(spec, device)

    def _opened(self, spec: ModelSpec) -> tuple[Any, Tail | None]:
        """A session of the model, if possible without its tail."""
        shorter = self._shorter(spec)
        if shorter:
            session = self._session_of(shorter[0])
            session._model_bytes = None  # noqa: SLF001 - kept for providers to fall back to, of which there are none
            found = shorter[1].among(session.get_outputs())
            if found:
                _ortmodel.check(self._path, spec, session.get_inputs(), found[0])
                return session, found[1]
        session = self._session_of(self._path)
        _ortmodel.check(self._path, spec, session.get_inputs(), session.get_outputs())
        return session, None

    def _shorter(self, spec: ModelSpec) -> tuple[bytes, Tail] | None:
        # of several pictures the parts would not lie in a row
        kinds = {"Transpose": reads_rows(spec), "Concat": spec.batch.max == 1}
        return _orttail.read(self._path, [kind for kind, may in kinds.items() if may])

    def _session_of(self, model: bytes | Path) -> Any:
        try:
            return onnxruntime.InferenceSession(model, self._configure(), providers=["CPUExecutionProvider"])
        except _ortmodel.failures() as error:
            what = f"{self._path}: ONNX Runtime refused it: {error}"
            raise EngineError(what, hint="export the bundle again") from error

    def _bind(self, spec: ModelSpec, device: Device) -> None:
        """Own outputs for the largest batch: without them the library maps fresh pages every run."""
        self._spec = spec
        self._tails = {tensor.name: Tail(tensor.name, (tensor.name,)) for tensor in spec.outputs}
        if self._tail:
            self._tails[self._tail.output] = self._tail
        self._outputs = {
            tensor.name: device.empty(self._tails[tensor.name].lying(tensor.at(spec.batch.max)), tensor.dtype)
            for tensor in spec.outputs
        }
        self._binding = self._session.io_binding()
        self._bound: tuple[int, ...] = ()
        self._views: dict[str, Any] = {}

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
        twin._session, twin._tail = self._session, self._tail
        twin._path, twin._configure = self._path, self._configure
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
        before, self._bound = self._bound, ()  # a signal's exception may break it off anywhere
        self._binding.clear_binding_inputs()
        for name, tensor in inputs.items():
            self._binding.bind_input(name, "cpu", 0, tensor.dtype.type, tensor.shape, tensor.ctypes.data)
        if before[-1:] != (images,):  # else only the inputs lie elsewhere
            self._bind_outputs(images)

    def _bind_outputs(self, images: int) -> None:
        self._binding.clear_binding_outputs()
        self._views = {}
        for name, output in self._outputs.items():
            tail, written = self._tails[name], output[:images]
            self._views[name] = tail.view(written)
            for part, array in tail.apart(written).items():
                self._binding.bind_output(part, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def profile_layers(self, inputs: Mapping[str, Any]) -> list[Layer]:
        """What each node takes, from ONNX Runtime's own profiler."""
        from edgeinfer.backends import _ortlayers

        shorter = self._tail and self._shorter(self._spec)
        model = shorter[0] if shorter else self._path
        return _ortlayers.profiled(model, self._configure(), self._session.get_providers(), inputs)

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
