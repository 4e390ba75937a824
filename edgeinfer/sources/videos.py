"""What moves: videos, cameras, streams and pipelines, frame by frame."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from edgeinfer import naming
from edgeinfer.errors import SourceError
from edgeinfer.sources import gstreamer, opencv
from edgeinfer.sources.arrivals import Arrivals
from edgeinfer.sources.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE = 0.95  # of the frames that a video tells of, which some containers only estimate
# whose frames tell when they were made; those of motion JPEG over HTTP are numbered
STAMPED = (*naming.RTSP, "camera:")
# OpenCV does not say so: it leaves pictures as they were
STILL = "OpenCV from 4.13 on cannot convert interlaced ones, if that is what it holds: ffmpeg -i ... -vf yadif ..."

LOG = logging.getLogger(__name__)


def video(name: str, max_pixels: int) -> Iterator[Frame]:
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
        LOG.warning("%s shows the same picture %d times: %s", shown, count, STILL)


def camera(name: str, max_pixels: int) -> Iterator[Frame]:
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


def pipeline(name: str, max_pixels: int) -> Iterator[Frame]:
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
