"""Types of command-line arguments that refuse what cannot be meant, and the text of files that they name."""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING, Callable

from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MOST = 2**31 - 1  # of what is counted: what C's int holds


def _number(text: str, what: str, fits: Callable[[float], bool], unit: str = "") -> float:
    try:
        value = float(text.removesuffix(unit))
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def points(text: str) -> float:
    """A number from 0 to 100, with or without a percent sign."""
    return _number(text, "a number from 0 to 100", lambda value: 0 <= value <= 100, unit="%")


def above_zero(text: str) -> float:
    """A finite number above 0."""
    return _number(text, "a finite number above 0", lambda value: 0 < value < math.inf)


def count(text: str) -> int:
    """A whole number of 1 or more, which every library that is told it can hold."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST}")
    return value


def milliseconds(text: str) -> float:
    """A finite time above 0 in milliseconds, written as 200, 200ms or 0.5s."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(ms|s)?", text.strip())
    value = float(match[1]) * (1000 if match[2] == "s" else 1) if match else 0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0, such as 200ms or 0.5s")
    return value


def text(flag: str, file: Path, hint: str) -> str:
    """What is in the file that the flag names, in UTF-8; UsageError, with the hint, where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        told = f"{flag} {file} cannot be read: {getattr(error, 'strerror', '') or error}"
        raise UsageError(told, hint=hint) from error
