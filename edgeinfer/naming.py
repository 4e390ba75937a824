"""What the name of a source says before anything is opened: which kind it is, and how it may be shown."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from edgeinfer.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
RAW = (".264", ".265", ".h264", ".h265", ".hevc", ".mjpeg", ".mjpg")  # videos without a container
MPEG = (".3gp", ".m2ts", ".m4v", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts")
VIDEOS = (*RAW, *MPEG, ".asf", ".avi", ".flv", ".mkv", ".ogv", ".vob", ".webm", ".wmv")
STREAMS = (".m3u8", ".mjpeg", ".mjpg", ".mpd")  # of addresses whose servers need not be asked
WEB = ("http://", "https://")
RTSP = ("rtsp://", "rtsps://")
SCHEMES = (*RTSP, *WEB)


def name_of(source: object) -> str:
    """The name of a source; SourceError for what names none. An empty one would be the working directory."""
    told = str(source) if isinstance(source, (str, os.PathLike)) else ""
    if not told:
        kind = "an empty text" if isinstance(source, str) else type(source).__name__
        raise SourceError(f"a source is a path or an address, not {kind}", hint="a camera is camera:0")
    return told


def is_address(source: str) -> bool:
    """Whether this is no path: a camera, a stream, or a file on a web server."""
    return source.startswith(("camera:", "gst:", *SCHEMES))


def reads_files(source: str) -> bool:
    """Whether this is a pipeline that reads files, and each once: all of its frames count, not the newest alone."""
    return source.startswith("gst:") and bool(re.search(r"filesrc\b|file://", source)) and "loop=" not in source


def is_picture(path: Path) -> bool:
    """Whether a file is called as pictures are; hidden ones are none."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def without_password(name: str) -> str:
    """The source as it may be shown: without the user and the password in it, which may hold an @ themselves."""
    shown = re.sub(r"(\w+://)[^/\s]*@", r"\1", name)
    shown = re.sub(r"(?i)((?:\bpass|passwd|password|pwd|token)=)[^&?/\s]+", r"\1***", shown)  # as some cameras have it
    return re.sub(r"(-pw=)(\"[^\"]*\"|\S+)", r"\1***", shown)  # of GStreamer's elements


def unique(names: Sequence[str]) -> list[str]:
    """Names of which no two are the same: "camera:0", "camera:0 (2)"."""
    told: list[str] = []
    for name in names:
        own, copies = name, 1
        while own in told:
            copies += 1
            own = f"{name} ({copies})"
        told.append(own)
    return told
