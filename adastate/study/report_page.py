"""The report as Markdown, and as one page of HTML with its figures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from adastate.study import plots


@dataclass(frozen=True)
class ReportBlock:
    """A part of the report: a heading, text, rows of a table, a picture; whatever of these there is."""

    title: str = ""
    text: str = ""
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    picture: tuple[str, bytes] | None = None  # name, content


def markdown(blocks: Sequence[ReportBlock], pictures: Path) -> str:
    """As Markdown; its pictures are written into a folder beside it."""
    lines = ["# The study", ""]
    for block in blocks:
        if block.title:
            lines += [f"## {block.title}", ""]
        if block.text:
            lines += [block.text, ""]
        if block.picture:
            path = plots.save(pictures, *block.picture)
            lines += [f"![{block.title or block.picture[0]}]({pictures.name}/{path.name})", ""]
        if block.table:
            heads, rows = block.table
            lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
            lines += [f"| {' | '.join(row)} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def page(blocks: Sequence[ReportBlock]) -> str:
    """As one page that needs nothing beside it."""
    parts = []
    for block in blocks:
        if block.title:
            parts.append(f"<h2>{escape(block.title)}</h2>")
        if block.text:
            parts.append(f"<p>{escape(block.text)}</p>")
        if block.picture:
            name, content = block.picture
            kind = "png" if content[:4] == b"\x89PNG" else "svg+xml"
            data = base64.b64encode(content).decode()
            parts.append(f'<img alt="{escape(block.title or name)}" src="data:image/{kind};base64,{data}">')
        if block.table:
            parts.append(_html(*block.table))
    return PAGE.format("\n".join(parts))


def _html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(
        "<tr>" + "".join(f'<td class="{_kind(cell)}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _kind(cell: str) -> str:
    if cell in ("reproduced", "supported"):
        return "yes"
    if cell in ("not reproduced", "refuted"):
        return "no"
    return "number" if cell[:1].isdigit() or cell[:1] == "-" else ""


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The study</title><style>
body {{ font: 15px/1.5 Georgia, serif; color: #111; max-width: 1080px; margin: 32px auto; padding: 0 24px; }}
h1, h2, th {{ font-family: system-ui, sans-serif; }} h2 {{ font-size: 18px; margin: 36px 0 8px; }}
p {{ max-width: 76ch; }} img {{ max-width: 100%; display: block; margin: 8px 0; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: 12.5px; margin: 8px 0; }}
th, td {{ padding: 3px 10px 3px 0; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top; }}
th {{ border-bottom: 1.5px solid #111; }} td.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.yes {{ font-weight: bold; }} td.no {{ font-weight: bold; text-decoration: underline; }}
@media print {{ body {{ margin: 0; max-width: none; font-size: 11px; }} table {{ font-size: 8px; }} }}
</style><h1>The study</h1>
{}
</html>
"""
