"""A picture file's bytes to pixels: its size is read first, so that nothing too large is ever decoded.

The headers and the ends of the six formats are read with the standard library; OpenCV decodes.
"""

from __future__ import annotations

import re
import struct
import zlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from edgeinfer.errors import BackendUnavailable, SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 100_000_000
TRUNCATED = "truncated: its end is missing"
FORMATS = "PNG, JPEG, BMP, WebP, TIFF, GIF"
WITH_OPENCV = 'pip install "edgeinfer[cpu]", or on a Jetson: sudo apt install libopencv-python'


class Header(NamedTuple):
    """What a file says about itself before it is decoded."""

    height: int
    width: int
    fault: str = ""


def opencv() -> Any:
    """The module cv2. Raises BackendUnavailable."""
    try:
        import cv2
    except ImportError as error:
        told, hint, found = "OpenCV is not installed", WITH_OPENCV, find_spec("cv2")
        if found:
            told = f"OpenCV is here ({found.origin}) and cannot be loaded: {error}"
            hint = f"mend what that names, or: {hint}"
        raise BackendUnavailable(told, hint=hint) from error
    return cv2


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """File bytes -> (h, w, 3) uint8 BGR, turned as its EXIF orientation says; SourceError names `name`.

    16-bit samples keep their upper 8 bits, grey becomes BGR, an alpha channel is dropped (OpenCV multiplies a TIFF's
    in), CMYK is converted. Of an animation the first picture is taken. A file cut short is an error, even where a part
    of it could be shown.
    """
    check(data, name, max_pixels)
    import numpy as np

    cv2 = opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _damaged(name) from error
    if image is None:
        raise _damaged(name)
    return image  # type: ignore[no-any-return]


def check(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture that may not be decoded; SourceError says why."""
    if not data:
        raise SourceError(f"{name} is empty", hint="copy the file again")
    found = header(data)
    if found is None:
        raise SourceError(f"{name} is not a picture", hint=f"pictures are {FORMATS}")
    pixels = found.height * found.width
    if pixels > max_pixels:
        size = f"{found.width}x{found.height}"
        raise SourceError(
            f"{name} has {size} pixels, more than the {max_pixels / 1e6:g} million allowed",
            hint="scale it down first",
        )
    if found.fault:
        raise SourceError(f"{name} is {found.fault}", hint="copy the file again")
    if not pixels:
        raise _damaged(name)


def header(data: bytes) -> Header | None:
    """Size and completeness of a picture file; None if it is none of the known formats."""
    for signature, read in _READERS:
        if re.match(signature, data, re.DOTALL):
            try:
                return read(data)
            except (struct.error, IndexError):
                return Header(0, 0, fault=TRUNCATED)
    return None


def _damaged(name: str) -> SourceError:
    hint = "save it again as PNG or JPEG"
    return SourceError(f"{name} is damaged, or of a kind that OpenCV cannot read", hint=hint)


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        # a chunk whose name starts with a small letter may be wrong without harm
        if kind[:1].isupper() and checksum != zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]):
            return Header(height, width, "damaged: a checksum in it is wrong")
        at += 12 + length
    return Header(height, width)


# in entropy-coded data FF is followed by 00, or by a restart marker; any other pair starts a segment
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> Header:
    height = width = 0
    at, scanning = 2, False
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            return Header(height, width, fault=TRUNCATED)
        code, at = found[1][0], found.end()
        if code == 0xD9:
            return Header(height, width, fault="" if scanning else TRUNCATED)
        (length,) = struct.unpack_from(">H", data, at)
        if code in _FRAMES and not width:
            height, width = struct.unpack_from(">HH", data, at + 3)
        scanning |= code == 0xDA
        at += length


def _bmp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packed = 0
    else:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
    height, width = abs(height), abs(width)
    start = struct.unpack_from("<I", data, 10)[0]
    # 1 and 2 are run-length codings, whose size only decoding tells
    rows = 0 if packed in (1, 2) else height * ((width * bits + 31) // 32 * 4)
    return Header(height, width, fault=TRUNCATED if start + rows > len(data) else "")


def _webp(data: bytes) -> Header:
    size, kind = struct.unpack_from("<I4x4s", data, 4)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return Header(height, width, fault=TRUNCATED if size + 8 > len(data) else "")


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette(flags)
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            # a frame may be larger than the screen it names
            left, top, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
            width, height = max(width, left + across), max(height, top + down)
            at += 11 + _palette(flags)
        else:
            at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return Header(height, width)


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _tiff(data: bytes) -> Header:
    order = "<" if data[:1] == b"I" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    sides = {256: 0, 257: 0}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in sides:
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    # the directory is in reach; whether every strip is, OpenCV finds out
    return Header(sides[257], sides[256])


_READERS: tuple[tuple[bytes, Callable[[bytes], Header]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"\xff\xd8\xff", _jpeg),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", _bmp),
    (rb"RIFF.{4}WEBPVP8", _webp),
    (rb"GIF8[79]a", _gif),
    (rb"II\*\0|MM\0\*", _tiff),
)


def signature(data: bytes) -> bool:
    """Whether a file that starts like this is meant to be a picture."""
    return any(re.match(start, data, re.DOTALL) for start, _ in _READERS)


def encode(image: Any, suffix: str, quality: int = 95) -> bytes:
    """(h, w, 3) uint8 BGR -> the bytes of a file of this kind; `quality` is for JPEG and WebP."""
    cv2 = opencv()
    jpeg, webp = cv2.IMWRITE_JPEG_QUALITY, cv2.IMWRITE_WEBP_QUALITY
    lossy = {".jpg": jpeg, ".jpeg": jpeg, ".webp": webp}
    options = [lossy[suffix], quality] if suffix in lossy else []
    try:
        done, data = cv2.imencode(suffix, image, options)
        if done:
            return bytes(data)
    except cv2.error:
        pass
    raise SourceError(f"OpenCV cannot write {suffix} pictures", hint="save as .png or .jpg")
