"""The way of a frame over a GPU: everything put on one stream, and, where it repeats, replayed as one CUDA graph.

A graph holds addresses and sizes, not what frames hold: pixels come through the same page-locked block, counts stay
on the GPU. So one graph serves every batch with the same number of pictures and the same bytes to send, and frames
that already lie on the GPU share one whatever their size.
"""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from edgeinfer.devices import STAGES
from edgeinfer.devices._driver import call, elapsed_ms, library, probe
from edgeinfer.errors import DeviceLost, EdgeInferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edgeinfer.devices._staging import StagedBatch
    from edgeinfer.devices.gpu import Device
    from edgeinfer.results import Result

CAPACITY = 16  # graphs kept, the least lately used goes first
TRIES = 3  # captures that fail in a row before no more are tried: another library may have waited for the GPU meanwhile


class FrameGraph:
    """One device and one engine on it."""

    def __init__(self, device: Device, engine: Any) -> None:
        self._device, self._engine = device, engine
        self._failed, self._failure = 0, ""
        # None: seen once. The first time runs plainly, which also lets the engine load all that it loads late;
        # a size that never comes back is not worth a graph
        self._graphs: OrderedDict[tuple[int, ...], Graph | None] = OrderedDict()
        with device.context:
            self._marks = [device.timer() for _ in range(len(STAGES) + 1)]

    @property
    def graph(self) -> str:
        """Empty, or why frames are not captured."""
        return self._failure or str(self._engine.uncapturable)

    def run(self, images: Sequence[Any], pixels: str) -> tuple[list[Result], dict[str, float]]:
        """Pictures -> results, and the milliseconds of each stage by the GPU's clock (reading: by the host's)."""
        device = self._device
        with device.context:
            device.record(self._marks[0])
            try:
                batch = device.stage(images, pixels)
                outputs = self._start(batch)
            finally:  # what reads the caller's memory, and the block that the next batch goes through, is done
                device.wait()
            waited = time.perf_counter()
            results = device.readout.read(outputs, batch.placements)
            read = time.perf_counter()
            spans = [elapsed_ms(*pair) for pair in zip(self._marks, self._marks[1:])]
        spans[-1] += (read - waited) * 1e3
        return results, dict(zip(STAGES, spans))

    def _start(self, batch: StagedBatch) -> Mapping[str, Any]:
        """Put the whole batch on the stream; the engine's outputs."""
        if self._engine.uncapturable:
            self._forget()  # what was captured before is not to be relied on either
        graph = self._graphs.get(batch.key)
        if graph is None and batch.key in self._graphs and not self._failure:
            graph = self._captured(batch)
        if graph is None:
            self._remember(batch.key, None)
            return self._enqueue(batch, _DEFAULT)
        self._graphs.move_to_end(batch.key)
        graph.launch(self._device.handle)
        return graph.outputs

    def _remember(self, key: tuple[int, ...], graph: Graph | None) -> None:
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        while len(self._graphs) > CAPACITY:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                oldest.close()

    def _enqueue(self, batch: StagedBatch, flags: int) -> Mapping[str, Any]:
        device, marks = self._device, self._marks
        device.upload(batch)
        tensors = device.convert(batch)
        device.record(marks[1], flags)
        outputs: Mapping[str, Any] = self._engine.run(tensors)
        device.record(marks[2], flags)
        device.readout.enqueue(outputs, batch.pictures, device.frames)
        device.record(marks[3], flags)
        return outputs

    def _captured(self, batch: StagedBatch) -> Graph | None:
        """The batch as a graph; None, and the reason kept, where the engine or the driver does not take part."""
        try:
            with self._device.context.alone(wait=False) as free:
                if not free:  # an engine is being opened, say: no frame waits for that
                    return None
                graph = Graph(self._device.handle, lambda: self._enqueue(batch, _EXTERNAL))
        except EdgeInferError as error:
            self._failed += 1
            self._failure = f"capture failed: {error}" if self._failed >= TRIES else ""
            return None
        self._failed = 0
        self._remember(batch.key, graph)
        return graph

    def _forget(self) -> None:
        graphs, self._graphs = self._graphs, OrderedDict()
        with ExitStack() as each:
            for graph in filter(None, graphs.values()):
                each.callback(graph.close)

    def close(self) -> None:
        """Free the graphs, before the engine frees the kernels that they run; calling it twice is harmless."""
        if self._graphs:
            with suppress(DeviceLost), self._device.context.alone():
                self._forget()


_DEFAULT, _EXTERNAL = 0, 1  # CU_EVENT_RECORD_*: an event recorded in a graph can be read only as an external one


class Graph:
    """What `enqueue` puts on the stream, ready to be put there again in one call; `outputs` is what it returned."""

    def __init__(self, stream: Any, enqueue: Callable[[], Mapping[str, Any]]) -> None:
        # other threads may allocate meanwhile, on their own lanes or in other libraries
        mode = library().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with _nothing_collected():
            call("cuStreamBeginCapture", stream, mode)
            try:
                self.outputs = enqueue()
            except BaseException:
                unfinished = probe("cuStreamEndCapture", stream)
                if unfinished is not None and int(unfinished):
                    call("cuGraphDestroy", unfinished)
                raise
            graph = call("cuStreamEndCapture", stream)
        try:
            self._ready = call("cuGraphInstantiate", graph, 0)
        finally:
            call("cuGraphDestroy", graph)

    def launch(self, stream: Any) -> None:
        call("cuGraphLaunch", self._ready, stream)

    def close(self) -> None:
        call("cuGraphExecDestroy", self._ready)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Without Python's collector of circles: what others have on the GPU in one would be freed in the midst of it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
