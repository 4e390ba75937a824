"""NVIDIA's builder, told what to do: the steps of one build, asking what the library has instead of its version.

Needs the vendor's library, the standard library and the runtime's core; imports on Python 3.9.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.backends._nvplan import DTYPES
from edgeinfer.errors import BackendUnavailable, ExportError
from edgeinfer_export import complaints, targets, timingcache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeinfer_export.buildoptions import Options
    from edgeinfer_export.vendor import Listener


class Binding(NamedTuple):
    """An input or output of the network; -1 in the shape stands for the open batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Build:
    """One build: the library's objects, and what is found out on the way."""

    def __init__(self, trt: Any, options: Options, listener: Listener) -> None:
        self.trt, self.options, self.listener = trt, options, listener
        self.inputs: tuple[Binding, ...] = ()
        self.outputs: tuple[Binding, ...] = ()
        self.profile = ""
        self.on_gpu: tuple[str, ...] = ()
        try:
            self.builder = trt.Builder(listener.logger)
        except TypeError as error:
            reason = "; ".join(listener.errors[-2:]) or error
            raise BackendUnavailable(
                f"{trt.__name__} {trt.__version__} cannot start its builder: {reason}",
                hint="its CUDA version must fit the driver's: edgeinfer doctor",
            ) from error
        self.config = self.builder.create_builder_config()
        self.network = self.builder.create_network(self._network_flags())
        self.parser = trt.OnnxParser(self.network, listener.logger)

    @property
    def weakly_typed(self) -> bool:
        """Whether the library, not the graph, decides on precisions: before 10.0, and on the DLA until 11."""
        trt = self.trt
        strongly = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        return not strongly or (self.options.dla_core is not None and hasattr(trt.BuilderFlag, "FP16"))

    @property
    def timing_cache(self) -> Path | None:
        """TensorRT-RTX measures nothing while it builds; it has the calls, and warns of them."""
        return None if self.options.library == "rtx" else self.options.timing_cache

    def _network_flags(self) -> int:
        flag, flags = self.trt.NetworkDefinitionCreationFlag, 0
        if hasattr(flag, "EXPLICIT_BATCH"):
            flags |= 1 << int(flag.EXPLICIT_BATCH)
        if hasattr(flag, "STRONGLY_TYPED") and not self.weakly_typed:
            flags |= 1 << int(flag.STRONGLY_TYPED)
        return flags

    def read(self, onnx: Path) -> None:
        """Parse the ONNX and note its inputs and outputs."""
        if not self.parser.parse_from_file(str(onnx)):
            errors = [self.parser.get_error(place) for place in range(self.parser.num_errors)]
            raise complaints.failure(
                f"{onnx.name} cannot be read by {self.trt.__name__} {self.trt.__version__}",
                [_told(error) for error in errors] or self.listener.errors,
            )
        network = self.network
        self.inputs = tuple(_binding(network.get_input(place)) for place in range(network.num_inputs))
        self.outputs = tuple(_binding(network.get_output(place)) for place in range(network.num_outputs))

    def configure(self) -> None:
        """Turn the options into the builder's own."""
        options, config, trt = self.options, self.config, self.trt
        self._set_profile()
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if not options.external_tactics:
            self._without_external_tactics()
        if options.optimization_level is not None:
            self._need(config, "builder_optimization_level", "optimisation levels")
            config.builder_optimization_level = options.optimization_level
        self._set_compatibility()
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            # what takes memory of its own while it runs cannot be captured in a CUDA graph
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if options.capabilities:
            self._set_capabilities()
        if options.dla_core is not None:
            self._set_dla(options.dla_core)
        if self.weakly_typed:
            self._set_precision()
        if self.timing_cache:
            timingcache.attach(config, self.timing_cache)
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = self.listener.monitor

    def plan(self, onnx: Path) -> Any:
        """The serialized engine."""
        what = f"{onnx.name} cannot be compiled by {self.trt.__name__} {self.trt.__version__}"
        try:
            with self.listener.holding_interrupts():
                plan = self.builder.build_serialized_network(self.network, self.config)
        except (MemoryError, RuntimeError) as error:
            raise complaints.failure(what, [*self.listener.errors, repr(error)]) from error
        if self.listener.stopped is not None:
            raise self.listener.stopped
        if plan is None or not memoryview(plan).nbytes:
            raise complaints.failure(what, [*self.listener.errors, *self._blamed()])
        return plan

    def _blamed(self) -> list[str]:
        """The kinds of the layers that the library says it cannot implement."""
        names = {found for message in self.listener.errors for found in re.findall(r"(\S+) has no runners", message)}
        layers = [layer for layer in _layers(self.network) if layer.name in names]
        return [f"layer {layer.name} is of type {layer.type.name}" for layer in layers]

    def _need(self, owner: Any, name: str, what: str) -> None:
        if not hasattr(owner, name):
            raise ExportError(
                f"{self.trt.__name__} {self.trt.__version__} has no {what}",
                hint="leave the option out, or install a newer release",
            )

    def _set_profile(self) -> None:
        least, usual, most = self.options.batch
        fixed = {tensor.shape[0] for tensor in self.inputs if tensor.shape and tensor.shape[0] != -1}
        for tensor in self.inputs:
            if -1 in tensor.shape[1:]:
                raise ExportError(
                    f"input {tensor.name} has shape {tensor.shape}; only its batch may be open",
                    hint="export the ONNX with a fixed height and width",
                )
        open_inputs = [tensor for tensor in self.inputs if -1 in tensor.shape]
        if not open_inputs:
            self._check_fixed(fixed)
            return
        profile = self.builder.create_optimization_profile()
        for tensor in open_inputs:
            profile.set_shape(tensor.name, *((batch, *tensor.shape[1:]) for batch in (least, usual, most)))
        if self.config.add_optimization_profile(profile) < 0:
            raise complaints.failure(f"batch {least}-{most} does not fit the ONNX", self.listener.errors)
        self.profile = f"{least}-{usual}-{most}"

    def _check_fixed(self, fixed: set[int]) -> None:
        batch = next(iter(fixed), 1)
        if self.options.batch not in ((1, 1, 1), (batch, batch, batch)):
            raise ExportError(
                f"batch {self.options.batch} was asked for, and the ONNX has a fixed batch of {batch}",
                hint="export it again with --batch 1-8 or the batch you need",
            )
        self.profile = str(batch)

    def _without_external_tactics(self) -> None:
        """Do without cuBLAS and cuDNN, which TensorRT 8 loads where it finds them."""
        trt, allowed = self.trt, self.config.get_tactic_sources()
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
            source = getattr(trt.TacticSource, name, None)
            if source is not None:
                allowed &= ~(1 << int(source))
        if not self.config.set_tactic_sources(allowed):
            raise complaints.failure("cuBLAS and cuDNN cannot be left out", self.listener.errors)
        if hasattr(trt.PreviewFeature, "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"):
            self.config.set_preview_feature(trt.PreviewFeature.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805, True)

    def _set_compatibility(self) -> None:
        trt, options = self.trt, self.options
        flags = {
            "VERSION_COMPATIBLE": (options.version_compatible, "version-compatible engines"),
            "STRIP_PLAN": (options.strip_weights, "engines without weights"),
        }
        for name, (asked, what) in flags.items():
            if asked:
                self._need(trt.BuilderFlag, name, what)
                self.config.set_flag(getattr(trt.BuilderFlag, name))
        if options.hardware_compatible:
            self._need(self.config, "hardware_compatibility_level", "hardware-compatible engines")
            self.config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS

    def _set_capabilities(self) -> None:
        """Say which GPUs the engine is for; one the library ignores would silently become this machine's."""
        self._need(self.config, "num_compute_capabilities", "cross-compiling")
        self.config.num_compute_capabilities = len(self.options.capabilities)
        for place, capability in enumerate(self.options.capabilities):
            member = getattr(self.trt.ComputeCapability, f"SM{capability}", None)
            if member is None or not self.config.set_compute_capability(member, place):
                known = [name.lower() for name in vars(self.trt.ComputeCapability) if name.startswith("SM")]
                raise ExportError(
                    f"{self.trt.__name__} {self.trt.__version__} does not compile for sm{capability}, "
                    f"only for {' '.join(known)}",
                    hint=targets.ON_DEVICE,
                )

    def _set_dla(self, core: int) -> None:
        trt, config, cores = self.trt, self.config, self.builder.num_DLA_cores
        if core >= cores:
            raise ExportError(
                f"DLA core {core} was asked for, and this machine has {cores or 'none'}",
                hint="leave --dla out to build for the GPU",
            )
        if self.options.precision == "fp32":
            raise ExportError("the DLA computes in fp16 or int8, not in fp32", hint="use --precision fp16")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        self.on_gpu = tuple(layer.name for layer in _layers(self.network) if not config.can_run_on_DLA(layer))

    def _set_precision(self) -> None:
        """Where the library chooses precisions, allow those of the graph, and float32 only where it has float32."""
        trt, config, precision = self.trt, self.config, self.options.precision
        half = _half_tensors(trt, self.network)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
        if precision == "fp16" or half:
            config.set_flag(trt.BuilderFlag.FP16)
        if precision == "fp16":
            config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
            for layer in _layers(self.network):
                if _computes_float32(trt, layer, half):
                    layer.precision = trt.DataType.FLOAT


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(place) for place in range(network.num_layers))


def _taken(layer: Any) -> list[Any]:
    """The tensors that a layer takes; optional ones may be absent."""
    return [tensor for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None]


def _retypes(layer: Any) -> bool:
    """Whether the graph, not what the layer takes, says what type it gives."""
    return layer.type.name in ("CAST", "CONSTANT", "IDENTITY") or bool(layer.output_type_is_set(0))


def _half_tensors(trt: Any, network: Any) -> set[str]:
    """Tensors that are float16 in the ONNX: a weakly typed network tells only of those that it was told."""
    half: set[str] = set()
    for layer in _layers(network):
        given = [layer.get_output(place) for place in range(layer.num_outputs)]
        if _retypes(layer):
            half.update(tensor.name for tensor in given if tensor.dtype == trt.DataType.HALF)
        elif any(tensor.name in half for tensor in _taken(layer)):
            half.update(tensor.name for tensor in given)
    return half


def _computes_float32(trt: Any, layer: Any, half: set[str]) -> bool:
    taken = _taken(layer)
    mixed = _retypes(layer) or any(tensor.name in half for tensor in taken)
    return not mixed and any(tensor.dtype == trt.DataType.FLOAT for tensor in taken)


def _binding(tensor: Any) -> Binding:
    return Binding(tensor.name, DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()), tuple(tensor.shape))


def _told(error: Any) -> str:
    """A parser's error with its node, which releases before 10.0 know by number only."""
    node = f"node {error.node()}"
    if hasattr(error, "node_name"):
        node = f"{error.node_operator()} node {error.node_name()}"
    kind = error.code().name.lower().replace("_", " ")
    return f"{node}: {kind}: {error.desc()}" if error.node() >= 0 else f"{kind}: {error.desc()}"
