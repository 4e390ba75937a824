"""Annotated pictures and videos in a folder, under the names of their sources."""

from __future__ import annotations

import re
import shutil
import struct
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import naming, pictures, regular, sources, workfolder
from edgeinfer.errors import EdgeInferError, SourceError, UsageError
from edgeinfer.sources import opencv
from edgeinfer.spec import Size
from edgeinfer.wholefile import write_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeinfer.streams import Seen

LEAST_FREE = 16 << 20  # bytes a disk must have for a video to go on
STAY_S = 2.0  # how long a frame of a camera that shows nothing new stays in its video,
STILL_S = 60.0  # and one of a video whose next frame is shown later: a longer time is of a wrong clock
AHEAD_S = 0.5  # how far a video may be ahead of its camera: frames come unevenly, and some faster than is told
LONGEST = 100  # characters of a camera in a file's name
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Album:
    """Draws each result and saves it; frames of a video go into one video, those of each camera into its own."""

    closed = False

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self._work = folder, work  # what is not whole yet is at work
        self._names: dict[str, tuple[str, int]] = {}  # what has each: a source at its place
        self._videos: dict[int, Video] = {}  # by the places of their sources, each of which has one at a time

    def add(self, seen: Seen) -> None:
        frame, image = seen.frame, seen.result.draw(seen.frame.bgr())
        if frame.fps:
            self._video(seen, image).add(image, frame.captured_ns if seen.live else frame.shown_ns)
            return
        path = self._path(seen)
        part, data = self._work / path.name, pictures.encode(image, path.suffix.lower())
        with write_errors(path):
            part.write_bytes(data)
            part.replace(path)

    def _video(self, seen: Seen, image: NDArray[np.uint8]) -> Video:
        """The video of this camera, or of the file that this source has come to."""
        frame, place = seen.frame, seen.place
        if place in self._videos and frame.index == 0 and not seen.live:
            self._videos.pop(place).finish()
        if place not in self._videos:
            path, size = self._path(seen), Size(*image.shape[:2])
            self._videos[place] = Video(path, self._work / path.name, size, frame.fps, live=seen.live)
        return self._videos[place]

    def _path(self, seen: Seen) -> Path:
        """The source's own name, made different where two sources share one; nothing but a file is written over."""
        frame, own = seen.frame, (seen.frame.source, seen.place)
        if seen.live or naming.reads_files(frame.source):
            stem, suffix = re.sub(r"[^\w.-]+", "-", frame.source)[:LONGEST].strip("-"), ".mp4"
        else:
            path = Path(sources.file_name(frame.source))
            suffix = ".mp4" if frame.fps else path.suffix if path.suffix.lower() in SUFFIXES else ".png"
            stem = path.stem or "picture"
        name, copies = f"{stem}{suffix}", 1
        while self._names.setdefault(name, own) != own:
            copies += 1
            name = f"{stem}-{copies}{suffix}"
        path = self.folder / name
        with write_errors(path):
            regular.check(path)
        return path

    def finish(self) -> None:
        """Give the videos their names."""
        for place in list(self._videos):
            self._videos.pop(place).finish()

    def discard(self) -> None:
        """Leave out videos that are not complete."""
        for place in list(self._videos):
            video = self._videos.pop(place)
            (video.finish if video.complete else video.release)()


class Video:
    """An MPEG-4 file, a `part` until it gets its name when it is finished.

    It lasts as long as its source, or as a camera was looked at: a frame stays until the next one, but not for ever.
    All frames of a video are in it, and those of a camera that do not put it ahead by more than `AHEAD_S`.
    """

    def __init__(self, path: Path, part: Path, size: Size, fps: float, *, live: bool) -> None:
        import cv2

        opencv.need_utf8(str(path))
        self.path, self._part, self._live = path, part, live
        self._fps, self._size = fps, (size.width, size.height)
        self._until = 0.0  # the moment that the video has come to, in seconds of its source's clock
        self._last: Any = None
        # the one codec that OpenCV's wheels and every system's build can write
        self._writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), fps, self._size)
        if not self._writer.isOpened():
            self.release()
            raise EdgeInferError(f"{path} cannot be written by OpenCV", hint="check free space and permissions")

    @property
    def complete(self) -> bool:
        """Whether it is one whatever ended it: a camera's is, once there is a picture in it."""
        return self._live and self._last is not None

    def add(self, image: NDArray[np.uint8], moment_ns: int) -> None:
        """The next frame, and when it was captured or is shown."""
        import cv2

        self._need_room()
        missed = self._missed(moment_ns / 1e9)
        for _ in range(missed):
            self._writer.write(self._last)
        # a stream may change its size on the way, a file may not
        self._last = image if image.shape[1::-1] == self._size else cv2.resize(image, self._size)
        if missed >= 0:
            self._writer.write(self._last)

    def _missed(self, moment_s: float) -> int:
        """How many frames the video lacks until this one, which then is in it; -1 where it is ahead, and lacks none."""
        stay_s = STAY_S if self._live else STILL_S
        self._until = max(self._until, moment_s - stay_s) if self._until else moment_s
        if self._live and self._until > moment_s + AHEAD_S:
            return -1
        missed = max(0, round((moment_s - self._until) * self._fps))
        self._until += (missed + 1) / self._fps
        return missed

    def _need_room(self) -> None:
        """OpenCV says nothing when a disk is full."""
        free = shutil.disk_usage(self._part.parent).free
        if free < LEAST_FREE:
            raise EdgeInferError(
                f"{self.path}: the disk is full ({free / 1e6:.1f} MB left)", hint="make room, then run again"
            )

    def finish(self) -> None:
        """Give it its name. Raises EdgeInferError."""
        self.release()
        with write_errors(self.path):
            if not _whole(self._part):
                raise OSError("what OpenCV wrote of the video is not all on the disk")
            self._part.replace(self.path)

    def release(self) -> None:
        """Write no more."""
        self._writer.release()


def _whole(video: Path) -> bool:
    """Whether all parts of an MPEG-4 file are there, to its index, the last: OpenCV does not say what was refused."""
    kinds, place, size = set(), 0, video.stat().st_size
    with video.open("rb") as file:
        while place < size:
            file.seek(place)
            length, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            length = large if length == 1 else length
            if length < 8:  # not told yet
                return False
            kinds.add(kind)
            place += length
    return place == size and b"moov" in kinds


@contextmanager
def album(folder: Path, names: Sequence[str]) -> Iterator[Album]:
    """An album in this folder, made if need be; UsageError if a source lies there and would be overwritten."""
    kept_apart(folder, names)
    with ExitStack() as stack:
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(workfolder.beside(folder / "unfinished"))
        opened = Album(folder, work)
        stack.callback(opened.discard)
        yield opened
        opened.finish()


def kept_apart(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds a source."""
    for name in names:
        try:
            beside = {path.parent.resolve() for path in sources.files(name)}
        except SourceError:
            continue  # reported when its turn comes
        if folder.resolve() in beside:
            raise UsageError(f"--save {folder} holds {name}, which it would overwrite", hint="choose another folder")
