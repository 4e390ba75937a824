"""Small model specs for the tests of devices."""

from edgeinfer.spec import Boxes, ModelSpec, Preprocess, Size, TensorSpec, TopK

LABELS = ("cat", "dog", "cow")
DETECT, CLASSIFY = Size(64, 64), Size(48, 48)


def detector(size=DETECT, batch=1, dtype="float32", decode=None, outputs=None, **preprocess):
    """A detector of three classes; keywords go to `Preprocess`."""
    graph = preprocess.get("where") == "graph"
    frame = (size.height, size.width, 3) if graph else (3, size.height, size.width)
    return ModelSpec(
        name="tiny",
        task="detect",
        inputs=(TensorSpec("images", (batch, *frame), dtype),),
        outputs=outputs or (TensorSpec("output0", (batch, 20, 8)),),
        preprocess=Preprocess(size, **preprocess),
        decode=decode or Boxes("yolov5"),
        labels=LABELS,
    )


def classifier(size=CLASSIFY, batch=1, dtype="float32", decode=None, **preprocess):
    """A classifier of three classes; keywords go to `Preprocess`."""
    facts = {"fit": "resize-crop", "resize": 56, "interpolation": "linear-antialias", **preprocess}
    return ModelSpec(
        name="tiny",
        task="classify",
        inputs=(TensorSpec("input", (batch, 3, size.height, size.width), dtype),),
        outputs=(TensorSpec("logits", (batch, 3)),),
        preprocess=Preprocess(size, **facts),
        decode=decode or TopK(2),
        labels=LABELS,
    )
