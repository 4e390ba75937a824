"""One picture of a source, and since when there is it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer.pictures import opencv

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    image (h, w, 3) uint8 BGR, or as `pixels` says (of `memory:NVMM` an `nvmm.GpuImage`, which models read on the GPU
    and np.asarray fetches); `source` is the file or stream it came from, as given;
    `index` counts from 0 in it (in a folder or pattern: among its files); `captured_ns` is monotonic time; `fps` is 0
    for a still picture; `total` is how many frames a video says it has, 0 where that is not known, and `shown_ns` when
    in it this one is shown; a camera's frame is `behind` if it lay in a buffer: a newer one is to be had at once.
    """

    image: NDArray[np.uint8]
    source: str
    index: int
    captured_ns: int
    fps: float = 0.0
    pixels: str = "bgr"
    total: int = 0
    shown_ns: int = 0
    behind: bool = False

    def bgr(self) -> NDArray[np.uint8]:
        """The picture (h, w, 3) uint8 BGR, converted if need be."""
        if self.pixels == "bgr" and self.image.ndim == 3 and self.image.shape[2] == 3:
            return self.image
        import numpy as np

        cv2 = opencv()
        codes = {"nv12": cv2.COLOR_YUV2BGR_NV12, "rgb": cv2.COLOR_RGB2BGR, "bgr": cv2.COLOR_BGRA2BGR}
        converted: NDArray[np.uint8] = cv2.cvtColor(np.asarray(self.image), codes[self.pixels])
        return converted
