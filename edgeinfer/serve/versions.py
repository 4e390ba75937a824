"""Versions of a model: a bundle as it was when it was opened, with the classifier of its boxes if there is one."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer import golden
from edgeinfer.bundle import SPEC_FILE, Bundle, sha256_of
from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.serve.faces import FACES, INSPECTED
from edgeinfer.serve.station import Station
from edgeinfer.serve.tally import Tally
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.pipeline import Pipeline
    from edgeinfer.serve.limits import Limits
    from edgeinfer.spec import ModelSpec

# of each file in the folders of a model: path, size, time of change and inode
State = tuple[tuple[Path, int, int, int], ...]


class Options(NamedTuple):
    """How bundles are opened.

    `classify` is the classifier that says more of what is in the boxes of every detector; it is opened as
    `edgeinfer run --classify` opens it.
    """

    backend: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    threads: int = 0
    contexts: int = 1
    conf: float | None = None
    iou: float | None = None
    classify: Path | None = None


class Part(NamedTuple):
    """The model, or the classifier of its boxes: the bundle, what runs it, and its golden samples as it was opened.

    The folder may hold another bundle later.
    """

    bundle: Bundle
    pipeline: Pipeline
    samples: Sequence[bytes]

    def test(self) -> None:
        """The golden samples; a bundle that has none must bear a grey picture. EngineError if they are not found."""
        if not self.bundle.spec.golden:
            self.pipeline(np.full((64, 64, 3), 114, np.uint8))
            return
        artifact = self.bundle.spec.artifact(self.pipeline.artifact)
        precision = artifact.precision if artifact else "fp32"
        for report in golden.check(self.pipeline, self.bundle, precision, self.samples):
            if not report.passed:
                told = f"golden sample {report.image} of {self.bundle.spec.name}: {report.detail}"
                raise EngineError(told, hint="export the bundle again")


class Version:
    """A model as it was opened: its parts, the station where they work, and a face and a tally for each name."""

    def __init__(self, number: int, digest: str, parts: Sequence[Part], station: Station) -> None:
        self.number, self.digest, self.parts, self.station = number, digest, parts, station
        self.faces = {suffix: face(self.spec) for suffix, face in (INSPECTED if self.inspects else FACES).items()}
        self.tallies = {suffix: Tally() for suffix in self.faces}
        self.fault = ""

    @property
    def spec(self) -> ModelSpec:
        return self.station.pipeline.spec

    @property
    def inspects(self) -> bool:
        """Whether a classifier says more of what is in its boxes."""
        return len(self.parts) > 1

    @property
    def runs_on(self) -> str:
        """Backend and artifact, for people."""
        sight = self.station.sight
        return f"{sight.backend} {sight.artifact}".strip()

    def test(self) -> None:
        """Run the golden samples; EngineError if they are not found."""
        for part in self.parts:
            part.test()

    def __str__(self) -> str:
        golden = sum(len(part.bundle.spec.golden) for part in self.parts)
        tested = f"{golden} golden samples passed" if golden else "it has no golden samples"
        return f"{self.runs_on}, {tested}"


def cause(error: Exception) -> str:
    """Why a version cannot be served, in a line; an engine may fail in ways nobody foresaw."""
    own = isinstance(error, (EdgeInferError, OSError))
    return as_text(str(error) if own else f"{type(error).__name__}: {error}".rstrip(": "))


def as_text(told: str) -> str:
    """The same as it may be sent: what files are called need not be UTF-8."""
    return told.encode(errors="backslashreplace").decode()


def digest(folder: Path, classify: Path | None) -> str:
    """What tells one version of a folder from another, with the classifier's if it uses it; empty if there is none."""
    from edgeinfer import modeljson

    file = folder / SPEC_FILE
    try:
        own = sha256_of(file)
        if classify and modeljson.read(file).task == "detect":
            own += sha256_of(classify / SPEC_FILE)
    except (OSError, EdgeInferError):
        return ""
    return own


def state(folder: Path, classify: Path | None) -> State:
    """What tells one state of a version's files from another without reading them."""
    found = []
    for path in filter(None, (folder, classify)):
        for root, _, names in os.walk(path):
            for name in names:
                file = Path(root, name)
                with suppress(OSError):  # it was renamed meanwhile
                    facts = file.stat()
                    found.append((file, facts.st_size, facts.st_mtime_ns, facts.st_ino))
    return tuple(sorted(found))


def check_whole(folder: Path, classify: Path | None) -> None:
    """EdgeInferError or OSError if a file that the version needs or may need is missing or cut off."""
    bundle = Bundle.open(folder)
    bundle.verify()
    if classify and bundle.spec.task == "detect":
        Bundle.open(classify).verify()


def opened(number: int, digest: str, folder: Path, options: Options, limits: Limits) -> Version:
    """Open what is in the folder, and test it. Raises EdgeInferError, and leaves nothing open then."""
    from edgeinfer.loading import load

    bundle = Bundle.open(folder)
    facts: dict[str, Any] = {"threads": options.threads, "contexts": options.contexts, "device": options.device}
    first, score = facts, None
    if isinstance(bundle.spec.decode, Boxes):
        conf, score = _confidence(bundle, options.conf)
        first = {**facts, "conf": conf, "iou": options.iou}
    with ExitStack() as stack:
        pipeline = stack.enter_context(load(bundle, options.backend, options.precision, **first))
        parts, sight = [Part(bundle, pipeline, golden.files(bundle))], None
        if options.classify and bundle.spec.task == "detect":
            from edgeinfer.cascade import Cascade

            second = Bundle.open(options.classify)
            facts["contexts"] = pipeline.contexts
            parts.append(Part(second, stack.enter_context(load(second, **facts)), golden.files(second)))
            sight, score = Cascade(pipeline, parts[1].pipeline, score=score or 0.0), None
        for part in parts:
            part.test()
        stack.pop_all()
    return Version(number, digest, parts, Station(pipeline, limits, sight=sight, score=score))


def _confidence(bundle: Bundle, asked: float | None) -> tuple[float, float | None]:
    """What a detector is opened with, and the score below which nothing is served, where that is another.

    Golden samples may be recorded below the confidence that is served; boxes below it hide none above it.
    """
    assert isinstance(bundle.spec.decode, Boxes)
    score = bundle.spec.decode.score if asked is None else asked
    lowest = golden.lowest_score(bundle.spec)
    conf = score if lowest is None else min(score, lowest)
    return conf, (None if conf == score else score)
