"""Numbers in columns, for people."""

from __future__ import annotations


def aligned(rows: list[list[str]]) -> str:
    """Columns: the first to the left, the others to the right; those that hold nothing but `-` are left out."""
    columns = [column for column in zip(*rows) if not set(column[1:]) <= {"-", ""}]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns):
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def shown(value: float | None, digits: int = 3) -> str:
    """A number, or that there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
