"""How long things take on a GPU, by its own clock or the host's; the benchmark's rulers."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from edgeinfer.devices._driver import call, elapsed_ms
from edgeinfer.devices._framegraph import Graph
from edgeinfer.spec import Size


class Bench:
    """The clocks, and how often each thing is done."""

    def __init__(self, quick):
        self.repeats, self.inside, self.settle = (1, 1, 0) if quick else (20, 50, 3)
        self.frame, self.frames = (Size(40, 60), 2) if quick else (Size(1080, 1920), 100)
        self.quick = quick

    def on_gpu(self, device, enqueue):
        """Microseconds of one `enqueue` among others, in a CUDA graph, as frames run: {median, min, max}."""

        def several():
            for _ in range(self.inside):
                enqueue()

        with device.context:
            enqueue()  # what is loaded late is loaded now
            device.wait()
            graph = Graph(device.handle, several)
            try:
                return self._timed(device, lambda: graph.launch(device.handle))
            finally:
                graph.close()

    def one_by_one(self, device, enqueue):
        """The same, each put on the stream by Python."""

        def several():
            for _ in range(self.inside):
                enqueue()

        with device.context:
            return self._timed(device, several)

    def _timed(self, device, several):
        start, end = device.timer(), device.timer()
        spans = []
        for _ in range(self.repeats + self.settle):
            device.record(start)
            several()
            device.record(end)
            device.wait()
            spans.append(1e3 * elapsed_ms(start, end) / self.inside)
        return summary(spans[self.settle :])

    def on_host(self, function):
        """Milliseconds of one call by the host's clock."""
        spans = []
        for _ in range(self.repeats * self.inside + 2):
            start = time.perf_counter()
            function()
            spans.append(1e3 * (time.perf_counter() - start))
        return summary(spans[2:])


def summary(spans):
    return {"median": round(median(spans), 4), "min": round(min(spans), 4), "max": round(max(spans), 4)}


def sent(device, array):
    tensor, side = device.empty(array.shape, str(array.dtype)), device.pinned((array.nbytes,))
    side[...] = array.reshape(-1).view(np.uint8)
    with device.context:
        call("cuMemcpyHtoDAsync", tensor.pointer, side.ctypes.data, array.nbytes, device.handle)
        device.wait()
    return tensor
