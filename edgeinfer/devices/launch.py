"""What the GPU device launches: structures, grids and blocks, from facts and addresses alone.

Every kernel takes one structure by value; the dtypes below mirror those of kernels/*.cu field by field, and
the tests run the same launches on the CPU. Nothing here depends on what a frame holds: counts stay on the
device and grids are sized by capacity, so that the launches of a batch can be captured in one CUDA graph.

For a batch the device does, in this order on one stream:

    copy in     `frames()` records, which also set the candidate counters to zero
    launch      `preprocess()`
    run         the engine
    launch      `Detect.launches()`: decode, order, overlap, choose; or `classify()`
    copy out    `detect_result()` or `classify_result()` records, some kilobytes

Of a model that suppresses its boxes itself (`decode.where` graph) the outputs are copied out and read as the CPU
device reads them (`_decoding.suppressed`); no kernel is launched behind it.

Expected on a GPU, beside 2 us a launch (1 in a graph): preprocess the bytes read and written over the memory
bandwidth; decode the objectness column (or the whole tensor of yolov8) over the bandwidth, plus 5 us of
latency; order, overlap and choose 2-5 us each for some hundred candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.devices.suppression import APART, MOST, ceiling
from edgeinfer.errors import InputError
from edgeinfer.spec import Boxes, TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeinfer.spec import ModelSpec, Placement

DTYPES = {"float32": 0, "float16": 1}
FILTERS = {"linear": 0, "linear-antialias": 1, "cubic-antialias": 2}
LAYOUTS = {"yolov5": 0, "yolov8": 1, "end2end": 2}
ACTIVATIONS = {"softmax": 0, "sigmoid": 1, "none": 2}
NOT_FINITE, OVERFLOWED = 1, 2  # bits of a result's status
CAPACITY = 4096  # candidates a picture; 2.3 MB of workspace each picture
LONGEST = 1 << 22  # a resized side in pixels; beyond it a float cannot tell the pixels apart

FRAME = np.dtype(
    [
        ("pixels", "u8"),
        ("chroma", "u8"),
        ("pitch", "i8"),
        ("chroma_pitch", "i8"),
        ("height", "i4"),
        ("width", "i4"),
        ("resized_height", "i4"),
        ("resized_width", "i4"),
        ("top", "i4"),
        ("left", "i4"),
        ("step", "i4"),
        ("channel", "i4", (3,)),
        ("down", "f4", (2,)),
        ("across", "f4", (2,)),
        ("candidates", "i4"),
        ("status", "i4"),
    ],
    align=True,
)
PREPROCESS = np.dtype(
    [
        ("frames", "u8"),
        ("tensor", "u8"),
        ("table", "u8"),
        ("height", "i4"),
        ("width", "i4"),
        ("item", "i4"),
        ("interleaved", "i4"),
        ("filter", "i4"),
        ("pad", "i4"),
    ],
    align=True,
)
CANDIDATES = np.dtype(
    [
        ("frames", "u8"),
        ("keys", "u8"),
        ("boxes", "u8"),
        ("classes", "u8"),
        ("capacity", "i4"),
        ("reserved", "i4"),
    ],
    align=True,
)
DECODE = np.dtype(
    [
        ("to", CANDIDATES),
        ("output", "u8"),
        ("anchors", "i4"),
        ("classes", "i4"),
        ("layout", "i4"),
        ("dtype", "i4"),
        ("score", "f4"),
        ("reserved", "i4"),
    ],
    align=True,
)
SUPPRESS = np.dtype(
    [
        ("found", CANDIDATES),
        ("keys", "u8"),
        ("boxes", "u8"),
        ("classes", "u8"),
        ("overlaps", "u8"),
        ("kept", "u8"),
        ("results", "u8"),
        ("words", "i4"),
        ("most", "i4"),
        ("limit", "i4"),
        ("suppress", "i4"),
        ("apart", "f4"),
        ("iou", "f4"),
    ],
    align=True,
)
TOPK = np.dtype(
    [
        ("output", "u8"),
        ("results", "u8"),
        ("classes", "i4"),
        ("k", "i4"),
        ("activation", "i4"),
        ("dtype", "i4"),
    ],
    align=True,
)
BOX_ROW = np.dtype([("box", "f4", (4,)), ("score", "f4"), ("class_id", "i4")])
CLASS_ROW = np.dtype([("score", "f4"), ("class_id", "i4")])


class Pixels(NamedTuple):
    """A picture in the GPU's memory: its address, bytes from row to row and from pixel to pixel.

    `order` is the channel each of the model's channels is read from (`images.Picture.order`). An NV12
    picture's first plane is at `address`, with a step of 1; its second at `chroma`; its order is of blue
    green red.
    """

    address: int
    pitch: int
    step: int
    order: tuple[int, ...]
    chroma: int = 0
    chroma_pitch: int = 0


class Launch(NamedTuple):
    """One kernel of kernels/<source>.cu with its grid and block, and its argument: a structure by value."""

    source: str
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    argument: NDArray[Any]


def detect_result(limit: int) -> np.dtype[Any]:
    """One picture's detections: `count` rows in source pixels, best first; none if `status` is not 0."""
    header = [("count", "i4"), ("candidates", "i4"), ("status", "i4"), ("reserved", "i4")]
    return np.dtype([*header, ("rows", BOX_ROW, (limit,))])


def classify_result(k: int) -> np.dtype[Any]:
    """One picture's classes: `count` rows, best first; none if `status` is not 0."""
    return np.dtype([("count", "i4"), ("status", "i4"), ("rows", CLASS_ROW, (k,))])


def frames(pictures: Sequence[Pixels], placements: Sequence[Placement]) -> NDArray[Any]:
    """FRAME records (n,) of a batch: one picture a placement."""
    records = np.zeros(len(pictures), FRAME)
    for record, picture, place in zip(records, pictures, placements):
        source, resized = place.source, place.resized
        if max(resized.height, resized.width) > LONGEST:
            raise InputError(f"picture {source} would be resized to {resized}, beyond {LONGEST} pixels a side")
        record["pixels"], record["pitch"], record["step"] = picture.address, picture.pitch, picture.step
        record["chroma"], record["chroma_pitch"] = picture.chroma, picture.chroma_pitch
        record["height"], record["width"] = source.height, source.width
        record["resized_height"], record["resized_width"] = resized.height, resized.width
        record["top"], record["left"] = place.top, place.left
        record["channel"] = picture.order
        record["down"] = _two_floats(source.height, resized.height)
        record["across"] = _two_floats(source.width, resized.width)
    return records


def preprocess(spec: ModelSpec, count: int, *, frames: int, tensor: int, table: int) -> Launch:
    """`count` frames into the model's first input, by a table of `pixel_values`; the last three are addresses."""
    how = spec.preprocess
    argument = _argument(
        PREPROCESS,
        frames=frames,
        tensor=tensor,
        table=table,
        height=how.size.height,
        width=how.size.width,
        item=np.dtype(spec.inputs[0].dtype).itemsize,
        interleaved=how.where == "graph",
        filter=FILTERS[how.interpolation],
        pad=how.pad,
    )
    grid = (_blocks(how.size.width, 32), _blocks(how.size.height, 8), count)
    return Launch("preprocess", "preprocess", grid, (32, 8, 1), argument)


def classify(spec: ModelSpec, count: int, *, output: int, results: int) -> Launch:
    """`count` rows of the model's first output to `classify_result` records."""
    assert isinstance(spec.decode, TopK)
    classes = len(spec.labels)
    argument = _argument(
        TOPK,
        output=output,
        results=results,
        classes=classes,
        k=min(spec.decode.k, classes),
        activation=ACTIVATIONS[spec.decode.activation],
        dtype=DTYPES[spec.outputs[0].dtype],
    )
    return Launch("topk", "topk", (count, 1, 1), (256, 1, 1), argument)


class Detect:
    """Decoding and suppression of up to `batch` pictures of at most `capacity` candidates each.

    A result whose status says OVERFLOWED has more candidates than that, and no rows: make another `Detect`
    with room for them, and launch again from the same output with new frame records.
    """

    def __init__(self, spec: ModelSpec, batch: int, capacity: int = CAPACITY) -> None:
        assert isinstance(spec.decode, Boxes)
        assert spec.decode.where == "runtime", "the model suppresses its boxes itself"
        self.boxes = spec.decode
        shape = spec.outputs[0].at(batch)
        self.anchors = shape[2] if self.boxes.layout == "yolov8" else shape[1]
        self.classes = len(spec.labels)
        self.dtype = DTYPES[spec.outputs[0].dtype]
        self.capacity = min(capacity, self.anchors)
        self.most = min(self.capacity, MOST)
        self.words = _blocks(self.most, 64)
        self.result = detect_result(self.boxes.limit)
        self._places, self.workspace_bytes = self._workspace(batch)

    def _workspace(self, batch: int) -> tuple[dict[str, range], int]:
        """Which bytes of the workspace are whose, and how many there are."""
        each = {"keys": 8, "boxes": 16, "classes": 4, "sorted_keys": 8, "sorted_boxes": 16, "sorted_classes": 4}
        sizes = {name: batch * self.capacity * size for name, size in each.items()}
        sizes["overlaps"] = batch * self.most * self.words * 8
        sizes["kept"] = batch * self.words * 8
        places, end = {}, 0
        for name, size in sizes.items():
            places[name] = range(end, end + size)
            end += _blocks(size, 256) * 256
        return places, end

    def launches(self, count: int, *, frames: int, output: int, workspace: int, results: int) -> list[Launch]:
        """The kernels that turn `count` pictures' outputs into `result` records, in order."""
        at = {name: workspace + place.start for name, place in self._places.items()}
        found = {"frames": frames, "keys": at["keys"], "boxes": at["boxes"], "classes": at["classes"]}
        candidates = _argument(CANDIDATES, capacity=self.capacity, **found)
        decode = _argument(
            DECODE,
            to=candidates,
            output=output,
            anchors=self.anchors,
            classes=self.classes,
            layout=LAYOUTS[self.boxes.layout],
            dtype=self.dtype,
            score=np.float32(self.boxes.score),
        )
        suppress = self._suppress(candidates, at, results)
        launches = [
            Launch("decode", "decode", (_blocks(self.anchors, 128), count, 1), (128, 1, 1), decode),
            Launch("nms", "order", (_blocks(self.capacity, 128), count, 1), (128, 1, 1), suppress),
        ]
        if suppress["suppress"]:
            # threads take more than one word where these are not enough
            blocks = min(512, _blocks(self.most * self.words, 128))
            launches.append(Launch("nms", "overlap", (blocks, count, 1), (128, 1, 1), suppress))
        return [*launches, Launch("nms", "choose", (1, count, 1), (32, 1, 1), suppress)]

    def _suppress(self, candidates: NDArray[Any], at: dict[str, int], results: int) -> NDArray[Any]:
        return _argument(
            SUPPRESS,
            found=candidates,
            keys=at["sorted_keys"],
            boxes=at["sorted_boxes"],
            classes=at["sorted_classes"],
            overlaps=at["overlaps"],
            kept=at["kept"],
            results=results,
            words=self.words,
            most=self.most,
            limit=self.boxes.limit,
            apart=0.0 if self.boxes.class_agnostic else APART,
            suppress=self.boxes.layout != "end2end",
            iou=ceiling(self.boxes.iou),
        )


def _argument(structure: np.dtype[Any], /, **fields: Any) -> NDArray[Any]:
    record = np.zeros((), structure)
    for name, value in fields.items():
        record[name] = value
    return record


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _two_floats(source: int, resized: int) -> tuple[np.float32, np.float32]:
    ratio = 1.0 / (resized / source)  # OpenCV's own two roundings
    high = np.float32(ratio)
    return high, np.float32(ratio - float(high))
