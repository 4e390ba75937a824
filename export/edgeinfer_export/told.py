"""What the user says of a model that does not say it itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer.errors import SpecError, UsageError
from edgeinfer.spec import INTERPOLATIONS
from edgeinfer_export.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from edgeinfer.spec import Preprocess

# what the model expects of pixels 0-255: (scale, mean, std)
NORMALIZE = {
    "imagenet": (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": (255.0, (0.0,) * 3, (1.0,) * 3),
    "symmetric": (255.0, (0.5,) * 3, (0.5,) * 3),
    "none": (1.0, (0.0,) * 3, (1.0,) * 3),
}
IO = ("float32", "float16")
# the words that a flag takes
KNOWN: Mapping[str, Collection[str]] = {
    "layout": LAYOUTS,
    "normalize": NORMALIZE,
    "io": IO,
    "interpolation": INTERPOLATIONS,
}
STRETCH = "stretch"
# published ImageNet training resizes the shorter side to 256 and crops 224
RESIZE_SHARE = 256 / 224


@dataclass(frozen=True)
class Told:
    """What the user says of a model; what is empty was not said.

    `layout` of its output (layouts.LAYOUTS); `normalize` (NORMALIZE); `io`, the element type of what goes in and
    out of an engine, which only a GPU could read from it (float32 where nothing is said); `resize`, how a classifier
    comes to its size: the length in pixels to which the shorter side is brought before the centre is cut out, or
    `stretch` without regard to the picture's shape; `interpolation` (spec.INTERPOLATIONS), by what they are resized.
    """

    layout: str = ""
    normalize: str = ""
    io: str = ""
    resize: str = ""
    interpolation: str = ""

    def __post_init__(self) -> None:
        for flag, known in KNOWN.items():
            if (value := getattr(self, flag)) and value not in known:
                raise UsageError(f"--{flag} {value!r} is not one of {', '.join(known)}", hint="see edgeinfer export -h")
        if self.resize not in ("", STRETCH) and not (self.resize.isdecimal() and len(self.resize) <= 5):
            raise UsageError(
                f"--resize {self.resize!r} is neither a length in pixels nor {STRETCH}", hint="for example --resize 232"
            )

    def pictures(self, usual: Preprocess) -> Preprocess:
        """A classifier's preprocessing: the usual one, but for what was told. Raises UsageError."""
        told = dataclasses.replace(usual, interpolation=self.interpolation or usual.interpolation)
        if self.normalize:
            scale, mean, std = NORMALIZE[self.normalize]
            told = dataclasses.replace(told, scale=scale, mean=mean, std=std)
        try:
            if self.resize == STRETCH:
                return dataclasses.replace(told, fit="stretch", resize=0)
            return dataclasses.replace(told, fit="resize-crop", resize=int(self.resize)) if self.resize else told
        except SpecError as error:
            raise UsageError(f"--resize: {error}", hint="say the length before the crop, or stretch") from error

    def check_detector(self, name: str, *only: str) -> None:
        """UsageError where a fact that a classifier has, and `only` it, was told of a detector."""
        flags = [f"--{fact}" for fact in ("resize", "interpolation", *only) if getattr(self, fact)]
        if flags:
            raise UsageError(f"{', '.join(flags)} is for classifiers, {name} is a detector", hint="leave it out")

    def check_classifier(self, name: str) -> None:
        """UsageError where a layout was told of a checkpoint whose output has but one."""
        if self.layout:
            raise UsageError(f"--layout is for detectors with two heads, {name} is a classifier", hint="leave it out")


UNTOLD = Told()
