"""Which ways of running a bundle this machine could try."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeinfer import backends, ladder, machine
from edgeinfer.errors import BundleError
from edgeinfer.plans import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.bundle import Bundle
    from edgeinfer.spec import Batch

# the setting that may change results
ARITHMETIC = "compute"


def reference(bundle: Bundle) -> Choice:
    """The float32 graph on ONNX Runtime, which accuracy is measured against. Raises BundleError, BackendUnavailable."""
    backends.load("ort")
    for artifact in bundle.spec.artifacts:
        if (artifact.format, artifact.precision) == ("onnx", "fp32"):
            return Choice("ort", artifact.file)
    raise BundleError(
        f"{bundle.path} holds no float32 ONNX file, so no accuracy can be measured",
        hint="export it again with --precision fp32 among others",
    )


def kinds(bundle: Bundle, gpu: int | None = None) -> list[Choice]:
    """One for each backend, artifact and arithmetic that can run here: those may differ in what they find."""
    found = []
    for rung in ladder.climb(bundle, gpu=gpu):
        if not rung.reason:
            plain = Choice.of(rung)
            found.append(plain)
            others = backends.settings(rung.backend).get(ARITHMETIC, ())[1:]
            found += [replace(plain, settings={ARITHMETIC: value}) for value in others]
    return found


def variants(kind: Choice, batch: Batch, *, many: bool) -> Iterator[Choice]:
    """The kind with every number of threads, and with every other setting of its engine one at a time.

    Where there are `many` pictures at once, also with contexts that share out the cores, and each with the powers of
    two that the model takes as a batch, beside its largest.
    """
    counts = powers(machine.cores()) if backends.load(kind.backend).device == "cpu" else []
    shapes = [replace(kind, threads=count) for count in (0, *counts)]  # 0 is the library's choice
    if many:
        shapes += [replace(kind, threads=counts[-1] // count, contexts=count) for count in counts[1:]]
    for name, values in backends.settings(kind.backend).items():
        if name != ARITHMETIC:
            shapes += [replace(kind, settings={**kind.settings, name: value}) for value in values[1:]]
    sizes = [size for size in powers(batch.max) if batch.min <= size < batch.max] if many else []
    for shape, size in itertools.product(shapes, [0, *sizes]):
        yield replace(shape, batch=size)


def powers(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most` itself."""
    return sorted({1 << place for place in range(most.bit_length())} | {most})
