"""`edgeinfer doctor`: what this machine can use, what stands in the way, and the command that helps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgeinfer.cli import _bounds, _libraries, _machine, _tables
from edgeinfer.cli._findings import NOTE, PROBLEM, Finding

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

HELP = "look at this machine: GPU, driver, libraries, what is wrong and the command that helps"
EXAMPLE = """\
edgeinfer doctor
edgeinfer doctor --json > machine.json"""
LOOKS: tuple[Callable[[], list[Finding]], ...] = (
    _machine.system,
    _machine.processor,
    _machine.memory,
    _machine.gpu,
    _machine.engines,
    _machine.jetson,
    _libraries.onnxruntime,
    _libraries.opencv,
    _libraries.optional,
    _libraries.compiler,
    _bounds.older,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object: problems, findings")


def run(args: argparse.Namespace) -> int:
    findings = [finding for look in LOOKS for finding in _seen(look)]
    problems = sum(finding.state == PROBLEM for finding in findings)
    if args.json:
        print(json.dumps({"problems": problems, "findings": [finding._asdict() for finding in findings]}))
        return 0
    rows = [(finding.state, finding.topic, finding.text) for finding in findings]
    for line, finding in zip(_tables.table(rows, indent="").splitlines(), findings):
        print(line)
        if finding.remedy:
            print(f"{'':9}{'remedy' if finding.state == PROBLEM else 'hint'}: {finding.remedy}")
    print(f"\n{_tables.counted(problems, 'problem')}" if problems else "\nno problems")
    return 0


def _seen(look: Callable[[], list[Finding]]) -> list[Finding]:
    """A look that fails is a finding too: this verb never does."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - a strange machine is what this verb is for
        return [Finding(look.__name__, NOTE, f"cannot be told: {type(error).__name__}: {error}")]
