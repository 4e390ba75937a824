"""How near a picture's tensor must come to that of the CPU device."""

import platform

import numpy as np

from edgeinfer.devices._pixelvalues import pixel_values

# OpenCV leaves resizing to other libraries on other processors, and those round otherwise: for ARM by up to 4 of 255
EXACT = platform.machine() == "x86_64"


def assert_same(found, expected, how):
    """Equal to the bit, or to four pixel values where OpenCV's arithmetic is not known; `how` is the Preprocess."""
    cast = 1 if expected.dtype == np.uint8 else 0.001  # what rounding to bytes or float16 may add
    step = 0 if EXACT else 4.01 * np.diff(pixel_values(how, "float32")).max() + cast
    np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(expected, np.float32), rtol=0, atol=step, err_msg=str(how)
    )
