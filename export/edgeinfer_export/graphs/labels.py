"""What classes are called: given by the user, by the checkpoint, or by the data set their number tells."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from edgeinfer.errors import ExportError

DATA_SETS = {80: "coco.txt", 1000: "imagenet.txt"}


@dataclass(frozen=True)
class Names:
    """Labels by source, best first; an empty one is passed over, and numbers where the data set is known."""

    given: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    data_set: int = 0

    def of(self, classes: int) -> tuple[str, ...]:
        """One label for each class."""
        if self.given and len(self.given) != classes:
            raise ExportError(
                f"{len(self.given)} labels given, the model has {classes} classes", hint="give one label for each class"
            )
        stored = self.stored if len(self.stored) == classes else ()
        if classes == self.data_set and _placeholders(stored):
            stored = published(classes)
        return self.given or stored or tuple(f"class_{place}" for place in range(classes))


def _placeholders(labels: tuple[str, ...]) -> bool:
    """Whether they are those of a model that was never told its classes, or none."""
    return all(label in (str(place), f"class{place}") for place, label in enumerate(labels))


def published(classes: int) -> tuple[str, ...]:
    """The names of COCO's 80 or ImageNet-1k's 1000 classes."""
    file = resources.files("edgeinfer_export.graphs") / "names" / DATA_SETS[classes]
    return tuple(file.read_text(encoding="utf-8").splitlines())
