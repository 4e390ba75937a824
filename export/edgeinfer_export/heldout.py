"""Which pictures calibrate int8, and which are held out to judge every artifact by.

Those of one data set are told apart by what is in them; two that the user gives are taken as they are.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer import datasets, sources
from edgeinfer.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from edgeinfer.datasets import Dataset
    from edgeinfer.spec import ModelSpec

LEAST = 100
# of a folder without pictures to judge by, one in so many is held out
SHARE = 5
# more than this tells calibration and the gate nothing new
MOST = 500
ENOUGH = SHARE * MOST  # of a folder to be split: either part then has as many as it may


@dataclass(frozen=True)
class Sources:
    """What the user gives: pictures to `calibrate` with, labelled or not, and others to judge by; empty for none.

    `few`: fewer than 100 to calibrate with are enough.
    """

    calibrate: str = ""
    heldout: str = ""
    few: bool = False

    def needed_for(self, precisions: Collection[str]) -> Sources:
        """What is read to make these: only int8 is calibrated, and for others all pictures judge."""
        return self if "int8" in precisions else Sources(heldout=self.heldout or self.calibrate)


PACKAGED = Sources()


@dataclass(frozen=True)
class Pictures:
    """`calibration` is None if none was given."""

    calibration: Dataset | None
    heldout: Dataset


@contextmanager
def pictures(given: Sources, spec: ModelSpec, on_error: sources.OnError = sources.refuse) -> Iterator[Pictures]:
    """The pictures for a model of this spec; those in the package judge where none are given.

    Pictures that show undecoded that they cannot be read go to `on_error`, and are left out. Raises DatasetError,
    ExportError, SourceError.
    """
    calibration = _checked(given.calibrate, spec, MOST if given.heldout else ENOUGH, on_error)
    if calibration is not None:
        _check_count(calibration, given)
    if (heldout := _checked(given.heldout, spec, MOST, on_error)) is not None:
        yield Pictures(calibration, heldout)
    elif calibration is not None:
        yield split(calibration)
    else:
        with resources.as_file(resources.files("edgeinfer_export") / "assets") as folder:
            packaged = sorted(Path(folder).glob("*.jpg"))
            yield Pictures(None, datasets.unlabelled(Path(folder), packaged, spec.labels))


def _checked(place: str, spec: ModelSpec, most: int, on_error: sources.OnError) -> Dataset | None:
    """So many pictures of the data set there, if one was given, evenly spread, less those that fail the check."""
    if not place:
        return None
    dataset = datasets.read(place, spec).spread(most)
    kept = set(sources.readable([sample.path for sample in dataset.samples], on_error, sources.check))
    return dataset.where(sample.path in kept for sample in dataset.samples)


def _check_count(calibration: Dataset, given: Sources) -> None:
    least = 2 if given.few else LEAST
    if len(calibration) < least:
        hint = "add pictures like those the model will see"
        raise ExportError(
            f"{given.calibrate} holds {len(calibration)} pictures that can be read, expected {least} or more "
            "to calibrate with",
            hint=hint if given.few else f"{hint}, or say --few-calibration-images",
        )


def split(dataset: Dataset) -> Pictures:
    """One picture in five held out: those whose files' hashes come first, wherever they lie and however they are named.

    The same picture under two names is on one side only.
    """
    hashes = [hashlib.sha256(sample.path.read_bytes()).digest() for sample in dataset.samples]
    ranked = sorted(set(hashes))
    out = set(ranked[: max(1, len(ranked) // SHARE)])
    rest, heldout = (dataset.where((one in out) == held for one in hashes) for held in (False, True))
    if not rest.samples:
        raise ExportError(f"{dataset.path} holds one picture many times", hint="calibrate with different pictures")
    return Pictures(rest.spread(MOST), heldout.spread(MOST))
