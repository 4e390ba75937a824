"""OpenVINO on the CPU: float32 is exact, int8 graphs run on a CPU's integer instructions, compiled models are kept."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer import cache, machine, quota
from edgeinfer.backends import Layer, _ovpairs, reads_rows
from edgeinfer.errors import BackendUnavailable, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeinfer.devices import Device
    from edgeinfer.spec import Artifact, ModelSpec, TensorSpec


def _silently() -> Any:
    """The library, which reports each import to its vendor unless its telemetry is not there."""
    heard = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(
            f"OpenVINO cannot be imported: {error}", hint='pip install "edgeinfer[openvino]"'
        ) from error
    finally:
        del sys.modules["openvino_telemetry"]
        if heard is not None:
            sys.modules["openvino_telemetry"] = heard
    return openvino


openvino = _silently()

DEVICE = "CPU"
RUNS = 5
# what the library raises beside exceptions of its own; any other out of it is that of a signal's handler
FAILURES = (RuntimeError, ValueError, TypeError, MemoryError)
# of `compute`: what the CPU must be capable of
_CAPABLE = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
_PRECISIONS = {"fp32": "fp32", "f32": "fp32", "fp16": "fp16", "f16": "fp16", "i8": "int8", "u8": "int8"}


class Engine:
    """One compiled model; each fork has a request of its own and the tensors that it writes to.

    `compute` is what float arithmetic is done in: f32, whatever the hardware would rather do, unless something
    less exact was asked for. `pinning` on keeps each thread on its core.
    """

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
        contexts: int = 1,
        compute: str = "f32",
        pinning: str = "on",
    ) -> None:
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": compute}
        if threads:
            # requests that run at the same time need a stream each, else they wait for one another
            streams = min(contexts, max(1, (quota.threads() or machine.cores()) // threads))
            config.update(NUM_STREAMS=str(streams), INFERENCE_NUM_THREADS=str(streams * threads))
        if pinning == "off":
            config["ENABLE_CPU_PINNING"] = "NO"
        self._path, self._config = path, config
        self._model, self._orders = _compiled(path, spec, config)
        self._bind(spec, device)

    def _bind(self, spec: ModelSpec, device: Device) -> None:
        self._spec = spec
        self._outputs = {}
        for tensor in spec.outputs:
            shape = tensor.at(spec.batch.max)
            order = self._orders.setdefault(tensor.name, tuple(range(len(shape))))
            written = tuple(shape[order.index(axis)] for axis in range(len(order)))
            self._outputs[tensor.name] = device.empty(written, tensor.dtype)
        self._request = self._model.create_infer_request()
        self._bound: tuple[int, ...] = ()
        self._views: Mapping[str, Any] = {}

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:
        if artifact.precision == "int8" and "INT8" not in _capabilities():
            return "OpenVINO has no int8 arithmetic for this CPU"
        if artifact.flavor == "trt" and not machine.has_exact_int8():
            return "this CPU has no VNNI, without which OpenVINO's sums of 8 bits overflow: flavor cpu comes nearer"
        return ""

    @classmethod
    def settings(cls) -> Mapping[str, tuple[str, ...]]:
        able = _capabilities()
        return {"compute": tuple(name for name, needs in _CAPABLE.items() if needs in able), "pinning": ("on", "off")}

    def fork(self, device: Device) -> Engine:
        twin = object.__new__(Engine)
        twin._path, twin._config = self._path, self._config
        twin._model, twin._orders = self._model, self._orders
        twin._bind(self._spec, device)
        return twin

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Inputs by name (n, ...) -> outputs by name, valid until the next run."""
        addresses = tuple(tensor.ctypes.data for tensor in inputs.values())
        images = len(next(iter(inputs.values())))
        try:
            if self._bound != (*addresses, images):
                self._rebind(inputs, images)
                self._bound = (*addresses, images)
            self._request.infer()
        except FAILURES as error:
            raise EngineError(f"OpenVINO failed: {error}", hint="run edgeinfer verify on the bundle") from error
        return self._views

    def _rebind(self, inputs: Mapping[str, Any], images: int) -> None:
        """The request works in our memory: nothing is copied in or out."""
        self._bound = ()  # a signal's exception may break it off anywhere
        written = {name: output[:images] for name, output in self._outputs.items()}
        for name, array in (*inputs.items(), *written.items()):
            self._request.set_tensor(name, _lent(array))
        self._views = {name: array.transpose(self._orders[name]) for name, array in written.items()}

    def profile_layers(self, inputs: Mapping[str, Any]) -> list[Layer]:
        """What each layer takes, from the library's counters, in a model of its own; those it left out are not told."""
        model, _ = _compiled(self._path, self._spec, {**self._config, "PERF_COUNT": "YES"})
        request = model.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, _lent(array))
        request.infer()
        spans: dict[str, float] = {}
        for _ in range(RUNS):
            request.infer()
            for layer in request.get_profiling_info():
                spans[layer.node_name] = spans.get(layer.node_name, 0.0) + layer.real_time.total_seconds() * 1e3 / RUNS
        ran = [layer for layer in request.get_profiling_info() if layer.status == layer.Status.EXECUTED]
        return [_layer(layer, spans[layer.node_name]) for layer in ran]

    def close(self) -> None:
        self._request = self._model = None
        self._outputs, self._views, self._bound = {}, {}, ()


def _lent(array: Any) -> Any:
    """A tensor in the array's own memory, also where that may only be read, as a request's bytes: so inputs are."""
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    return openvino.Tensor(np.ndarray(array.shape, array.dtype, memory), shared_memory=True)


def _layer(layer: Any, span: float) -> Layer:
    """`exec_type` is such as jit_avx512_I8: the kernel, and what it calculates in."""
    precision = layer.exec_type.rpartition("_")[2].lower()
    return Layer(layer.node_name, span, layer.node_type, _PRECISIONS.get(precision, precision))


@lru_cache(maxsize=1)
def _library() -> Any:
    return openvino.Core()


@lru_cache(maxsize=1)
def _capabilities() -> frozenset[str]:
    return frozenset(_library().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _compiled(path: Path, spec: ModelSpec, config: Mapping[str, str]) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The model, compiled for this CPU or taken from the cache, and how to read outputs. Raises EngineError."""
    try:
        model = _library().read_model(path)
        _check(path, "input", spec.inputs, model.inputs)
        _check(path, "output", spec.outputs, model.outputs)
        _ovpairs.store_unsigned(model)
        _ovpairs.join_activations(model)
        orders = _untransposed(model) if reads_rows(spec) else {}
        batch = spec.batch
        if batch.open:
            rows = openvino.Dimension(batch.min, batch.max)
            model.reshape({tensor.name: [rows, *tensor.at(1)[1:]] for tensor in spec.inputs})
        return _library().compile_model(model, DEVICE, {**config, **_kept()}), orders
    except Exception as error:
        if not isinstance(error, FAILURES) and not type(error).__module__.startswith("openvino"):
            raise
        raise EngineError(f"{path}: OpenVINO refused it: {error}", hint="export the bundle again") from error


def _untransposed(model: Any) -> dict[str, tuple[int, ...]]:
    """Take transpositions that end an openvino.Model out of it: the axes to read such outputs in, by their names."""
    orders: dict[str, tuple[int, ...]] = {}
    for result in model.get_results():
        last = result.input_value(0)
        order = _turning(last)
        if order:
            orders.update(dict.fromkeys(last.get_names(), order))
            result.input(0).replace_source_output(last.get_node().input_value(0))
            result.input_value(0).add_names(last.get_names())
    return orders


def _turning(value: Any) -> tuple[int, ...]:
    """The axes of a transposition that only an output reads, and that leaves the batch first; empty if it is none."""
    node = value.get_node()
    if node.get_type_name() != "Transpose" or node.input_value(1).get_node().get_type_name() != "Constant":
        return ()
    readers = len(value.get_target_inputs()), len(node.input_value(0).get_target_inputs())
    axes = tuple(node.input_value(1).get_node().data.tolist())
    return axes if readers == (1, 1) and axes[0] == 0 else ()


def _kept() -> dict[str, str]:
    """Where the library keeps what it compiled; nothing where no folder can be had."""
    folder = cache.folder("openvino", openvino.__version__)
    return {"CACHE_DIR": str(folder)} if folder else {}


def _check(path: Path, kind: str, declared: Sequence[TensorSpec], found: Sequence[Any]) -> None:
    """The file's tensors must be those the spec declares: names, dtypes, ranks and fixed sizes."""
    ours = {tensor.name: tensor for tensor in declared}
    theirs = {name: value for value in found for name in value.names}  # old releases give a value several
    if len(ours) != len(found) or not ours.keys() <= theirs.keys():
        raise EngineError(f"{path}: {kind}s are {sorted(theirs)}, model.json says {sorted(ours)}")
    for name, tensor in ours.items():
        value, wanted = theirs[name], tensor.at(tensor.batch.max)
        fits = value.partial_shape.compatible(openvino.PartialShape(list(wanted)))
        kind_of = value.element_type.to_dtype().name
        if not fits or kind_of != tensor.dtype:
            raise EngineError(
                f"{path}: {kind} {name} is {value.partial_shape} {kind_of}, model.json says {wanted} {tensor.dtype}"
            )
