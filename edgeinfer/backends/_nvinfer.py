"""What TensorRT and TensorRT-RTX share: a frame's tensors in, kernels put on the device's stream, nothing waited for.

NVIDIA's advice for CUDA graphs is followed throughout: one context for each batch size, shapes and addresses set
once, one scratch memory for all contexts of a lane, since a lane runs one at a time.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from edgeinfer import machine
from edgeinfer.backends import Layer
from edgeinfer.backends._nvplan import Plan
from edgeinfer.errors import DeviceLost, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeinfer.backends._nvlibrary import Messages
    from edgeinfer.devices import Tensors
    from edgeinfer.devices.gpu import Device
    from edgeinfer.spec import Artifact, ModelSpec

ONE_CONTEXT = "this release gives an open batch one context, whose shape changes between calls"
SET_OFF = "it was set off: graph off"
NOT_CAPTURABLE = "the library says that this engine cannot be captured"


class Engine:
    """One engine; each fork shares its weights and has contexts, scratch memory and outputs of its own.

    `graph` off keeps frames from being captured in a CUDA graph.
    """

    device = "gpu"
    formats: ClassVar[tuple[str, ...]] = ()
    precisions = ("fp16", "fp32", "int8")
    trt: ClassVar[Any] = None
    messages: ClassVar[Messages]
    # module and release, as an engine's `built_with` has them
    library: ClassVar[str] = ""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        device: Device,
        *,
        threads: int = 0,  # noqa: ARG002
        contexts: int = 1,  # noqa: ARG002
        graph: str = "on",
    ) -> None:
        gpu = machine.gpu(device.ordinal)  # some releases crash where there is no driver
        with device.context.alone():
            plan = Plan(self.trt, self.messages, path, spec, gpu)
            plan.users += 1
            try:
                self._join(plan, device, graph)
            finally:
                plan.release()

    def _join(self, plan: Plan, device: Device, graph: str) -> None:
        self._plan: Plan | None = plan
        plan.users += 1
        self._device, self._graph = device, graph
        self._contexts: dict[int, _BatchContext] = {}
        self.uncapturable = SET_OFF if graph == "off" else ""  # or why a CUDA graph cannot capture it
        try:
            self._scratch: Any = device.empty((max(1, plan.scratch_bytes),), "uint8")
            largest = plan.spec.batch.max
            self._outputs = {one.name: device.empty(one.at(largest), one.dtype) for one in plan.spec.outputs}
            self._prepare(largest)
        except BaseException:
            self.close()
            raise

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:  # noqa: ARG003
        """Nothing of its own: the ladder has compared the engine's keys."""
        return ""

    @classmethod
    def settings(cls) -> Mapping[str, tuple[str, ...]]:
        return {"graph": ("on", "off")}

    def fork(self, device: Device) -> Engine:
        twin = object.__new__(type(self))
        with device.context.alone():
            twin._join(self._opened(), device, self._graph)
        return twin

    def run(self, inputs: Tensors) -> Tensors:
        """Inputs by name (n, ...) on the device -> outputs, there too once the device's stream has come so far."""
        images = next(iter(inputs.values())).shape[0]
        with self._device.context:
            prepared = self._contexts.get(images) or self._prepare(images)
            prepared.point(inputs)
            with self._device.context.alone() if prepared.fresh else nullcontext():  # what is loaded late
                prepared.execute(self._device.stream)
        return prepared.outputs

    def profile_layers(self, inputs: Tensors) -> list[Layer]:
        """One run with the clock on: its layers in the order they ran. Waits for the GPU.

        A context of its own is used, since one with a profiler is slower and cannot be captured.
        """
        with self._device.context.alone():
            return self._timed(inputs)

    def _timed(self, inputs: Tensors) -> list[Layer]:
        images = next(iter(inputs.values())).shape[0]
        prepared = _BatchContext(self._opened(), images, self._device.stream, self._scratch, self._outputs)
        layers: list[Layer] = []
        profiler = _profiler(self.trt, layers)
        prepared.point(inputs)
        prepared.execute(self._device.stream)  # once to warm up: what is compiled or chosen late is no layer's time
        prepared.context.profiler = profiler
        prepared.execute(self._device.stream)
        return layers

    def _opened(self) -> Plan:
        if self._plan is None:
            raise EngineError("the engine is closed", hint="load the bundle again")
        return self._plan

    def _prepare(self, images: int) -> _BatchContext:
        """The context for this batch size, made when it is first seen."""
        plan, stream = self._opened(), self._device.stream
        try:
            with self._device.context.alone():
                prepared = _BatchContext(plan, images, stream, self._scratch, self._outputs)
        except _ProfileTaken:
            if not self._contexts:
                raise
            # TensorRT 8 gives each profile to one context: that one changes its shape instead
            self.uncapturable = ONE_CONTEXT
            _, prepared = self._contexts.popitem()
            prepared.reshape(images, self._outputs)
        self._contexts[images] = prepared
        if not prepared.capturable(stream):
            self.uncapturable = NOT_CAPTURABLE
        return prepared

    def close(self) -> None:
        plan, self._plan = self._plan, None
        if plan is None:
            return
        # what the library holds it frees in the context that is current; on a lost GPU that cannot be
        with suppress(DeviceLost), self._device.context.alone():
            self._contexts, self._outputs, self._scratch = {}, {}, None
            plan.release()


class _ProfileTaken(EngineError):
    """Another context has the only optimisation profile."""


class _BatchContext:
    """A context for one batch size: its shapes are set, its addresses are those of the last run; `fresh` before one."""

    def __init__(self, plan: Plan, images: int, stream: int, scratch: Any, outputs: Tensors) -> None:
        self._plan, self.fresh = plan, True
        context = plan.context(scratch)
        self.context = context
        if plan.profiles:
            self._choose(plan.profile(images), stream)
        self.reshape(images, outputs)

    def _choose(self, profile: int, stream: int) -> None:
        plan, context, mark = self._plan, self.context, self._plan.messages.mark()
        if context.active_optimization_profile == profile:
            return
        with suppress(RuntimeError):  # what the bindings make of the library's no
            if context.set_optimization_profile_async(profile, stream):
                return
        failure = plan.failure(f"optimisation profile {profile} cannot be taken", mark)
        raise _ProfileTaken(str(failure), hint="use one context, or TensorRT 10")

    def reshape(self, images: int, outputs: Tensors) -> None:
        """Set the shapes of a batch, and where its outputs go."""
        plan, context, spec, mark = self._plan, self.context, self._plan.spec, self._plan.messages.mark()
        self._pointers: tuple[int, ...] = ()
        for tensor in spec.inputs if plan.profiles else ():
            if not context.set_input_shape(tensor.name, tensor.at(images)):
                raise plan.failure(f"{tensor.name} cannot take {tensor.at(images)}", mark)
        for tensor in spec.outputs:
            shape = tuple(context.get_tensor_shape(tensor.name))
            if shape != tensor.at(images):
                raise EngineError(f"{plan.path}: {tensor.name} is {shape} for {images} images, not {tensor.at(images)}")
        self.outputs = {name: output.rows(images) for name, output in outputs.items()}
        self._place(self.outputs)

    def _place(self, tensors: Tensors) -> None:
        plan, context, mark = self._plan, self.context, self._plan.messages.mark()
        for name, tensor in tensors.items():
            if not context.set_tensor_address(name, tensor.pointer):
                raise plan.failure(f"{name} cannot lie at {tensor.pointer:#x}", mark)

    def point(self, inputs: Tensors) -> None:
        """Take the inputs from where they are; nothing is done when they are where they were."""
        pointers = tuple(tensor.pointer for tensor in inputs.values())
        if pointers != self._pointers:
            self._pointers = ()  # a signal's exception may break it off anywhere
            self._place(inputs)
            self._pointers = pointers

    def execute(self, stream: int) -> None:
        plan, context = self._plan, self.context
        mark = plan.messages.mark()
        if not context.execute_async_v3(stream):
            raise plan.failure("the engine does not run", mark)
        if self.fresh:
            self.fresh = False
            plan.jit.keep()

    def capturable(self, stream: int) -> bool:
        context = self.context
        return not hasattr(context, "is_stream_capturable") or bool(context.is_stream_capturable(stream))


def _profiler(trt: Any, layers: list[Layer]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            layers.append(Layer(layer_name, float(ms)))

    return Profiler()
