"""Plain text for people: aligned columns, counted words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.results import Result

MOST_WORDS = 5


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "  ") -> str:
    """Rows of cells as lines; the columns in `right` are numbers. What steers a terminal is left out."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[place]) if place in right else cell.ljust(widths[place]) for place, cell in enumerate(row)
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Without what steers a terminal, the end of a line too."""
    return "".join(filter(str.isprintable, text))


def line(text: str) -> str:
    """On one line and without what steers a terminal: names in messages come from files, and need not be UTF-8."""
    return printable(" ".join(text.encode(errors="backslashreplace").decode().split()))


def counted(number: int, word: str) -> str:
    """`1 bus`, `2 buses`, `4 persons`."""
    if number == 1:
        return f"1 {word}"
    return f"{number} {word}{'es' if word.endswith(('s', 'x', 'z', 'ch', 'sh')) else 's'}"


def summary(result: Result) -> str:
    """What was found in a picture, in a few words."""
    if result.task == "classify":
        return line(", ".join(f"{label} {score:.2f}" for score, label in list(result)[:MOST_WORDS]))
    kinds: dict[str, list[str]] = {}
    for class_id, said in zip(result.class_ids, getattr(result, "classes", [None] * len(result))):
        # what a cascade's classifier says best of each box
        kinds.setdefault(result.labels[class_id], []).append(next(iter(said))[1] if said else "")
    return line(", ".join(_kind(label, words) for label, words in kinds.items())) or "nothing found"


def _kind(label: str, words: list[str]) -> str:
    """`2 dogs`, or with a classifier's words `2 dogs (Samoyed, beagle)`."""
    said = ", ".join(list(dict.fromkeys(filter(None, words)))[:MOST_WORDS])
    return counted(len(words), label) + (f" ({said})" if said else "")


def size(bytes_: float) -> str:
    """`7.5 MB`."""
    for unit in ("B", "kB", "MB"):
        if bytes_ < 1000:
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} GB"
