"""An NVIDIA GPU as a device: the frame goes up once, and only what was found in it comes back.

One stream, memory taken once, kernels compiled once a machine. The device lives in the GPU's primary context, beside
CuPy, PyTorch, PyCUDA and TensorRT in one process, and any thread may call it, one at a time. On a GPU that shares the
host's memory (Jetson) pixels and results are not copied at all; what every thread reads, or counts in, is: a Jetson's
GPU does not cache page-locked memory.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices import _readout, compiler, launch
from edgeinfer.devices._driver import Context, call, elapsed_ms, library
from edgeinfer.devices._framegraph import FrameGraph
from edgeinfer.devices._kernels import Kernels
from edgeinfer.devices._memory import Memory, Mirror, Tensor, view
from edgeinfer.devices._pixelvalues import pixel_values
from edgeinfer.devices._staging import StagedBatch, Staging
from edgeinfer.errors import DeviceLost, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.devices import Tensors
    from edgeinfer.results import Result
    from edgeinfer.spec import ModelSpec, Placement

_MARKS = 16  # marks that can be told apart at a time


class Device:
    """A GPU for one lane, the first in CUDA's order unless `ordinal` says which.

    `stream` is its CUstream handle; what engines put there runs between `preprocess` and `postprocess`. Raises
    BackendUnavailable where there is no GPU, driver or cuda-bindings; DeviceError; DeviceLost.
    """

    def __init__(self, spec: ModelSpec, ordinal: int = 0) -> None:
        self._spec, self.ordinal = spec, ordinal
        self.context = Context(ordinal)
        self._owned, self._closed = ExitStack(), False
        self.handle: Any = None
        try:
            with self.context.alone():
                self._ask()
                self._open()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def check_libraries() -> None:
        """Raise BackendUnavailable where cuda-bindings or NVRTC are missing."""
        library()
        compiler.library()

    def _ask(self) -> None:
        context = self.context
        self.name = call("cuDeviceGetName", 96, context.device).split(b"\0")[0].decode("utf-8", "replace")
        number = call("cuDriverGetVersion")
        self.driver_version = f"{number // 1000}.{number % 1000 // 10}"
        self.compute_capability = (
            context.attribute("COMPUTE_CAPABILITY_MAJOR"),
            context.attribute("COMPUTE_CAPABILITY_MINOR"),
        )
        self.integrated = bool(context.attribute("INTEGRATED"))

    def _open(self) -> None:
        spec, mapped = self._spec, self.integrated
        # not ordered with the default stream, on which other libraries work: neither waits for the other unasked
        self.handle = self._made("cuStreamCreate", "cuStreamDestroy", library().CUstream_flags.CU_STREAM_NON_BLOCKING)
        self.stream = int(self.handle)
        self.memory = Memory()
        self._owned.callback(self.memory.close)
        self.kernels = Kernels("sm_{}{}".format(*self.compute_capability))
        self._owned.callback(self.kernels.close)
        readout = _readout.of(spec)
        for source in ("preprocess", *readout.sources):
            self.kernels.load(source)
        self._table = self._sent(pixel_values(spec.preprocess, spec.inputs[0].dtype))
        first = spec.inputs[0]
        self._tensor = self.empty(first.at(spec.batch.max), first.dtype)
        call("cuMemsetD8Async", self._tensor.pointer, 0, self._tensor.nbytes, self.handle)
        self._inputs: dict[int, Tensors] = {}
        self._blocks: dict[str, NDArray[np.uint8]] = {}
        self._staging = Staging(spec, self.memory, self.context, self.handle, mapped=mapped)
        self._places = Mirror(self.memory, spec.batch.max * launch.FRAME.itemsize, mapped=False)
        self.readout = readout(spec, self)
        self._marks = [self.timer() for _ in range(_MARKS)]
        self._joined = self._made("cuEventCreate", "cuEventDestroy", library().CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self._turn = 0
        self._staged: StagedBatch | None = None
        self.wait()

    def _made(self, create: str, destroy: str, *arguments: Any) -> Any:
        made = call(create, *arguments)
        self._owned.callback(call, destroy, made)
        return made

    def _sent(self, array: NDArray[Any]) -> int:
        """The address of a copy of this array on the GPU."""
        table = Mirror(self.memory, array.nbytes, mapped=False)
        table.host[...] = array.reshape(-1).view(np.uint8)
        table.push(array.nbytes, self.handle)
        return table.pointer

    def timer(self) -> Any:
        """An event of the GPU's clock, the device's until it is closed."""
        return self._made("cuEventCreate", "cuEventDestroy", library().CUevent_flags.CU_EVENT_DEFAULT)

    # a frame, step by step; the context must be current

    @property
    def frames(self) -> int:
        """Where the kernels find the staged pictures' records."""
        return self._staging.pointer

    def stage(self, images: Sequence[Any], pixels: str) -> StagedBatch:
        """Pictures to where the GPU can fetch them, or to the GPU; the last batch must be done. Raises InputError."""
        most = self._spec.batch.max
        if not 1 <= len(images) <= most:
            raise InputError(f"a batch must be 1 to {most} images, got {len(images)}")
        return self._staging.fill(images, pixels, self._join)

    def _join(self, producer: int) -> None:
        """Let our stream wait for what another has been given so far."""
        if producer == self.stream:
            return
        call("cuEventRecord", self._joined, library().CUstream(producer))
        call("cuStreamWaitEvent", self.handle, self._joined, 0)

    def upload(self, batch: StagedBatch) -> None:
        self._staging.push(batch)

    def convert(self, batch: StagedBatch) -> Tensors:
        """The staged pictures to the model's input."""
        at = {"frames": self.frames, "tensor": self._tensor.pointer, "table": self._table}
        self.kernels.launch(launch.preprocess(self._spec, batch.pictures, **at), self.handle)
        return self._rows(max(batch.pictures, self._spec.batch.min))

    def record(self, event: Any, flags: int = 0) -> None:
        if flags:
            call("cuEventRecordWithFlags", event, self.handle, flags)
        else:
            call("cuEventRecord", event, self.handle)

    def wait(self) -> None:
        """Until all that was put on the stream is done."""
        call("cuStreamSynchronize", self.handle)

    # the protocol

    def join(self, engine: Any) -> FrameGraph:
        """The whole way of frames through this device and an engine on it; close it before either."""
        return FrameGraph(self, engine)

    def preprocess(self, images: Sequence[Any], pixels: str = "bgr") -> tuple[Tensors, list[Placement]]:
        """Pictures -> the model's input by name, on the GPU once the stream has come so far, and their places."""
        with self.context:
            self.wait()  # the block that frames go through may still be read
            batch = self.stage(images, pixels)
            self._staged = batch  # frames on the GPU stay alive until the next call has waited for this one
            self.upload(batch)
            return self.convert(batch), list(batch.placements)

    def _rows(self, count: int) -> Tensors:
        if count not in self._inputs:
            self._inputs[count] = {self._spec.inputs[0].name: self._tensor.rows(count)}
        return self._inputs[count]

    def postprocess(self, outputs: Tensors, placements: Sequence[Placement]) -> list[Result]:
        """Outputs by name, on the GPU -> one result a placement; waits. EngineError if they hold NaN."""
        with self.context:
            self.wait()
            places = _readout.geometry(placements)
            self._places.host[: places.nbytes] = places
            self._places.push(places.nbytes, self.handle)
            self.readout.enqueue(outputs, len(placements), self._places.pointer)
            self.wait()
            return self.readout.read(outputs, placements)

    def send(self, tensors: Tensors) -> Tensors:
        """The arrays, put into the model's input by way of page-locked memory; waits."""
        name = self._spec.inputs[0].name
        array = tensors[name]
        with self.context:
            block = self._pinned(name, self._tensor.nbytes)
            self.wait()
            block[: array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
            call("cuMemcpyHtoDAsync", self._tensor.pointer, block.ctypes.data, array.nbytes, self.handle)
            self.wait()
            return self._rows(max(len(array), self._spec.batch.min))

    def fetch(self, outputs: Tensors, rows: int) -> dict[str, Any]:
        """Copies of the first `rows` rows in main memory; waits."""
        found: dict[str, Any] = {}
        with self.context:
            for name, output in outputs.items():
                nbytes = output.rows(rows).nbytes
                block = self._pinned(name, output.nbytes)
                call("cuMemcpyDtoHAsync", block.ctypes.data, output.pointer, nbytes, self.handle)
                found[name] = (block[:nbytes], output)
            self.wait()
            for name, (block, output) in found.items():
                found[name] = block.view(output.dtype).reshape(rows, *output.shape[1:]).copy()
        return found

    def _pinned(self, name: str, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked memory for a tensor that goes to or from the caller, the same each time."""
        block = self._blocks.get(name)
        if block is None or len(block) < nbytes:
            self._blocks[name] = self.pinned((nbytes,))
            if block is not None:
                self.memory.free(block.ctypes.data)
        return self._blocks[name]

    def empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """An uninitialised tensor on the GPU, freed with the device."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self.context:
            return Tensor(self.memory.on_device(nbytes), shape, dtype, self.stream)

    def pinned(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A page-locked array for frames, theirs until the device is closed: the GPU fetches them from there itself."""
        nbytes = int(np.prod(shape))
        with self.context:
            return view(self.memory.on_host(nbytes), nbytes).reshape(shape)

    def mark(self) -> Any:
        """A point in the stream; the last 16 can be told apart."""
        self._turn = (self._turn + 1) % _MARKS
        with self.context:
            self.record(self._marks[self._turn])
        return self._marks[self._turn]

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds of the GPU's clock between two marks; waits for the later."""
        with self.context:
            call("cuEventSynchronize", end)
            return elapsed_ms(start, end)

    def close(self) -> None:
        """Free everything; calling it twice is harmless. Tensors and pinned arrays of it may not be used again."""
        if self._closed:
            return
        self._closed = True
        # on a lost GPU nothing can be freed: the process has to end
        with suppress(DeviceLost), ExitStack() as last:
            last.callback(self.context.close)
            last.enter_context(self.context.alone())
            last.enter_context(self._owned)
            if self.handle is not None:
                last.callback(self.wait)  # freeing memory need not wait for what still uses it
