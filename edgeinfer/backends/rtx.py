"""TensorRT-RTX on desktop RTX GPUs: engines that may have been built on a machine without a GPU."""

from __future__ import annotations

from edgeinfer.backends import _nvinfer, _nvlibrary

_TRT = _nvlibrary.load("rtx", ("tensorrt_rtx",))


class Engine(_nvinfer.Engine):
    """Engines of TensorRT-RTX, which run in the release that built them."""

    formats = ("rtx",)
    trt = _TRT
    messages = _nvlibrary.Messages(_TRT, "rtx")
    library = f"{_TRT.__name__} {_TRT.__version__}"
