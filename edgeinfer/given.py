"""Numbers as callers give them: of the right kind, or an error that names them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from edgeinfer.errors import UsageError


def check_whole(name: str, value: Any, least: int) -> None:
    """UsageError for what is no whole number, as of Python or NumPy, from `least` on."""
    _check(Integral, "whole number", name, value, least)


def check_number(name: str, value: Any, least: float = 0) -> None:
    """UsageError for what is no number from `least` on."""
    _check(Real, "number", name, value, least)


def above_zero(name: str, value: Any) -> float:
    """The value as Python's own float, which JSON holds. UsageError for what is no finite number above 0."""
    number = _real(value)
    if not 0 < number < float("inf"):
        raise UsageError(f"{name} {value!r} is not a finite number above 0")
    return number


def percent(name: str, value: Any) -> float:
    """The value as Python's own float. UsageError for what is no number from 0 to 100."""
    number = _real(value)
    if not 0 <= number <= 100:
        raise UsageError(f"{name} {value!r} is not a number from 0 to 100")
    return number


def _real(value: Any) -> float:
    """NaN, which lies within no bounds, for what is no number."""
    return float("nan") if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def _check(kind: type, told: str, name: str, value: Any, least: float) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{name} {value!r} is not a {told}")
    if not value >= least:  # type: ignore[operator]
        raise UsageError(f"{name} {value} is below {least}")
