"""Plain text for people: aligned columns, counted words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.results import Result


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "  ") -> str:
    """Rows of cells as lines; the columns in `right` are numbers. What steers a terminal is left out."""
    rows = [["".join(filter(str.isprintable, cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[place]) if place in right else cell.ljust(widths[place]) for place, cell in enumerate(row)
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def line(text: str) -> str:
    """On one line and without what steers a terminal: names in messages come from files, and need not be UTF-8."""
    return "".join(filter(str.isprintable, " ".join(text.encode(errors="backslashreplace").decode().split())))


def counted(number: int, word: str) -> str:
    """`1 bus`, `2 buses`, `4 persons`."""
    if number == 1:
        return f"1 {word}"
    return f"{number} {word}{'es' if word.endswith(('s', 'x', 'z', 'ch', 'sh')) else 's'}"


def summary(result: Result) -> str:
    """What was found in a picture, in a few words."""
    if result.task == "classify":
        return line(", ".join(f"{label} {score:.2f}" for score, label in list(result)[:5]))
    tally: dict[str, int] = {}
    for class_id in result.class_ids:
        label = result.labels[class_id]
        tally[label] = tally.get(label, 0) + 1
    return line(", ".join(counted(number, label) for label, number in tally.items())) or "nothing found"


def size(bytes_: float) -> str:
    """`7.5 MB`."""
    for unit in ("B", "kB", "MB"):
        if bytes_ < 1000:
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} GB"
