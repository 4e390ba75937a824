"""Frames of a GStreamer pipeline, through PyGObject: BGR, or NV12 as hardware decoders give it, on the GPU too."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.errors import SourceError
from edgeinfer.spec import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from edgeinfer.sources import nvmm

SINK = "edgeinfer"
ELEMENTS = ("appsink", "videoconvert")  # that every pipeline needs
PACKAGES = "python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base"
HINT = f"apt install {PACKAGES}, in a venv with --system-site-packages"
LOOK_NS = 100_000_000  # how often a pipeline that gives no frame is asked whether it has failed
# what is put after a pipeline that has no appsink of its own
ENDING = f"! videoconvert ! video/x-raw,format=BGR ! appsink name={SINK} sync=false max-buffers=2"
NVMM = "memory:NVMM"  # of NVIDIA's elements, for the GPU
FORMATS = {"BGR": "bgr", "RGB": "rgb", "BGRA": "bgr", "BGRx": "bgr", "NV12": "nv12"}
OLDEST_S = 10.0  # if the first time stamp says more, they are of another clock
BACK_NS = 500_000_000  # as are all after one that is so much earlier than the one before


class Sample(NamedTuple):
    """A frame's pixels as `devices.PIXELS` names them, and the monotonic time it was captured at.

    Of memory:NVMM the image is an `nvmm.GpuImage`; `stamp_ns` is the frame's own time, 0 where it has none.
    """

    image: NDArray[np.uint8]
    pixels: str
    captured_ns: int
    stamp_ns: int


def available() -> bool:
    """Whether PyGObject and GStreamer are here."""
    return not fault()


def fault() -> str:
    """Why PyGObject plays no pipelines here; empty if it does."""
    try:
        gst, _ = _library()
    except ModuleNotFoundError:
        return "PyGObject is not here"
    except (ImportError, ValueError) as error:
        return f"PyGObject: {error}"
    lacking = [name for name in ELEMENTS if not gst.ElementFactory.find(name)]
    return f"GStreamer has no {' and no '.join(lacking)}" if lacking else ""


def release() -> str:
    """What plays pipelines, where nothing is at fault: `GStreamer 1.22.0`."""
    gst, _ = _library()
    return str(gst.version_string())


def _library() -> tuple[Any, Any]:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    gi.require_version("GstVideo", "1.0")
    from gi.repository import Gst, GstApp, GstVideo  # noqa: F401 - importing GstApp is what makes an appsink usable

    Gst.init(None)
    return Gst, GstVideo


class Playing:
    """A pipeline that plays, with the sink its frames come out of."""

    _failure: Any = None  # its first error

    def __init__(self, description: str, shown: str) -> None:
        self._gst, self._video = _library()
        self._shown = shown
        self._stamp_ns, self._foreign = -1, False
        self._pool: nvmm.Pool | None = None
        self._pipeline, self._sink = self._built(description)
        self._bus = self._pipeline.get_bus()
        self._pipeline.set_state(self._gst.State.PLAYING)

    def _built(self, description: str) -> tuple[Any, Any]:
        gst = self._gst
        text = description if "appsink" in description else f"{description} {ENDING}"
        try:
            # else what could be made of it comes back beside the error, and is nobody's to free
            pipeline = gst.parse_launch_full(text, None, gst.ParseFlags.FATAL_ERRORS)
        except Exception as error:
            message = getattr(error, "message", None) or str(error)
            raise SourceError(
                f"{self._shown} is not a GStreamer pipeline: {message}", hint="try it with gst-launch-1.0 first"
            ) from error
        sinks = pipeline.iterate_sinks() if hasattr(pipeline, "iterate_sinks") else None
        found = []
        while sinks:
            state, element = sinks.next()
            if state != gst.IteratorResult.OK:
                break
            found.append(element)
        sink = next((one for one in found if one.get_factory().get_name() == "appsink"), None)
        if sink is None:
            raise SourceError(
                f"{self._shown} has no appsink", hint="end it with the source's frames, or with ! appsink"
            )
        return pipeline, sink

    def frames(self, timeout_ms: int) -> Iterator[Sample]:
        """Every frame; SourceError when none comes for so long, or when the pipeline reports an error."""
        while (sample := self._next(timeout_ms)) is not None:
            yield self._read(sample)

    def _next(self, timeout_ms: int) -> Any:
        """None at the end; while no frame comes it is asked now and then whether the pipeline has failed."""
        end = time.monotonic() + timeout_ms / 1e3
        while (sample := self._sink.emit("try-pull-sample", LOOK_NS)) is None:
            ended = self._sink.get_property("eos")
            self._listen()  # after that look: an element that fails says so before it ends its stream
            self._complain()
            if ended:
                return None
            if time.monotonic() > end:
                raise SourceError(f"{self._shown} gave no frame for {timeout_ms} ms", hint="check the camera")
        self._listen()
        return sample

    def _listen(self) -> None:
        """Keep an error for when there is no frame; what else the pipeline says would lie there as long as it plays."""
        said = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        self._failure = self._failure or said

    def _complain(self) -> None:
        if self._failure:
            error, _ = self._failure.parse_error()
            name = self._failure.src.get_name()
            raise SourceError(f"{self._shown}: {name}: {error.message}", hint="try it with gst-launch-1.0 first")

    def _read(self, sample: Any) -> Sample:
        caps, buffer = sample.get_caps(), sample.get_buffer()
        kind = caps.get_structure(0).get_name()
        if kind != "video/x-raw":
            raise SourceError(f"{self._shown} gives {kind}, not video/x-raw", hint="put a decoder in it: ! decodebin")
        info, on_gpu = self._video.VideoInfo.new_from_caps(caps), caps.get_features(0).contains(NVMM)
        name, odd = info.finfo.name, info.width % 2 or info.height % 2
        if name not in (("NV12",) if on_gpu else FORMATS) or (name == "NV12" and odd):
            raise self._unreadable(info, on_gpu=on_gpu)
        image = self._on_gpu(buffer, info) if on_gpu else self._in_main_memory(buffer, info, FORMATS[name])
        stamp_ns = 0 if buffer.pts == self._gst.CLOCK_TIME_NONE else buffer.pts
        return Sample(image, FORMATS[name], self._captured(buffer), stamp_ns)

    def _unreadable(self, info: Any, *, on_gpu: bool) -> SourceError:
        wanted, name = ("NV12",) if on_gpu else tuple(FORMATS), info.finfo.name
        size = f"NV12 of {info.width}x{info.height}, whose sides are not even"
        told = size if name in wanted else f"{name} pixels, not {', '.join(wanted)}"
        convert = f"nvvidconv ! video/x-raw({NVMM}),format=NV12" if on_gpu else "videoconvert ! video/x-raw,format=BGR"
        return SourceError(f"{self._shown} gives {told}", hint=f"put ! {convert} ! appsink at its end")

    def _on_gpu(self, buffer: Any, info: Any) -> Any:
        from edgeinfer.sources import nvmm

        # a boxed object's hash is its address
        image = nvmm.read(hash(buffer), Size(info.height, info.width), self._pool, self._shown)
        self._pool = image.pool
        return image

    def _in_main_memory(self, buffer: Any, info: Any, pixels: str) -> NDArray[np.uint8]:
        import numpy as np

        done, mapped = buffer.map(self._gst.MapFlags.READ)
        if not done:
            raise SourceError(f"{self._shown}: a frame cannot be mapped into memory", hint="end it with ! videoconvert")
        try:
            return _pixels(np.frombuffer(mapped.data, np.uint8), info, pixels)
        finally:
            buffer.unmap(mapped)

    def _captured(self, buffer: Any) -> int:
        """Monotonic nanoseconds of the frame's own time stamp, which is earlier than now by the decoder's delay.

        The stamps of what is not live count from its beginning, and those that were set back are of another clock.
        """
        now = time.monotonic_ns()
        clock = self._pipeline.get_clock()
        if clock is None or buffer.pts == self._gst.CLOCK_TIME_NONE:
            return now
        age_ns: int = clock.get_time() - self._pipeline.get_base_time() - buffer.pts
        if self._stamp_ns < 0:
            self._foreign = age_ns > OLDEST_S * 1e9 or not self.live
        self._foreign |= buffer.pts < self._stamp_ns - BACK_NS
        self._stamp_ns = buffer.pts
        return now if self._foreign else now - max(0, age_ns)

    @property
    def live(self) -> bool:
        """Whether its frames come when they are made, not when they are asked for."""
        asked = self._gst.Query.new_latency()
        # the sink itself waits for no clock, and says no
        return bool(self._sink.get_static_pad("sink").peer_query(asked) and asked.parse_latency()[0])

    def rate(self) -> float:
        """Frames a second as the caps have it; 0 if they do not."""
        caps = self._sink.get_static_pad("sink").get_current_caps()
        if caps is None:
            return 0.0
        known, above, below = caps.get_structure(0).get_fraction("framerate")
        return above / below if known and below else 0.0

    def stop(self) -> None:
        """End the pipeline and free what it holds."""
        self._pipeline.set_state(self._gst.State.NULL)


def _pixels(data: NDArray[np.uint8], info: Any, pixels: str) -> NDArray[np.uint8]:
    """A copy of the frame without the padding of its rows."""
    import numpy as np

    height, width = info.height, info.width
    if pixels == "nv12":
        rows = [_rows(data, info, plane, lines, width) for plane, lines in ((0, height), (1, height // 2))]
        return np.concatenate(rows)
    channels = info.finfo.pixel_stride[0]
    image: NDArray[np.uint8] = _rows(data, info, 0, height, width * channels).reshape(height, width, channels).copy()
    return image


def _rows(data: NDArray[np.uint8], info: Any, plane: int, lines: int, used: int) -> NDArray[np.uint8]:
    import numpy as np

    start, stride = info.offset[plane], info.stride[plane]
    # the last row may lack its padding
    return np.lib.stride_tricks.as_strided(
        data[start : start + stride * (lines - 1) + used], (lines, used), (stride, 1)
    )


@contextmanager
def playing(description: str, shown: str) -> Iterator[Playing]:
    """The pipeline, playing while the block lasts."""
    opened = Playing(description, shown)
    try:
        yield opened
    finally:
        opened.stop()
