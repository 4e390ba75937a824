"""An array handed to the pipeline, checked: its size, and where red, green and blue lie in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.devices import PIXELS
from edgeinfer.errors import InputError
from edgeinfer.spec import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

# what a pipeline does whose frames lie in memory of NVIDIA's, for those who read main memory
IN_MAIN_MEMORY = "end the pipeline with ! nvvidconv ! video/x-raw,format=NV12 ! appsink (nvvideoconvert in DeepStream)"
# what was handed over in place of an array, by its type's name, and how the picture in it is had
_READ = "cv2.imread(path) gives the picture; edgeinfer.frames(path) reads folders and videos too"
_INSTEAD = {
    "NoneType": "cv2.imread gives None for what it cannot read; edgeinfer.frames(path) says why",
    "str": _READ,
    "PosixPath": _READ,
    "bytes": "model(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))",
    "Frame": "model(frame.image, pixels=frame.pixels)",
    "GpuImage": IN_MAIN_MEMORY,
    "list": "model.batch(images)",
    "tuple": "model.batch(images)",
}
_SHAPES = {"bgr": "(h, w, 3)", "rgb": "(h, w, 3)", "nv12": "(h * 3 / 2, w) with h and w even"}


class Picture(NamedTuple):
    """Pixels (h, w, channels) uint8, or (h * 3 / 2, w) if `nv12`, whose conversion gives blue green red.

    `rgb` says at which channel red, green and blue stand; all at 0 for grey.
    """

    pixels: NDArray[np.uint8]
    size: Size
    rgb: tuple[int, int, int]
    nv12: bool = False

    def order(self, color: str) -> tuple[int, ...]:
        """The channel each of the model's channels is read from."""
        return self.rgb if color == "rgb" else self.rgb[::-1]

    def sides(self, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        """The smallest part that holds this one and can be cut out: nv12 has one colour for two by two pixels."""
        if not self.nv12:
            return left, top, right, bottom
        return left & ~1, top & ~1, right + (right & 1), bottom + (bottom & 1)

    def part(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """The pixels between `sides`, of the same kind: a view, or for nv12 a copy."""
        if not self.nv12:
            return self.pixels[top:bottom, left:right]
        colors = self.size.height
        planes = self.pixels[top:bottom, left:right], self.pixels[colors + top // 2 : colors + bottom // 2, left:right]
        return np.concatenate(planes)


def picture(image: Any, pixels: str) -> Picture:
    """The picture in `image`, read as `pixels` says; InputError if it holds none."""
    if pixels not in PIXELS:
        hint = "grey and BGRA pictures are bgr, RGBA ones rgb: their shape tells"
        raise InputError(f"pixels {pixels!r} is not one of {', '.join(PIXELS)}", hint=hint)
    wanted = f"image must be {_SHAPES[pixels]} uint8"
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        hint = _INSTEAD.get(kind, 'np.asarray(image), with pixels="rgb" for a PIL image after .convert("RGB")')
        raise InputError(f"{wanted}, got {kind}", hint=hint)
    found = None
    if image.dtype == np.uint8:
        found = _nv12(image) if pixels == "nv12" else _packed(image, pixels)
    if found is None:
        raise InputError(f"{wanted}, got {image.shape} {image.dtype}", hint=_amends(image, pixels))
    return found


def _amends(image: NDArray[Any], pixels: str) -> str:
    """What would make a picture of this array."""
    if image.dtype != np.uint8:
        return "scale its numbers to 0 to 255, then .astype(np.uint8)"
    if not image.size:
        return "it is empty: a part cut out beside its picture?"
    if image.ndim == 4:
        return "model.batch(images)"
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        return "channels come last: image.transpose(1, 2, 0)"
    return f"pixels={pixels!r} was asked for; the kinds are {', '.join(PIXELS)}"


def _packed(image: NDArray[np.uint8], pixels: str) -> Picture | None:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or 0 in image.shape:
        return None
    size = Size(*image.shape[:2])
    if channels == 1 and pixels == "bgr":
        return Picture(image.reshape(*image.shape[:2], 1), size, (0, 0, 0))
    if channels not in (3, 4):
        return None
    return Picture(image, size, (2, 1, 0) if pixels == "bgr" else (0, 1, 2))


def _nv12(image: NDArray[np.uint8]) -> Picture | None:
    if image.ndim != 2 or 0 in image.shape or image.shape[0] % 3 or image.shape[1] % 2:
        return None
    return Picture(image, Size(image.shape[0] // 3 * 2, image.shape[1]), (2, 1, 0), nv12=True)
