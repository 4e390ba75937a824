"""Which libraries here are older than what edgeinfer's own metadata asks for."""

from __future__ import annotations

import re
from importlib import metadata

from edgeinfer.cli._findings import NOTE, Finding
from edgeinfer.machine import versions

_BOUND = re.compile(r"([\w.-]+)[^;]*?>=([\d.]+)")


def older() -> list[Finding]:
    """One finding for each; where extras differ in what they ask for, the least counts."""
    try:
        asked = [found for found in map(_BOUND.match, metadata.requires("edgeinfer") or ()) if found]
    except metadata.PackageNotFoundError:  # it runs from its source
        return []
    findings = []
    for name, installed in versions(*dict.fromkeys(found[1] for found in asked)).items():
        least = min((found[2] for found in asked if found[1] == name), key=_order)
        if _order(installed) < _order(least):
            text = f"{name} {installed} is older than {least}, the oldest that edgeinfer is tested with"
            findings.append(Finding("versions", NOTE, text, f'pip install "{name}>={least}"'))
    return findings


def _order(version: str) -> list[int]:
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
