"""Annotated pictures and videos in a folder, under the names of their sources."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import pictures, sources
from edgeinfer.errors import EdgeInferError, SourceError, UsageError
from edgeinfer.wholefile import unwritable, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeinfer.sources import Frame
    from edgeinfer.streams import Seen

LEAST_FREE = 16 << 20  # bytes a disk must have for a video to go on
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Album:
    """Draws each result and saves it; frames of a video go into one video."""

    closed = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, str] = {}
        self._video: Video | None = None

    def add(self, seen: Seen) -> None:
        frame, image = seen.frame, seen.result.draw(seen.frame.bgr())
        if frame.fps:
            if self._video is None or self._video.source != frame.source:
                self.finish()
                self._video = Video(self.folder / self._name(frame), frame)
            self._video.add(image)
            return
        path = self.folder / self._name(frame)
        data = pictures.encode(image, path.suffix.lower())
        with whole(path) as part:
            part.write_bytes(data)

    def _name(self, frame: Frame) -> str:
        """The source's own name, made different where two sources share one."""
        path = Path(re.sub(r"[^\w.-]+", "-", frame.source)) if sources.live(frame.source) else Path(frame.source)
        suffix = ".mp4" if frame.fps else path.suffix if path.suffix.lower() in SUFFIXES else ".png"
        name, copies = f"{path.stem}{suffix}", 1
        while self._names.setdefault(name, frame.source) != frame.source:
            copies += 1
            name = f"{path.stem}-{copies}{suffix}"
        return name

    def finish(self) -> None:
        """Give the video its name."""
        if self._video:
            self._video.finish()
            self._video = None

    def discard(self) -> None:
        """Remove a video that is not complete."""
        if self._video:
            self._video.discard()
            self._video = None


class Video:
    """An MPEG-4 file that gets its name when it is finished."""

    def __init__(self, path: Path, frame: Frame) -> None:
        import cv2

        self.source, self.path = frame.source, path
        self._stack = ExitStack()
        self._part = self._stack.enter_context(whole(path))
        self._size = frame.image.shape[1::-1]
        # the one codec that OpenCV's wheels and every system's build can write
        self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), frame.fps, self._size)
        if not self._writer.isOpened():
            self.discard()
            raise EdgeInferError(f"{path} cannot be written by OpenCV", hint="check free space and permissions")

    def add(self, image: Any) -> None:
        import cv2

        self._need_room()
        # a stream may change its size on the way, a file may not
        self._writer.write(image if image.shape[1::-1] == self._size else cv2.resize(image, self._size))

    def _need_room(self) -> None:
        """OpenCV says nothing when a disk is full."""
        free = shutil.disk_usage(self._part.parent).free
        if free < LEAST_FREE:
            raise EdgeInferError(
                f"{self.path}: the disk is full ({free / 1e6:.1f} MB left)", hint="make room, then run again"
            )

    def finish(self) -> None:
        self._writer.release()
        self._stack.close()

    def discard(self) -> None:
        self._writer.release()
        self._part.unlink(missing_ok=True)
        self._stack.pop_all()


@contextmanager
def album(folder: Path, names: Sequence[str]) -> Iterator[Album]:
    """An album in this folder, made if need be; UsageError if a source lies there and would be overwritten."""
    kept_apart(folder, names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    opened = Album(folder)
    try:
        yield opened
        opened.finish()
    finally:
        opened.discard()


def kept_apart(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds a source."""
    for name in names:
        try:
            beside = {path.parent.resolve() for path in sources.files(name)}
        except SourceError:
            continue  # reported when its turn comes
        if folder.resolve() in beside:
            raise UsageError(f"--save {folder} holds {name}, which it would overwrite", hint="choose another folder")
