"""What is known about a model, declared once: tensors, geometry, arithmetic, decoding, labels, artifacts.

Standard library only. `modeljson.py` reads and writes a `ModelSpec` as `model.json`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Union

from edgeinfer.errors import BundleError, SpecError

if TYPE_CHECKING:
    from pathlib import PurePath

TASKS = ("detect", "classify")
DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64")
FITS = ("letterbox", "resize-crop", "stretch")
COLORS = ("rgb", "bgr")
INTERPOLATIONS = ("linear", "linear-antialias", "cubic-antialias")
PLACES = ("runtime", "graph")
LAYOUTS = ("yolov5", "yolov8", "end2end")
ACTIVATIONS = ("softmax", "sigmoid", "none")
FORMATS = ("onnx", "trt", "rtx")
PRECISIONS = ("fp32", "fp16", "int8")
MAX_SIDE = 16384
MAX_BATCH = 1024


def _need(fact: bool, message: str) -> None:
    if not fact:
        raise SpecError(message)


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> None:
    _need(value in allowed, f"{what} {value!r} is not one of {', '.join(allowed)}")


def _check_inside(name: str, what: str) -> None:
    """Raise BundleError if the name is no plain relative POSIX path without `..`."""
    path = PurePosixPath(name)
    strange = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
    if name in ("", ".") or strange or str(path) != name:
        raise BundleError(f"{what} {name!r} is not a path inside the bundle", hint="export the bundle again")


@dataclass(frozen=True)
class Size:
    """Height and width in pixels, always in this order."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            _need(side >= 1, f"size {self.height}x{self.width} has a side below 1 pixel")

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Batch:
    """A batch dimension that may take any value from `min` to `max`."""

    min: int
    max: int

    def __post_init__(self) -> None:
        _need(1 <= self.min <= self.max <= MAX_BATCH, f"batch {self.min}-{self.max} is not within 1-{MAX_BATCH}")

    def __str__(self) -> str:
        return f"{self.min}-{self.max}" if self.open else str(self.max)

    @property
    def open(self) -> bool:
        """Whether it is a range, and not one number."""
        return self.min != self.max

    @property
    def dim(self) -> Dim:
        """The first dimension of a shape: a number where there is no choice."""
        return self if self.open else self.max


Dim = Union[int, Batch]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one engine input or output; only the first dimension may be a `Batch`."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _need(bool(self.name), "a tensor has no name")
        _one_of(self.dtype, DTYPES, f"tensor {self.name}: dtype")
        for place, dim in enumerate(self.shape):
            _need(
                (isinstance(dim, Batch) and place == 0) or (isinstance(dim, int) and dim >= 1),
                f"tensor {self.name}: dimension {place} is {dim!r}, not a positive number",
            )

    @property
    def batch(self) -> Batch:
        """Smallest and largest batch it takes; equal for a fixed shape."""
        first = self.shape[0]
        return first if isinstance(first, Batch) else Batch(first, first)

    def at(self, batch: int) -> tuple[int, ...]:
        """The concrete shape for `batch` images."""
        return tuple(batch if isinstance(dim, Batch) else dim for dim in self.shape)


@dataclass(frozen=True)
class Placement:
    """Where a source picture lies in the model's frame: the only datum that goes round the engine.

    The source (`source` pixels) is resized to `resized` model pixels, whose top left corner is
    put at (`left`, `top`) of the model's frame; both are negative where a crop cuts it off.
    """

    source: Size
    resized: Size
    left: int
    top: int

    def to_source(self, boxes: Any) -> Any:
        """Boxes (n, 4) x1 y1 x2 y2 model pixels -> float source pixels, clipped to the source."""
        across, down = self.source.width / self.resized.width, self.source.height / self.resized.height
        offset = (self.left, self.top, self.left, self.top)
        limit = (self.source.width, self.source.height, self.source.width, self.source.height)
        return ((boxes - offset) * (across, down, across, down)).clip((0, 0, 0, 0), limit)


@dataclass(frozen=True)
class Preprocess:
    """From a picture to the model's input: geometry first, then `(pixel / scale - mean) / std`.

    `fit`: `letterbox` keeps the aspect ratio and fills with `pad` (0-255); `resize-crop` brings the
    shorter side to `resize` and cuts the centre; `stretch` ignores the aspect ratio.
    `color` is the channel order of the model's input, in which `mean` and `std` are given.
    `interpolation`: `linear` is OpenCV's two-tap rule, `linear-antialias` widens the triangle when
    shrinking, as Pillow and torchvision do; `cubic-antialias` does so with Pillow's bicubic, timm's usual.
    `where`: `graph` when the model takes uint8 (n, h, w, 3) in `color` order and does the arithmetic itself.
    """

    size: Size
    fit: str = "letterbox"
    pad: int = 114
    color: str = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 255.0
    interpolation: str = "linear"
    where: str = "runtime"
    resize: int = 0

    def __post_init__(self) -> None:
        _need(max(self.size.height, self.size.width) <= MAX_SIDE, f"preprocess: size {self.size} is above {MAX_SIDE}")
        _one_of(self.fit, FITS, "preprocess: fit")
        _one_of(self.color, COLORS, "preprocess: color")
        _one_of(self.interpolation, INTERPOLATIONS, "preprocess: interpolation")
        _one_of(self.where, PLACES, "preprocess: where")
        _need(0 <= self.pad <= 255, f"preprocess: pad {self.pad} is not within 0-255")
        _need(len(self.mean) == len(self.std) == 3, "preprocess: mean and std need three numbers each")
        _need(self.scale > 0 and min(self.std) > 0, "preprocess: scale and std must be above 0")
        if self.fit == "resize-crop":
            longest = max(self.size.height, self.size.width)
            _need(self.resize >= longest, f"preprocess: resize {self.resize} is below the crop's {longest}")
        else:
            _need(self.resize == 0, f"preprocess: resize goes with fit resize-crop, not {self.fit}")

    def place(self, source: Size) -> Placement:
        """Where a source of this size comes to lie in the model's frame."""
        if self.fit == "letterbox":
            return self._letterbox(source)
        if self.fit == "resize-crop":
            return self._resize_crop(source)
        return Placement(source, self.size, 0, 0)

    def _letterbox(self, source: Size) -> Placement:
        # the published rule of YOLOv5's letterbox: one ratio, rounded sides, and the odd pixel to the right and below
        ratio = min(self.size.height / source.height, self.size.width / source.width)
        resized = Size(max(1, round(source.height * ratio)), max(1, round(source.width * ratio)))
        left = round((self.size.width - resized.width) / 2 - 0.1)
        top = round((self.size.height - resized.height) / 2 - 0.1)
        return Placement(source, resized, left, top)

    def _resize_crop(self, source: Size) -> Placement:
        # torchvision: the longer side is truncated, the crop's corner rounded
        if source.width <= source.height:
            resized = Size(int(self.resize * source.height / source.width), self.resize)
        else:
            resized = Size(self.resize, int(self.resize * source.width / source.height))
        left = -round((resized.width - self.size.width) / 2)
        top = -round((resized.height - self.size.height) / 2)
        return Placement(source, resized, left, top)

    @property
    def gain(self) -> tuple[float, ...]:
        """Per channel of the model: value = pixel * gain + bias."""
        return tuple(1.0 / (self.scale * std) for std in self.std)

    @property
    def bias(self) -> tuple[float, ...]:
        return tuple(-mean / std for mean, std in zip(self.mean, self.std))

    def split(self) -> tuple[Preprocess, Preprocess]:
        """(geometry, arithmetic): doing the second to the result of the first equals doing this.

        With `where` graph the first is the runtime's part, pixels in `color` order, and the second the model's.
        """
        geometry = dataclasses.replace(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0)
        arithmetic = dataclasses.replace(self, fit="stretch", resize=0)
        return geometry, arithmetic


@dataclass(frozen=True)
class TopK:
    """Classification: the `k` best classes of (n, classes) outputs after `activation`."""

    k: int = 5
    activation: str = "softmax"

    def __post_init__(self) -> None:
        _need(1 <= self.k <= 10000, f"decode: k {self.k} is not within 1-10000")
        _one_of(self.activation, ACTIVATIONS, "decode: activation")


@dataclass(frozen=True)
class Boxes:
    """Detection: how raw outputs become boxes, and which are kept.

    Layouts, all in model pixels with scores already in 0-1:
    `yolov5` (n, anchors, 5 + classes): cx cy w h objectness classes;
    `yolov8` (n, 4 + classes, anchors): cx cy w h classes;
    `end2end` (n, boxes, 6): x1 y1 x2 y2 score class, already suppressed by the model.
    `where`: `graph` when the model decodes and suppresses itself, by these very numbers. Its four outputs are, in
    this order: how many boxes (n, 1) int32; boxes (n, rows, 4) x1 y1 x2 y2; scores (n, rows); classes (n, rows) int32.
    """

    layout: str
    score: float = 0.25
    iou: float = 0.45
    limit: int = 300
    class_agnostic: bool = False
    where: str = "runtime"

    def __post_init__(self) -> None:
        _one_of(self.layout, LAYOUTS, "decode: layout")
        _one_of(self.where, PLACES, "decode: where")
        _need(0 <= self.score <= 1, f"decode: score {self.score} is not within 0-1")
        _need(0 <= self.iou <= 1, f"decode: iou {self.iou} is not within 0-1")
        _need(1 <= self.limit <= 30000, f"decode: limit {self.limit} is not within 1-30000")


Decode = Union[TopK, Boxes]


@dataclass(frozen=True)
class Artifact:
    """One runnable file of a bundle: what it is, what it was built with and for, and how good it was measured.

    `accuracy`: beside float32 on `images` pictures, `agreement` (0-1), `map_delta` or `top1_delta` in points where
    there were labels, and by output `error.NAME`, relative. `made`: how its precision came to be: the method of
    `calibration` and its number of `images`, layers left in `float32` or `float16`, how many numbers were `clamped`.
    """

    file: str
    format: str
    precision: str
    sha256: str
    flavor: str = ""
    built_with: str = ""
    target: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_inside(self.file, "artifact")
        _one_of(self.format, FORMATS, f"artifact {self.file}: format")
        _one_of(self.precision, PRECISIONS, f"artifact {self.file}: precision")
        hexadecimal = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        _need(hexadecimal, f"artifact {self.file}: sha256 is not 64 hexadecimal digits")


@dataclass(frozen=True)
class Expected:
    """One result a golden sample must give: `box` is x1 y1 x2 y2 source pixels, empty for a class."""

    class_id: int
    score: float
    box: tuple[float, ...] = ()


@dataclass(frozen=True)
class Golden:
    """A picture in the bundle and what the float32 reference found in it at `score` or above."""

    image: str
    expect: tuple[Expected, ...]
    score: float = 0.25

    def __post_init__(self) -> None:
        _check_inside(self.image, "golden image")


@dataclass(frozen=True)
class Provenance:
    """Where the model comes from; empty fields are unknown."""

    source: str = ""
    sha256: str = ""
    architecture: str = ""
    license: str = ""
    parameters: int = 0
    gflops: float = 0.0
    edgeinfer: str = ""
    recipe: str = ""
    recipe_sha256: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """The single source of facts about a model; travels as `model.json`."""

    name: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    decode: Decode
    labels: tuple[str, ...]
    provenance: Provenance = Provenance()
    artifacts: tuple[Artifact, ...] = ()
    golden: tuple[Golden, ...] = ()

    def __post_init__(self) -> None:
        _one_of(self.task, TASKS, "task")
        expected = Boxes if self.task == "detect" else TopK
        _need(isinstance(self.decode, expected), f"task {self.task} does not go with decode {self.decode!r}")
        _need(bool(self.name) and "/" not in self.name, f"name {self.name!r} is not a plain name")
        _need(bool(self.inputs) and bool(self.outputs), "a model needs inputs and outputs")
        _need(bool(self.labels), "a model needs labels")
        files = [artifact.file for artifact in self.artifacts]
        _need(len(set(files)) == len(files), "two artifacts share a file")
        self._check_shapes()

    def _check_shapes(self) -> None:
        first, size, classes = self.inputs[0], self.preprocess.size, len(self.labels)
        graph = self.preprocess.where == "graph"
        frame = (size.height, size.width, 3) if graph else (3, size.height, size.width)
        _need(first.shape[1:] == frame, f"input {first.name}: shape {first.shape[1:]} is not the preprocess's {frame}")
        out = self.outputs[0]
        if isinstance(self.decode, TopK):
            _need(out.shape[1:] == (classes,), f"output {out.name}: shape {out.shape} does not fit {classes} labels")
        elif self.decode.where == "graph":
            self._check_suppressed(self.decode)
        else:
            layout = self.decode.layout
            axis, width = {"yolov5": (2, 5 + classes), "yolov8": (1, 4 + classes), "end2end": (2, 6)}[layout]
            fits = len(out.shape) == 3 and out.shape[axis] == width
            _need(fits, f"output {out.name}: shape {out.shape} does not fit {layout} with {classes} labels")

    def _check_suppressed(self, decode: Boxes) -> None:
        """A model that suppresses itself has four outputs, with room for as many boxes as may be kept."""
        shapes = [output.shape[1:] for output in self.outputs]
        rows = shapes[1][0] if len(shapes) == 4 and shapes[1] else 0
        _need(
            shapes == [(1,), (rows, 4), (rows,), (rows,)] and isinstance(rows, int) and rows >= decode.limit,
            f"outputs {shapes} are not number (1), boxes (rows, 4), scores (rows), classes (rows) "
            f"of {decode.limit} rows or more",
        )

    @property
    def batch(self) -> Batch:
        """How many images one run may take."""
        return self.inputs[0].batch

    def artifact(self, file: str) -> Artifact | None:
        """The artifact in the file of this name, if there is one."""
        return next((one for one in self.artifacts if one.file == file), None)

    def artifact_at(self, path: PurePath) -> Artifact | None:
        """The artifact whose file is at this place, wherever the bundle is."""
        found = [one for one in self.artifacts if f"/{path.as_posix()}".endswith(f"/{one.file}")]
        return max(found, key=lambda one: len(one.file), default=None)
