"""timm's config.json, which lies beside its weights on the Hugging Face hub: how pictures are prepared for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import ExportError, SpecError
from edgeinfer.spec import MAX_SIDE, Size
from edgeinfer_export import modeltree
from edgeinfer_export.told import NORMALIZE, STRETCH

if TYPE_CHECKING:
    from pathlib import Path

NAME = "config.json"
# what timm calls its weights there; of other files in the folder it says nothing
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MAX_BYTES = 1 << 20
# how pictures come to their size, as timm calls it
MODES = ("center", "squash")
# how a ResNet's features are pooled: timm calls the mean by two names
POOLS = ("avg", "fast")
# how they are resized: by what timm calls so, and by what is its usual where nothing is said
INTERPOLATIONS = {"bicubic": "cubic-antialias", "bilinear": "linear-antialias", "": "cubic-antialias"}
OTHERWISE = "say it with --resize, --interpolation and --normalize, and take config.json away"


@dataclass(frozen=True)
class Config:
    """What timm says of a model: its name and licence, its size, what share of the resized picture the crop is.

    `normalize` and `interpolation` are as `Told` has them.
    """

    architecture: str
    size: Size
    crop: float
    stretch: bool
    normalize: str
    interpolation: str
    license: str

    def told(self, size: Size) -> dict[str, str]:
        """How pictures come to a model of this size, as `Told` has it; timm rounds down."""
        resize = STRETCH if self.stretch else str(int(max(size.height, size.width) / self.crop))
        return {"resize": resize, "normalize": self.normalize, "interpolation": self.interpolation}


def beside(weights: Path) -> Config | None:
    """The config.json in the folder of the weights, if it is there and timm's. Raises ExportError."""
    path = weights.parent / NAME
    if weights.name not in WEIGHTS:
        return None
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("pretrained_cfg"), dict):
        return None
    try:
        return _config(value["pretrained_cfg"], value)
    except (KeyError, TypeError, ValueError, OverflowError, SpecError) as error:
        message = f"{path} is timm's, but for its preprocessing: {str(error)[:200]}"
        raise ExportError(message, hint=OTHERWISE) from error


def _config(facts: dict[str, Any], model: dict[str, Any]) -> Config:
    """KeyError, TypeError, ValueError, OverflowError or SpecError where a fact is missing or makes no sense."""
    channels, height, width = facts["input_size"]
    interpolation = facts.get("interpolation") or ""
    crop, mode = float(facts["crop_pct"]), facts.get("crop_mode") or "center"
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    normalize = next((name for name, row in NORMALIZE.items() if row[1:] == (mean, std)), "")
    sides = [side for side in (height, width) if type(side) is int and side <= MAX_SIDE]
    for fact, sound, found in (
        ("input_size", channels == 3 and len(sides) == 2, facts["input_size"]),
        ("crop_pct", 0.1 <= crop <= 1, crop),
        ("crop_mode", mode in MODES, mode),
        ("crop_pct of squashed pictures", mode != "squash" or crop == 1, crop),
        ("interpolation", interpolation in INTERPOLATIONS, interpolation),
        ("mean and std", bool(normalize), (mean, std)),
        ("global_pool", model.get("global_pool", "avg") in POOLS, model.get("global_pool")),
    ):
        if not sound:
            raise ValueError(f"{fact} is {found}")
    named, licensed = (modeltree.line(one) for one in (model.get("architecture"), facts.get("license")))
    how = INTERPOLATIONS[interpolation]
    return Config(named, Size(height, width), crop, mode == "squash", normalize, how, licensed)
