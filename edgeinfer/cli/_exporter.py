"""What the verbs that write bundles share: the exporter, found when it is called for, and lists of precisions."""

from __future__ import annotations

import importlib
from typing import Any

from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.spec import PRECISIONS


def part(name: str) -> Any:
    """The module `name` of the export pipeline; BackendUnavailable with the command that installs it."""
    try:
        return importlib.import_module(f"edgeinfer_export.{name}")
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(
            f"this needs {missing.name}, which is not installed", hint='pip install "edgeinfer[export]"'
        ) from missing


def precisions(text: str) -> tuple[str, ...]:
    """The precisions named in a list with commas, each once; none for an empty text."""
    asked = tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text else ()
    for name in asked:
        if name not in PRECISIONS:
            raise UsageError(
                f"--precision {name!r} is not one of {', '.join(PRECISIONS)}", hint="for example --precision fp16"
            )
    return asked
