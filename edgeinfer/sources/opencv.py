"""Cameras, streams and videos as OpenCV opens them, and why it does not."""

from __future__ import annotations

import math
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer import pictures
from edgeinfer.errors import SourceError
from edgeinfer.naming import RTSP, SCHEMES
from edgeinfer.sources import answers, gstreamer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

# of a network stream: short, because a lost one is opened again; an answer may come later than a frame
OPEN_MS, READ_MS = 4_000, 2_000
# two frames tell FFmpeg the rate of an RTSP stream: else it waits for twenty, seconds of a slow camera. OpenCV has no
# other way to say so than to the whole process, whose WMV files are then up to 2 % off in their rate; not to be undone
# while other threads read the environment. What is said by whoever runs the program counts; TCP first is OpenCV's own
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fpsprobesize;2"
THREADS = "OPENCV_FFMPEG_THREADS"  # with which the user says how many decode
ADDRESS = "check the address, the user and password (rtsp://USER:PASSWORD@HOST/...), and the network"
USUAL_FPS = 30.0
MOST_FPS = 240.0  # containers and networks count in 1,000ths or 90,000ths of a second, and that is told for a rate


class Taken(NamedTuple):
    """A picture (h, w, 3) uint8 BGR, the monotonic time it was there to be read, and the time it tells of itself.

    That is when it was made by the camera's own clock, or is shown in its video.
    """

    image: NDArray[np.uint8]
    read_ns: int
    stamp_ns: int


@contextmanager
def opened(name: str, shown: str, *, live: bool = False) -> Iterator[Any]:
    """OpenCV's capture of a camera, a pipeline, a stream or a video, called `shown` in errors. Raises SourceError.

    Of a `live` stream one thread decodes: each further one has FFmpeg give a picture when one more has come.
    """
    capture = _capture(name, shown, live=live)
    try:
        yield capture
    finally:
        capture.release()


def _capture(name: str, shown: str, *, live: bool) -> Any:
    cv2 = pictures.opencv()
    need_utf8(name)
    if name.startswith("camera:"):
        capture, hint = cv2.VideoCapture(_camera(name)), "another program may hold it: fuser /dev/video*"
    elif name.startswith("gst:"):
        _need_gstreamer(shown)
        capture = cv2.VideoCapture(name[4:], cv2.CAP_GSTREAMER)
        hint = "try the pipeline with gst-launch-1.0 first"
    elif name.startswith(SCHEMES):
        if name.startswith(RTSP):
            os.environ.setdefault(*OPTIONS)
        how = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
        if live and THREADS not in os.environ and hasattr(cv2, "CAP_PROP_N_THREADS"):  # OpenCV before 4.7 has none
            how += [cv2.CAP_PROP_N_THREADS, 1]
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, how)
        hint = ADDRESS
    else:
        capture = cv2.VideoCapture(name)
        hint = "it is damaged, or its codec is unknown: convert it to H.264 with ffmpeg"
    if not capture.isOpened():
        capture.release()
        why = f": {answers.why(name)}" if name.startswith(SCHEMES) else " by OpenCV"
        raise SourceError(f"{shown} cannot be opened{why}", hint=hint)
    return capture


def need_utf8(path: str) -> None:
    """SourceError for a path whose bytes are no text: OpenCV's videos do not refuse such a one, they crash."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{path} is not UTF-8, and OpenCV takes no other name for a video", hint="rename it"
        ) from error


def _camera(name: str) -> int:
    number = name.partition(":")[2]
    if not re.fullmatch("[0-9]{1,9}", number):
        raise SourceError(f"{name} is not a camera", hint="cameras are camera:0, camera:1, ...")
    if Path("/dev").is_dir() and not Path(f"/dev/video{int(number)}").exists():
        raise SourceError(f"{name} is not there: no /dev/video{int(number)}", hint="list cameras: ls /dev/video*")
    return int(number)


def _need_gstreamer(shown: str) -> None:
    import cv2

    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        raise SourceError(
            f"{shown} needs PyGObject, or an OpenCV with GStreamer: {gstreamer.fault()}, and OpenCV has none",
            hint=gstreamer.HINT,
        )


def rate(capture: Any, shown: str, max_pixels: int) -> float:
    """Frames a second, after a look at their size. Raises SourceError for larger ones."""
    import cv2

    height, width = capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    check_size(height, width, shown, max_pixels)
    return plausible(float(capture.get(cv2.CAP_PROP_FPS)))


def check_size(height: float, width: float, shown: str, max_pixels: int) -> None:
    """SourceError for frames that are too large; a stream may change their size at any time."""
    if width * height > max_pixels:
        size = f"{width:.0f}x{height:.0f}"
        raise SourceError(f"{shown} has {size} pixels, more than the {max_pixels / 1e6:g} million allowed")


def plausible(fps: float) -> float:
    """The frames a second that a source tells of; the usual number where it tells of none, or of its clock's ticks."""
    return fps if 0 < fps <= MOST_FPS else USUAL_FPS


def taken(capture: Any, shown: str, max_pixels: int, *, patience_ms: float = math.inf) -> Iterator[Taken]:
    """Its pictures, until it gives none, or none within its patience. Raises SourceError for one that is too large.

    When FFmpeg's patience with a network is over, a decoder still gives what it had kept, which is of before.
    """
    import cv2

    asked_ns = time.monotonic_ns()
    while capture.grab():
        read_ns, stamp_ns = time.monotonic_ns(), round(1e6 * capture.get(cv2.CAP_PROP_POS_MSEC))
        given, image = capture.retrieve()
        if not given or read_ns - asked_ns >= 1e6 * patience_ms:
            return
        height, width = image.shape[:2]
        check_size(height, width, shown, max_pixels)
        yield Taken(image, read_ns, stamp_ns)
        asked_ns = time.monotonic_ns()


def total(capture: Any) -> int:
    """How many frames a video says it has; 0 where it does not."""
    import cv2

    told = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return int(told) if 0 < told < 1e9 else 0
