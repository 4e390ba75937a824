"""Model specs of any shape, for kernels that never meet a model."""

from __future__ import annotations

from edgeinfer.spec import Batch, Boxes, ModelSpec, Preprocess, Size, TensorSpec, TopK


def picture_spec(how: Preprocess, dtype: str = "float32") -> ModelSpec:
    """A model that takes pictures as `how` says."""
    height, width = how.size.height, how.size.width
    frame = (height, width, 3) if how.where == "graph" else (3, height, width)
    return ModelSpec(
        name="pictures",
        task="classify",
        inputs=(TensorSpec("images", (Batch(1, 9), *frame), dtype),),
        outputs=(TensorSpec("logits", (Batch(1, 9), 2)),),
        preprocess=how,
        decode=TopK(1),
        labels=("a", "b"),
    )


def boxes_spec(decode: Boxes, anchors: int, classes: int, dtype: str = "float32") -> ModelSpec:
    """A detector whose output has room for `anchors`."""
    shape = {
        "yolov5": (anchors, 5 + classes),
        "yolov8": (4 + classes, anchors),
        "end2end": (anchors, 6),
    }[decode.layout]
    return ModelSpec(
        name="boxes",
        task="detect",
        inputs=(TensorSpec("images", (Batch(1, 9), 3, 8, 8)),),
        outputs=(TensorSpec("output0", (Batch(1, 9), *shape), dtype),),
        preprocess=Preprocess(Size(8, 8)),
        decode=decode,
        labels=tuple(f"class {i}" for i in range(classes)),
    )


def classes_spec(decode: TopK, classes: int, dtype: str = "float32") -> ModelSpec:
    """A classifier of so many classes."""
    return ModelSpec(
        name="classes",
        task="classify",
        inputs=(TensorSpec("images", (Batch(1, 9), 3, 8, 8)),),
        outputs=(TensorSpec("logits", (Batch(1, 9), classes), dtype),),
        preprocess=Preprocess(Size(8, 8)),
        decode=decode,
        labels=tuple(f"class {i}" for i in range(classes)),
    )
