"""Long JSON, read a piece at a time: between two of them other threads have their turn, which json leaves them none."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from json import decoder, scanner
from typing import Any

import numpy as np

from edgeinfer.serve import tensors

PIECE = 1 << 16  # characters, which are read within some milliseconds
_NUMBERS = re.compile(r"[-+.0-9eE,\sInfityNa]*")
_AT_ONCE = json.JSONDecoder()


def loads(text: bytes) -> Any:
    """What `json.loads` gives, but a long list of numbers is an array, as are the rows of one of lists of numbers.

    Raises ValueError, RecursionError.
    """
    return _Pieces().decode(text.decode(json.detect_encoding(text), "surrogatepass"))


class _Pieces(json.JSONDecoder):
    """Python walks through lists that are longer than a piece; what is shorter, C reads as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.parse_array = self._list
        self.scan_once: Any = scanner.py_make_scanner(self)  # type: ignore[attr-defined]
        self._start, self._window = 0, ""

    def _list(self, place: tuple[str, int], scan_once: Any) -> tuple[Any, int]:
        """The list whose bracket is before this place in a text, and where it ends."""
        text, at = place
        with suppress(ValueError):
            return self._short(text, at - 1)
        numbers = []
        while (comma := text.rfind(",", at, _NUMBERS.match(text, at, at + PIECE).end())) >= at:  # type: ignore[union-attr]
            numbers.append(np.asarray(json.loads(f"[{text[at:comma]}]")))
            at = comma + 1
        rest, end = decoder.JSONArray((text, at), scan_once)  # type: ignore[attr-defined]
        if not numbers:
            return [_row(value) for value in rest], end
        if not rest or not all(map(len, numbers)):
            raise json.JSONDecodeError("Illegal comma in an array", text, at)
        if all(isinstance(value, (int, float)) for value in rest):
            return np.concatenate([*numbers, np.asarray(rest)]), end
        return [*np.concatenate(numbers).tolist(), *rest], end

    def _short(self, text: str, at: int) -> tuple[Any, int]:
        """The list that begins here, and its end. ValueError if it is too long, or none."""
        if not self._start <= at < self._start + len(self._window) // 2:
            self._start, self._window = at, text[at : at + 2 * PIECE]
        value, end = _AT_ONCE.raw_decode(self._window, at - self._start)
        return value, self._start + end


def _row(value: Any) -> Any:
    """A list of numbers, or of lists of them, as an array, if it is regular."""
    if isinstance(value, list) and value and tensors.only_numbers(value):
        with suppress(ValueError):
            return np.asarray(value)
    return value
