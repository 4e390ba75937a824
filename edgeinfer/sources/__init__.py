"""Pictures, folders, videos, cameras and streams, all as one iterator of frames."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgeinfer import given, naming, pictures
from edgeinfer.errors import SourceError
from edgeinfer.pictures import MAX_PIXELS
from edgeinfer.sources import answers, gstreamer, opencv, paths, videos
from edgeinfer.sources.frame import Frame
from edgeinfer.sources.paths import OnError, check, files, is_folder_or_pattern, leave_out, picture, readable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = [
    "Frame",
    "OnError",
    "check",
    "file_name",
    "files",
    "frames",
    "is_folder_or_pattern",
    "leave_out",
    "live",
    "on_web",
    "picture",
    "readable",
    "refuse",
]


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
    name = naming.name_of(source)
    kind = on_web(name)
    if kind == "picture":
        yield _fetched(name, max_pixels)
    elif name.startswith("gst:") and gstreamer.available():
        yield from videos.pipeline(name, max_pixels)
    elif kind == "video" or naming.reads_files(name):
        yield from videos.video(name, max_pixels)
    elif naming.is_address(name):
        yield from videos.camera(name, max_pixels)
    elif is_folder_or_pattern(name):
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
    return naming.is_address(source) and not naming.reads_files(source) and on_web(source) in ("", "stream")


def on_web(source: str) -> str:
    """Of an http address what the server says that it is: a picture, a video, or a stream; empty for others.

    Raises SourceError where it does not answer.
    """
    if not source.startswith(naming.WEB):
        return ""
    from edgeinfer.sources import remote

    try:
        return remote.kind(source)
    except OSError as error:
        why = answers.reason(error, source)
        raise SourceError(f"{naming.without_password(source)} cannot be opened: {why}", hint=opencv.ADDRESS) from error


def file_name(source: str) -> str:
    """The name of the file that a path or an address leads to; it may be empty."""
    if not source.startswith(naming.WEB):
        return Path(source).name
    from edgeinfer.sources import remote

    return remote.name(source)[-100:]


def _file(path: Path, index: int, max_pixels: int) -> Iterator[Frame]:
    start, suffix = paths.start_of(path), path.suffix.lower()
    # a raw video may begin as a picture does
    if suffix not in naming.VIDEOS or (pictures.signature(start) and suffix not in naming.RAW):
        yield picture(path, index, max_pixels)
    elif not start:
        raise SourceError(f"{path} is empty", hint="copy the file again")
    else:
        yield from videos.video(str(path), max_pixels)


def _fetched(address: str, max_pixels: int) -> Frame:
    """The frame of a picture on a web server."""
    from edgeinfer.sources import remote

    captured_ns, shown = time.monotonic_ns(), naming.without_password(address)
    return Frame(pictures.decode(remote.fetch(address, shown), shown, max_pixels), shown, 0, captured_ns)
