"""Which pictures calibrate int8, and which are held out to judge every artifact by: told apart by what is in them."""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer import datasets
from edgeinfer.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.datasets import Dataset, Sample
    from edgeinfer.spec import ModelSpec

LEAST = 100
# of a folder without pictures to judge by, one in so many is held out
SHARE = 5
# more than this tells calibration and the gate nothing new
MOST = 500


@dataclass(frozen=True)
class Sources:
    """What the user gives: pictures to `calibrate` with, labelled or not, and others to judge by; empty for none.

    `few`: fewer than 100 to calibrate with are enough.
    """

    calibrate: str = ""
    heldout: str = ""
    few: bool = False


PACKAGED = Sources()


@dataclass(frozen=True)
class Pictures:
    """Data sets without a picture in common; `calibration` is None if none was given."""

    calibration: Dataset | None
    heldout: Dataset


@contextmanager
def pictures(sources: Sources, spec: ModelSpec) -> Iterator[Pictures]:
    """The pictures for a model of this spec; those in the package judge where none are given.

    Raises DatasetError, ExportError.
    """
    given = datasets.read(sources.calibrate, spec) if sources.calibrate else None
    if given is not None:
        _check_count(given, sources)
    if sources.heldout:
        heldout = datasets.read(sources.heldout, spec)
        yield Pictures(given and given.spread(MOST), heldout.spread(MOST))
    elif given is not None:
        yield split(given)
    else:
        with resources.as_file(resources.files("edgeinfer_export") / "assets") as folder:
            packaged = sorted(Path(folder).glob("*.jpg"))
            yield Pictures(None, datasets.unlabelled(Path(folder), packaged, spec.labels))


def _check_count(given: Dataset, sources: Sources) -> None:
    least = 2 if sources.few else LEAST
    if len(given) < least:
        hint = "add pictures like those the model will see"
        raise ExportError(
            f"{sources.calibrate} holds {len(given)} pictures, expected {least} or more to calibrate with",
            hint=hint if sources.few else f"{hint}, or say --few-calibration-images",
        )


def split(dataset: Dataset) -> Pictures:
    """One picture in five held out: those whose files' hashes come first, wherever they lie and however they are named.

    The same picture under two names is on one side only.
    """
    hashes = {sample: hashlib.sha256(sample.path.read_bytes()).digest() for sample in dataset.samples}
    ranked = sorted(set(hashes.values()))
    out = set(ranked[: max(1, len(ranked) // SHARE)])
    parts: list[tuple[Sample, ...]] = [
        tuple(sample for sample in dataset.samples if (hashes[sample] in out) == held) for held in (False, True)
    ]
    if not parts[0]:
        raise ExportError(f"{dataset.path} holds one picture many times", hint="calibrate with different pictures")
    rest, heldout = (dataclasses.replace(dataset, samples=part).spread(MOST) for part in parts)
    return Pictures(rest, heldout)
