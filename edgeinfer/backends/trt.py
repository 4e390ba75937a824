"""TensorRT on the GPU: engines built for it, on this kind of machine."""

from __future__ import annotations

from edgeinfer.backends import _nvinfer, _nvlibrary

_TRT = _nvlibrary.load("trt", ("tensorrt", "tensorrt_lean", "tensorrt_dispatch"))


class Engine(_nvinfer.Engine):
    """Engines of TensorRT; with its lean or dispatch runtime, version-compatible ones."""

    formats = ("trt",)
    trt = _TRT
    messages = _nvlibrary.Messages(_TRT, "trt")
    library = f"{_TRT.__name__} {_TRT.__version__}"
