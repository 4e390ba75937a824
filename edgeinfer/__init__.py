"""edgeinfer: a bundle in, results out.

with edgeinfer.load("engines/yolov5n") as model:
    found = model(image)          # image (h, w, 3) uint8 BGR; boxes in its pixels
"""

from __future__ import annotations

from edgeinfer.bundle import Bundle
from edgeinfer.errors import EdgeInferError
from edgeinfer.loading import load
from edgeinfer.pipeline import Pipeline
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import ModelSpec

__version__ = "0.1.0"
__all__ = ["Bundle", "Classification", "Detections", "EdgeInferError", "ModelSpec", "Pipeline", "load"]
