"""Whether an engine found what it should in its bundle's golden samples, here: asked once, and remembered.

A verdict holds for one file, on one GPU, under one driver, one library and one edgeinfer. An engine that failed is
quarantined: the ladder passes it by until `edgeinfer verify` has seen it pass.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import edgeinfer
from edgeinfer import cache, machine

if TYPE_CHECKING:
    from edgeinfer.machine import Gpu
    from edgeinfer.spec import Artifact

KIND = "verdicts"


class Verdict(NamedTuple):
    """`detail` says what was not found, `when` is a date and time of day, UTC."""

    passed: bool
    detail: str
    when: str


def read(artifact: Artifact, library: str, gpu: Gpu) -> Verdict | None:
    """What is remembered of this engine; None if it was not tested here yet."""
    _, verdict = _parsed(cache.read(KIND, _name(artifact, _on(library, gpu))))
    return verdict


def failed() -> list[tuple[str, Verdict]]:
    """The files that are quarantined on this machine, of whatever bundle."""
    here = [*machine.gpu(), machine.driver()]
    found = []
    for name in cache.names(KIND):
        record, verdict = _parsed(cache.read(KIND, name))
        if verdict and not verdict.passed and record.get("on", [])[: len(here)] == here:
            found.append((str(record.get("file", "")), verdict))
    return found


def _parsed(data: bytes | None) -> tuple[dict[str, Any], Verdict | None]:
    try:
        record = json.loads(data or b"null")
        return record, Verdict(bool(record["passed"]), str(record["detail"]), str(record["when"]))
    except (ValueError, KeyError, TypeError):
        return {}, None


def write(artifact: Artifact, library: str, gpu: Gpu, faults: str) -> None:
    """Remember that this engine passed, or its faults, as far as the cache can be written."""
    verdict = Verdict(not faults, faults, datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"))
    record = {**verdict._asdict(), "file": artifact.file, "on": _on(library, gpu)}
    cache.write(KIND, _name(artifact, _on(library, gpu)), json.dumps(record).encode())


def _on(library: str, gpu: Gpu) -> list[str]:
    return [*gpu, machine.driver(), library, edgeinfer.__version__]


def _name(artifact: Artifact, on: list[str]) -> str:
    return hashlib.sha256("\n".join([artifact.sha256, *on]).encode()).hexdigest()
