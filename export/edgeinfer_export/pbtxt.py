"""Protocol buffers in their text form: dictionaries are messages, lists repeated fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}


class Word(str):
    """The name of an enumeration's value, which stands without quotes."""

    __slots__ = ()


def text(message: Mapping[str, Any], indent: str = "") -> str:
    """The fields of a message, one a line, in their order."""
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, list):
        if value and not isinstance(value[0], dict):
            return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
        return "".join(_field(name, one, indent) for one in value)
    if isinstance(value, dict):
        return f"{indent}{name} {{\n{text(value, indent + '  ')}{indent}}}\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) and not isinstance(value, Word) else str(value)


def _quoted(value: str) -> str:
    """In quotes; what is not printable ASCII as the octal numbers of its UTF-8 bytes."""
    return '"' + "".join(_character(one) for one in value) + '"'


def _character(one: str) -> str:
    if one in ESCAPES:
        return ESCAPES[one]
    return one if one.isascii() and one.isprintable() else "".join(f"\\{byte:03o}" for byte in one.encode())
