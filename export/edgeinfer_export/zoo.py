"""Known models: where their authors publish the weights, and what the weights do not say themselves."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

TORCHVISION = "https://download.pytorch.org/models"
YOLOV5 = "https://github.com/ultralytics/yolov5/releases/download/v7.0"
ULTRALYTICS = "https://github.com/ultralytics/assets/releases/download/v8.3.0"
ULTRALYTICS_26 = "https://github.com/ultralytics/assets/releases/download/v8.4.0"

MOST_ALIKE = 8


@dataclass(frozen=True)
class Known:
    """A published checkpoint.

    `sha256_prefix` is what its author says the file's hash starts with, empty when nothing is said. `resize` is the
    length in pixels its pictures' shorter side was brought to before a 224 pixel crop; 0 for YOLO.
    """

    name: str
    url: str
    sha256_prefix: str
    license: str
    resize: int

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


def _resnet(name: str, sha256_prefix: str, resize: int = 256) -> Known:
    file = f"{name.removesuffix('-v2')}-{sha256_prefix}.pth"
    return Known(name, f"{TORCHVISION}/{file}", sha256_prefix, "BSD-3-Clause", resize)


def _yolo(name: str, release: str) -> Known:
    return Known(name, f"{release}/{name}.pt", "", "AGPL-3.0", 0)


ALL = (
    _resnet("resnet18", "f37072fd"),
    _resnet("resnet34", "b627a593"),
    _resnet("resnet50", "0676ba61"),
    _resnet("resnet50-v2", "11ad3fa6", 232),
    _resnet("resnet101", "63fe2227"),
    _resnet("resnet101-v2", "cd907fc2", 232),
    _resnet("resnet152", "394f9c45"),
    _resnet("resnet152-v2", "f82ba261", 232),
    *(_yolo(f"yolov5{width}{depth}", YOLOV5) for depth in ("", "6") for width in "nsmlx"),
    *(_yolo(f"yolov5{width}-cls", YOLOV5) for width in "nsmlx"),
    *(_yolo(f"yolov5{width}{depth}u", ULTRALYTICS) for depth in ("", "6") for width in "nsmlx"),
    *(_yolo(f"yolov3{kind}u", ULTRALYTICS) for kind in ("", "-spp", "-tiny")),
    *(_yolo(f"yolov8{width}{task}", ULTRALYTICS) for task in ("", "-cls") for width in "nsmlx"),
    *(_yolo(f"yolov9{width}", ULTRALYTICS) for width in "tsmce"),
    *(_yolo(f"yolov10{width}", ULTRALYTICS) for width in "nsmblx"),
    *(_yolo(f"yolo11{width}{task}", ULTRALYTICS) for task in ("", "-cls") for width in "nsmlx"),
    *(_yolo(f"yolo12{width}", ULTRALYTICS) for width in "nsmlx"),
    *(_yolo(f"yolo26{width}{task}", ULTRALYTICS_26) for task in ("", "-cls") for width in "nsmlx"),
)
_BY_NAME = {known.name: known for known in ALL}


def find(name: str) -> Known | None:
    """The published checkpoint of that name, with or without `.pt` or `.pth`."""
    return _BY_NAME.get(name.removesuffix(".pth").removesuffix(".pt"))


def published(sha256: str) -> Known | None:
    """The published checkpoint whose file has this hash, as far as its author tells it."""
    matching = (known for known in ALL if known.sha256_prefix and sha256.startswith(known.sha256_prefix))
    return next(matching, None)


def near(name: str) -> tuple[str, ...]:
    """The names most like this one, best first."""
    return tuple(get_close_matches(name, _BY_NAME, MOST_ALIKE, cutoff=0.0))
