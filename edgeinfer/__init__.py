"""edgeinfer: a bundle in, results out.

    with edgeinfer.load("engines/yolov5n") as model:
        found = model(image)          # image (h, w, 3) uint8 BGR; boxes in its pixels

Names are imported when they are first used, so that importing the package costs next to nothing. What is refused is an
`EdgeInferError` with a `hint`, by its kind one of `edgeinfer.errors`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from edgeinfer import errors
from edgeinfer.errors import EdgeInferError

if TYPE_CHECKING:
    from edgeinfer.bundle import Bundle
    from edgeinfer.cascade import Cascade, Inspected
    from edgeinfer.loading import load
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.profiling.measuring import profile
    from edgeinfer.results import Classification, Detections, Result
    from edgeinfer.sources import Frame, frames
    from edgeinfer.spec import ModelSpec
    from edgeinfer.streams import Seen, Stream, stream
    from edgeinfer.tiling import Tiled

__version__ = "0.1.0"
# ONNX Runtime tells its vendor of every session unless this is set before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
__all__ = [
    "Bundle",
    "Cascade",
    "Classification",
    "Detections",
    "EdgeInferError",
    "Frame",
    "Inspected",
    "ModelSpec",
    "Pipeline",
    "Result",
    "Seen",
    "Stream",
    "Tiled",
    "errors",
    "frames",
    "load",
    "profile",
    "stream",
]

_HOME = {
    "Bundle": "bundle",
    "Cascade": "cascade",
    "Classification": "results",
    "Detections": "results",
    "Frame": "sources",
    "Inspected": "cascade",
    "ModelSpec": "spec",
    "Pipeline": "pipeline",
    "Result": "results",
    "Seen": "streams",
    "Stream": "streams",
    "Tiled": "tiling",
    "frames": "sources",
    "load": "loading",
    "profile": "profiling.measuring",
    "stream": "streams",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgeinfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgeinfer.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
