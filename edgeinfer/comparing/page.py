"""A comparison as one HTML page: no script, no network; the first pictures are in it."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from edgeinfer import pictures
from edgeinfer.profiling.page import document

if TYPE_CHECKING:
    from edgeinfer.comparing.comparison import Comparison

PICTURES, QUALITY = 12, 85
EXTRA = """main{max-width:1400px}img{max-width:100%;height:auto;border-radius:6px}.wide{overflow-x:auto}
.wide table{table-layout:auto;width:auto;min-width:100%}
.wide td,.wide th{width:auto;max-width:none;white-space:nowrap;overflow-wrap:normal}
.wide td,.wide th{padding-right:18px;text-align:left}
@media(max-width:600px){section{overflow-x:auto}img{max-width:none;width:240vw}}"""


def render(comparison: Comparison) -> str:
    """The table, what agrees, and the pictures side by side."""
    known = [column for column in zip(*comparison.rows()) if not set(column[1:]) <= {"-"}]
    head, *rows = zip(*known)
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>{cells}</table>"
    words = "".join(f"<p>{escape(line)}</p>" for line in comparison.words())
    title = " and ".join(dict.fromkeys(model.name for model in comparison.models))
    shown = comparison.pictures[:PICTURES]
    drawn = "".join(_picture(comparison, place) for place in range(len(shown)))
    more = len(comparison.pictures) - len(shown)
    rest = f"<p>and {more} more pictures</p>" if more > 0 else ""
    top = f'<header><h1>{escape(title)}</h1></header><section class="wide">{table}</section>'
    return document(f"{title} compared", f"{top}<section>{words}</section>{drawn}{rest}", EXTRA)


def _picture(comparison: Comparison, place: int) -> str:
    name = escape(comparison.pictures[place].name)
    data = pictures.encode(comparison.side_by_side(place), ".jpg", QUALITY)
    text = base64.b64encode(data).decode("ascii")
    image = f'<img alt="{name} as each model sees it" src="data:image/jpeg;base64,{text}">'
    return f"<section><h2>{name}</h2>{image}</section>"
