"""Pictures, folders, videos, cameras and streams, all as one iterator of frames."""

from __future__ import annotations

import glob
import logging
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from edgeinfer import answers, given, gstreamer, naming, opencv, pictures, regular
from edgeinfer.arrivals import Arrivals
from edgeinfer.errors import SourceError
from edgeinfer.pictures import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

WHOLE = 0.95  # of the frames that a video tells of, which some containers only estimate
# whose frames tell when they were made; those of motion JPEG over HTTP are numbered
STAMPED = (*naming.RTSP, "camera:")

LOG = logging.getLogger(__name__)

OnError = Callable[[SourceError], None]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    image (h, w, 3) uint8 BGR, or as `pixels` says (of `memory:NVMM` an `nvmm.GpuImage`, which models read on the GPU
    and np.asarray fetches); `source` is the file or stream it came from, as given;
    `index` counts from 0 in it (in a folder or pattern: among its files); `captured_ns` is monotonic time; `fps` is 0
    for a still picture; `total` is how many frames a video says it has, 0 where that is not known, and `shown_ns` when
    in it this one is shown; a camera's frame is `behind` if it lay in a buffer: a newer one is to be had at once.
    """

    image: NDArray[np.uint8]
    source: str
    index: int
    captured_ns: int
    fps: float = 0.0
    pixels: str = "bgr"
    total: int = 0
    shown_ns: int = 0
    behind: bool = False

    def bgr(self) -> NDArray[np.uint8]:
        """The picture (h, w, 3) uint8 BGR, converted if need be."""
        if self.pixels == "bgr" and self.image.ndim == 3 and self.image.shape[2] == 3:
            return self.image
        import cv2
        import numpy as np

        codes = {"nv12": cv2.COLOR_YUV2BGR_NV12, "rgb": cv2.COLOR_RGB2BGR, "bgr": cv2.COLOR_BGRA2BGR}
        converted: NDArray[np.uint8] = cv2.cvtColor(np.asarray(self.image), codes[self.pixels])
        return converted


def refuse(error: SourceError) -> NoReturn:
    """What `frames` does about a bad file unless told otherwise."""
    raise error


def frames(
    source: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    on_error: OnError = refuse,
) -> Generator[Frame, None, None]:
    """Every frame of a picture, folder, pattern (`*.jpg`), video, `camera:N`, `rtsp://...` or `gst:PIPELINE`.

    Of `http://...` the server says whether it is a picture, a video that ends, or a camera's stream. A folder gives
    its pictures, without those of its sub-folders, in natural order (2 before 10). A file of a folder or pattern that
    cannot be read goes to `on_error`, and the next one follows; anything else raises SourceError. Closing the iterator
    releases the video or camera.
    """
    given.check_whole("max_pixels", max_pixels, 1)
    name = str(source)
    kind = on_web(name)
    if kind == "picture":
        yield _fetched(name, max_pixels)
    elif name.startswith("gst:") and gstreamer.available():
        yield from _pipeline(name, max_pixels)
    elif kind == "video" or naming.from_file(name):
        yield from _video(name, max_pixels)
    elif naming.addressed(name):
        yield from _camera(name, max_pixels)
    elif many(name):
        for index, path in enumerate(files(name)):
            try:
                yield from _file(path, index, max_pixels)
            except SourceError as error:
                on_error(error)
    elif "://" in name:
        shown, known = naming.without_password(name), ", ".join(naming.SCHEMES)
        raise SourceError(f"{shown} is no address that is read", hint=f"{known}; gst:PIPELINE reads many others")
    else:
        yield from _file(Path(name), 0, max_pixels)


def live(source: str) -> bool:
    """Whether this names a camera or a stream, which ends only when told to; a web server is asked.

    Raises SourceError where it does not answer.
    """
    return naming.addressed(source) and not naming.from_file(source) and on_web(source) in ("", "stream")


def on_web(source: str) -> str:
    """Of an http address what the server says that it is: a picture, a video, or a stream; empty for others.

    Raises SourceError where it does not answer.
    """
    if not source.startswith(naming.WEB):
        return ""
    from edgeinfer import remote

    try:
        return remote.kind(source)
    except OSError as error:
        why = answers.failed(error, source)
        raise SourceError(f"{naming.without_password(source)} cannot be opened: {why}", hint=opencv.ADDRESS) from error


def file_name(source: str) -> str:
    """The name of the file that a path or an address leads to; it may be empty."""
    if not source.startswith(naming.WEB):
        return Path(source).name
    from edgeinfer import remote

    return remote.name(source)[-100:]


def files(source: str | Path) -> list[Path]:
    """The files here that a source is read from, whether they can be read or not; none for an address."""
    name, path = str(source), Path(source)
    if naming.addressed(name):
        return []
    if not many(name):
        return [path]
    try:
        return _pictures_in(path) if path.is_dir() else _matches(name)
    except OSError as error:
        raise _unreadable(path, error) from error


def many(name: str) -> bool:
    """Whether this is a folder or a pattern."""
    if naming.addressed(name):  # an address may have brackets, and a pipeline stars
        return False
    try:
        return Path(name).is_dir() or (glob.has_magic(name) and not Path(name).exists())
    except OSError as error:
        raise _unreadable(Path(name), error) from error


def _natural(path: Path) -> list[Any]:
    parts = re.split(r"(\d+)", str(path).casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _pictures_in(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if naming.is_picture(path)]
    if not found:
        raise SourceError(
            f"{folder} has no pictures in it",
            hint=f"pictures end in {' '.join(naming.PICTURES)}; give sub-folders and videos by name or pattern",
        )
    return sorted(found, key=_natural)


def _matches(pattern: str) -> list[Path]:
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
    found = [path for path in found if not path.is_dir()]
    if not found:
        raise SourceError(f"{pattern} matches no file", hint="quote the pattern, or check it with ls")
    return sorted(found, key=_natural)


def _file(path: Path, index: int, max_pixels: int) -> Iterator[Frame]:
    start, suffix = _start_of(path), path.suffix.lower()
    # a raw video may begin as a picture does
    if suffix not in naming.VIDEOS or (pictures.signature(start) and suffix not in naming.RAW):
        yield picture(path, index, max_pixels)
    elif not start:
        raise SourceError(f"{path} is empty", hint="copy the file again")
    else:
        yield from _video(str(path), max_pixels)


def _start_of(path: Path) -> bytes:
    try:
        if not path.exists():
            raise SourceError(f"{path} does not exist", hint="check the path; a camera is camera:0")
        if not path.is_file():
            raise SourceError(f"{path} is not a regular file", hint="a camera is camera:0")
        with path.open("rb") as file:
            return file.read(32)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SourceError:
    hint = "change its permissions, or run as its owner" if isinstance(error, PermissionError) else ""
    return SourceError(f"{path} cannot be read: {error.strerror or error}", hint=hint)


def picture(path: Path, index: int = 0, max_pixels: int = MAX_PIXELS) -> Frame:
    """The frame of one picture file. Raises SourceError."""
    captured_ns = time.monotonic_ns()
    return Frame(pictures.decode(_content(path, max_pixels), str(path), max_pixels), str(path), index, captured_ns)


def check(path: Path) -> None:
    """SourceError where a picture file shows that it cannot be read without being decoded."""
    pictures.check(_content(path, MAX_PIXELS), str(path))


def _content(path: Path, max_pixels: int) -> bytes:
    try:
        # no format needs more: 16-bit samples with alpha, uncompressed, and metadata
        return regular.content(path, 8 * max_pixels + (64 << 20))
    except OSError as error:
        raise _unreadable(path, error) from error


def _fetched(address: str, max_pixels: int) -> Frame:
    """The frame of a picture on a web server."""
    from edgeinfer import remote

    captured_ns, shown = time.monotonic_ns(), naming.without_password(address)
    return Frame(pictures.decode(remote.fetch(address, shown), shown, max_pixels), shown, 0, captured_ns)


def readable(paths: Sequence[Path], on_error: OnError, look: Callable[[Path], object] = picture) -> list[Path]:
    """Those of these pictures that `look`, `picture` or `check`, does not refuse; why it does goes to `on_error`.

    Raises SourceError if none is left.
    """
    faults = {}
    for path in paths:
        try:
            look(path)
        except SourceError as error:
            faults[path] = error
    leave_out(list(faults.values()), len(set(paths)), on_error)
    return [path for path in paths if path not in faults]


def leave_out(faults: Sequence[SourceError], total: int, on_error: OnError) -> None:
    """Why some of so many pictures cannot be read goes to `on_error`; SourceError if none can."""
    if faults and len(faults) == total:
        first, *others = faults
        what = f"none of the {total} pictures can be read: " if others else ""
        raise SourceError(f"{what}{first}", hint=first.hint)
    for fault in faults:
        on_error(fault)


def _video(name: str, max_pixels: int) -> Iterator[Frame]:
    """Frames of a video, here or on a web server."""
    shown, count, shown_ns = naming.without_password(name), 0, 0
    looks: set[bytes] = set()
    with opencv.opened(name, shown) as capture:
        fps, total = opencv.rate(capture, shown, max_pixels), opencv.total(capture)
        for image, read_ns, shown_ns in opencv.taken(capture, shown, max_pixels):
            if len(looks) < 2:
                looks.add(image[::8, ::8].tobytes())
            yield Frame(image, shown, count, read_ns, fps, total=total, shown_ns=shown_ns)
            count += 1
    if not count:
        hint = "convert it to H.264 with ffmpeg"
        raise SourceError(f"{shown} has no frames that OpenCV can decode", hint=hint)
    # where frames have no rate of their own, only time tells
    if count < WHOLE * total and shown_ns < WHOLE * total / fps * 1e9:
        LOG.warning("%s ends after %d of the %d frames it tells of: it may be cut short", shown, count, total)
    if count > fps and len(looks) == 1:
        # OpenCV does not say so: it leaves pictures as they were
        why = (
            "OpenCV from 4.13 on cannot convert interlaced ones, if that is what it holds: ffmpeg -i ... -vf yadif ..."
        )
        LOG.warning("%s shows the same picture %d times: %s", shown, count, why)


def _camera(name: str, max_pixels: int) -> Iterator[Frame]:
    """Frames of a camera or stream, whose end is a SourceError; it is released when this is closed.

    OpenCV before 4.13 gives the last picture for ever where a stream changes its size within a connection.
    """
    shown, count, began_ns = naming.without_password(name), 0, time.monotonic_ns()
    with opencv.opened(name, shown, live=True) as capture:
        fps = opencv.rate(capture, shown, max_pixels)
        arrivals = Arrivals(fps, began_ns)
        patience_ms = opencv.READ_MS if name.startswith(naming.SCHEMES) else math.inf
        for image, read_ns, stamp_ns in opencv.taken(capture, shown, max_pixels, patience_ms=patience_ms):
            captured_ns = arrivals.captured_ns(read_ns, stamp_ns if name.startswith(STAMPED) else 0)
            yield Frame(image, shown, count, captured_ns, fps, behind=arrivals.behind)
            count += 1
    raise _stopped(shown, count)


def _pipeline(name: str, max_pixels: int) -> Iterator[Frame]:
    """Frames of a pipeline; the end of a live one that nobody counts the frames of is a SourceError, as a camera's.

    Where the network stood still, a pipeline stamps what comes from its buffers as of the moment it comes.
    """
    shown, count, began_ns, live = naming.without_password(name), 0, time.monotonic_ns(), False
    with gstreamer.playing(name[4:], shown) as opened:
        for image, pixels, told_ns, stamp_ns in opened.frames(opencv.OPEN_MS):
            rows, width = image.shape[:2]
            opencv.check_size(rows * 2 // 3 if pixels == "nv12" else rows, width, shown, max_pixels)
            fps = opencv.plausible(opened.rate())
            if not count:
                live, arrivals = opened.live, Arrivals(fps, began_ns)
            captured_ns = arrivals.captured_ns(told_ns) if live else told_ns
            yield Frame(image, shown, count, captured_ns, fps, pixels, shown_ns=stamp_ns, behind=arrivals.behind)
            count += 1
    if not count or (live and "num-buffers=" not in name):
        raise _stopped(shown, count)


def _stopped(shown: str, count: int) -> SourceError:
    return SourceError(f"{shown} stopped after {count} frames", hint="check the device or the network, and run again")
