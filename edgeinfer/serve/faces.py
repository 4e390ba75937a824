"""The two models a bundle is served as: raw tensors under its name, pictures under `<name>.image`."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol

import numpy as np

from edgeinfer import pictures
from edgeinfer.devices import PIXELS
from edgeinfer.results import Detections
from edgeinfer.serve import tensors
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.spec import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeinfer.results import Result
    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.tensors import Tensor
    from edgeinfer.spec import ModelSpec, TensorSpec

IMAGE = ".image"
NOBODY = (0.0, -1, "")  # the class of a box that no classifier looked at


class Slot(NamedTuple):
    """One input or output as metadata has it; -1 is a size that varies, `batched` that the first one is a batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    batched: bool = False
    optional: bool = False


class Work(NamedTuple):
    """What a station is handed: `key` says which works may share a batch, `rows` how much of it this one takes."""

    key: str
    data: Any
    rows: int = 1


class Face(Protocol):
    """One way to speak to a model, whose spec it was made of."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    def slow(self, given: Mapping[str, Tensor]) -> bool:
        """Whether `accept` takes long enough to leave the event loop."""

    def accept(self, given: Mapping[str, Tensor], parameters: Mapping[str, Any], limits: Limits) -> Work:
        """Inputs by name -> work. Refusal names the field that is wrong."""

    def give(self, answer: Any) -> list[Tensor]:
        """What the station made of it -> every output."""


class Raw:
    """The engine's own inputs and outputs."""

    def __init__(self, spec: ModelSpec) -> None:
        self.inputs, self.outputs = (tuple(map(_slot, some)) for some in (spec.inputs, spec.outputs))
        self._most = spec.batch.max

    def slow(self, given: Mapping[str, Tensor]) -> bool:  # noqa: ARG002
        return False

    def accept(self, given: Mapping[str, Tensor], parameters: Mapping[str, Any], limits: Limits) -> Work:
        _refuse_unknown(parameters, ())
        _need_names(given, {slot.name for slot in self.inputs})
        arrays = {slot.name: self._array(given[slot.name], slot, limits) for slot in self.inputs}
        rows = {len(array) for array in arrays.values()}
        if len(rows) > 1:
            raise Refusal(INVALID, f"inputs have different batches: {sorted(rows)}")
        return Work("raw", arrays, rows.pop())

    def _array(self, tensor: Tensor, slot: Slot, limits: Limits) -> Any:
        if tensor.datatype != slot.datatype:
            raise Refusal(
                INVALID, f"input {tensor.name!r}: datatype is {tensor.datatype}, the model takes {slot.datatype}"
            )
        most = min(self._most, limits.batch) if slot.batched else slot.shape[0]
        fits = len(tensor.shape) == len(slot.shape) and tensor.shape[1:] == slot.shape[1:]
        if not fits or not (1 if slot.batched else most) <= tensor.shape[0] <= most:
            batch = f" with a batch of 1 to {most}" if slot.batched else ""
            raise Refusal(
                INVALID,
                f"input {tensor.name!r}: shape is {list(tensor.shape)}, the model takes {list(slot.shape)}{batch}",
            )
        return tensor.data

    def give(self, answer: Any) -> list[Tensor]:
        return [tensors.of(name, array) for name, array in answer.items()]


class Image:
    """A picture in, what is found in it out.

    `image` is a BYTES tensor [1]: a picture file (in JSON: base64). `frame` is UINT8 [h, w, 3], in the channel order
    that the parameter `pixels` names, "bgr" unless given; or [h * 3 / 2, w] for "nv12". Exactly one of them.
    Detectors give boxes FP32 [n, 4] x1 y1 x2 y2 in the picture's pixels; all give scores FP32 [n], classes INT32 [n]
    and labels BYTES [n].
    """

    inputs: tuple[Slot, ...] = (
        Slot("image", tensors.BYTES, (1,), optional=True),
        Slot("frame", "UINT8", (-1, -1, 3), optional=True),
    )

    def __init__(self, spec: ModelSpec) -> None:
        boxes = [Slot("boxes", "FP32", (-1, 4))] if spec.task == "detect" else []
        self.outputs: tuple[Slot, ...] = (
            *boxes,
            Slot("scores", "FP32", (-1,)),
            Slot("classes", "INT32", (-1,)),
            Slot("labels", tensors.BYTES, (-1,)),
        )

    def slow(self, given: Mapping[str, Tensor]) -> bool:
        return "image" in given

    def accept(self, given: Mapping[str, Tensor], parameters: Mapping[str, Any], limits: Limits) -> Work:
        if len(given) != 1:
            raise Refusal(INVALID, f"inputs are {_list(given)}; give one of image, frame")
        _refuse_unknown(parameters, ("pixels",))
        pixels = parameters.get("pixels", "bgr")
        if pixels not in PIXELS:
            raise Refusal(INVALID, f"parameter pixels {str(pixels)[:50]!r} is not one of {', '.join(PIXELS)}")
        if "image" in given:
            return Work("image bgr", self._decoded(given["image"], limits))
        _need_names(given, {"frame"})
        return Work(f"image {pixels}", self._frame(given["frame"], pixels, limits))

    def _decoded(self, tensor: Tensor, limits: Limits) -> Any:
        if tensor.datatype != tensors.BYTES or not isinstance(tensor.data, list) or len(tensor.data) != 1:
            raise Refusal(INVALID, f"input 'image': {tensor.datatype} {list(tensor.shape)} is not one BYTES element")
        return pictures.decode(tensor.data[0], "input 'image'", limits.pixels)

    def _frame(self, tensor: Tensor, pixels: str, limits: Limits) -> Any:
        shape, side = tensor.shape, 1 << 15
        if pixels == "nv12":
            fits = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        else:
            fits = len(shape) == 3 and shape[2] == 3
        if tensor.datatype != "UINT8" or not fits or not all(0 < one < side for one in shape):
            wanted = "[h * 3 / 2, w] with h and w even" if pixels == "nv12" else "[h, w, 3]"
            raise Refusal(INVALID, f"input 'frame': {tensor.datatype} {list(shape)} is not UINT8 {wanted}")
        if shape[0] * shape[1] > limits.pixels:
            raise Refusal(INVALID, f"input 'frame': more than the {limits.pixels} pixels allowed")
        return tensor.data

    def give(self, answer: Result) -> list[Tensor]:
        labels = [answer.labels[class_id] for class_id in answer.class_ids.tolist()]
        boxes = [tensors.of("boxes", answer.boxes)] if isinstance(answer, Detections) else []
        return [
            *boxes,
            tensors.of("scores", np.asarray(answer.scores, np.float32)),
            tensors.of("classes", np.asarray(answer.class_ids, np.int32)),
            tensors.of_text("labels", labels),
        ]


class Inspected(Image):
    """A picture in, its boxes out, and what a classifier finds in each.

    Beside what detectors give: top_scores FP32 [n], top_classes INT32 [n] and top_labels BYTES [n]; 0, -1 and "" for
    boxes that the classifier did not look at.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        more = {"top_scores": "FP32", "top_classes": "INT32", "top_labels": tensors.BYTES}
        self.outputs += tuple(Slot(name, datatype, (-1,)) for name, datatype in more.items())

    def give(self, answer: Any) -> list[Tensor]:
        first = [
            (one.scores[0], one.class_ids[0], one.labels[one.class_ids[0]]) if one else NOBODY for one in answer.classes
        ]
        return [
            *super().give(answer),
            tensors.of("top_scores", np.array([score for score, _, _ in first], np.float32)),
            tensors.of("top_classes", np.array([class_id for _, class_id, _ in first], np.int32)),
            tensors.of_text("top_labels", [label for _, _, label in first]),
        ]


# what stands behind the model's name, and what that is
FACES: Mapping[str, Callable[[ModelSpec], Face]] = {"": Raw, IMAGE: Image}
INSPECTED: Mapping[str, Callable[[ModelSpec], Face]] = {**FACES, IMAGE: Inspected}


def unpacked(name: str, text: Any) -> bytes:
    """A picture's bytes from the base64 that stands for them in JSON."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Refusal(INVALID, f"input {name!r}: data in JSON must be base64; or send it as binary data") from error


def _slot(tensor: TensorSpec) -> Slot:
    batched = isinstance(tensor.shape[0], Batch)
    shape = tuple(-1 if isinstance(side, Batch) else side for side in tensor.shape)
    return Slot(tensor.name, tensors.DATATYPES[tensor.dtype], shape, batched)


def _need_names(given: Mapping[str, Tensor], wanted: set[str]) -> None:
    if given.keys() != wanted:
        raise Refusal(INVALID, f"inputs are {_list(given)}; the model takes {_list(wanted)}")


def _refuse_unknown(parameters: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise Refusal(INVALID, f"parameter {unknown[0][:50]!r} is not known to this model")


def _list(names: Any) -> str:
    return ", ".join(sorted(names))[:200] or "none"
