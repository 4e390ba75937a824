"""What each pixel value becomes before a model sees it: the arithmetic of every device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeinfer.spec import Preprocess

_DTYPES = ("uint8", "float16", "float32")


def pixel_values(preprocess: Preprocess, dtype: str) -> NDArray[Any]:
    """(3, 256) of `dtype`: for each of the model's channels what the runtime makes of each pixel value.

    Raises SpecError.
    """
    if dtype not in _DTYPES:
        raise SpecError(f"the model's input is {dtype}, not one of {', '.join(_DTYPES)}")
    if preprocess.where == "graph":
        return np.repeat(np.arange(256, dtype=dtype)[None], 3, 0)
    pixels = np.arange(256, dtype=np.float32)[None]
    mean, std = (np.array(numbers)[:, None] for numbers in (preprocess.mean, preprocess.std))
    # one float32 division where there is nothing else to do, as the published preprocessing has it
    values: NDArray[Any] = np.repeat(pixels / np.float32(preprocess.scale), 3, 0)
    if np.any(mean) or np.any(std != 1):
        values = (pixels / preprocess.scale - mean) / std
    if dtype == "uint8":
        values = np.clip(np.rint(values), 0, 255)
    return values.astype(dtype)
