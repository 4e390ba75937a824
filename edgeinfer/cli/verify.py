"""`edgeinfer verify`: the hashes of a bundle, and its golden samples on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer.cli import _choosing, _tables
from edgeinfer.errors import BundleError, EdgeInferError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from edgeinfer.bundle import Bundle
    from edgeinfer.ladder import Rung

HELP = "check a bundle's files, and that this machine finds what it should in its golden samples"
EXAMPLE = "edgeinfer verify engines/yolov5s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    _choosing.add_device(parser)


def run(args: argparse.Namespace) -> int:
    from edgeinfer import machine
    from edgeinfer.bundle import Bundle

    bundle, gpu = Bundle.open(args.bundle), machine.ordinal(args.device)
    checks = faults = 0
    for name, fault, detail in _checks(bundle, gpu):
        checks, faults = checks + 1, faults + bool(fault)
        print(f"{'wrong' if fault else 'ok':5}  {_tables.line(f'{name}: {fault or detail}')}", flush=True)
    if faults:
        raise BundleError(
            f"{bundle.path} is not sound: {faults} of {checks} checks failed", hint="copy or export it again"
        )
    samples = "" if bundle.spec.golden else "; it has no golden samples, so nothing was run"
    print(f"{bundle.path} is sound: {_tables.counted(checks, 'check')} passed{samples}")
    return 0


def _checks(bundle: Bundle, gpu: int | None) -> Iterator[tuple[str, str, str]]:
    """(what, its fault or nothing, detail) of every check: files first, then golden samples as they run here."""
    sound = True
    for artifact in bundle.spec.artifacts:
        try:
            bundle.artifact_file(artifact)
            yield artifact.file, "", "sha256 as recorded"
        except BundleError as error:
            sound = False
            yield artifact.file, str(error), ""
    if sound and bundle.spec.golden:
        yield from _golden(bundle, gpu)


def _golden(bundle: Bundle, gpu: int | None) -> Iterator[tuple[str, str, str]]:
    """Every golden sample on every rung that can run here, each file once; what passes is no longer quarantined."""
    from edgeinfer import ladder, loading
    from edgeinfer.plans import Choice

    runnable: dict[str, Rung] = {}
    rungs = list(ladder.climb(bundle, quarantine=False, gpu=gpu))
    for rung in rungs:
        if rung.artifact and not rung.reason:
            runnable.setdefault(rung.artifact.file, rung)
    if not runnable:
        raise ladder.nothing_runs(bundle, rungs)
    for file, rung in runnable.items():
        where = f"on {rung.backend} {file}"
        try:
            for report in loading.examine(bundle, Choice.of(rung), gpu or 0):
                yield f"{report.image} {where}", "" if report.passed else report.detail, report.detail
        except EdgeInferError as error:
            yield where, str(error), ""
