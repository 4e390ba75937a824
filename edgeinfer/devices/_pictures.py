"""An array handed to the pipeline, checked: its size, and where red, green and blue lie in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.devices import PIXELS
from edgeinfer.errors import InputError
from edgeinfer.spec import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        raise InputError(f"pixels {pixels!r} is not one of {', '.join(PIXELS)}")
    wanted = f"image must be {_SHAPES[pixels]} uint8"
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"{wanted}, got {type(image).__name__}",
            hint='edgeinfer.sources reads files; a PIL image is np.asarray(image.convert("RGB")) with pixels="rgb"',
        )
    found = None
    if image.dtype == np.uint8:
        found = _nv12(image) if pixels == "nv12" else _packed(image, pixels)
    if found is None:
        kinds = f"pixels={pixels!r} was asked for; the kinds are {', '.join(PIXELS)}"
        whole = "scale its numbers to 0 to 255, then .astype(np.uint8)"
        raise InputError(f"{wanted}, got {image.shape} {image.dtype}", hint=kinds if image.dtype == np.uint8 else whole)
    return found


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
