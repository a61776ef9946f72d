"""The report as Markdown, and as a single HTML page with embedded figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from adastate.media import html_page
from adastate.runtime import atomic


@dataclass(frozen=True)
class Picture:
    """A rendered figure; `name` is its file name, whose suffix gives its type, .svg or .png."""

    name: str
    content: bytes

    @classmethod
    def of(cls, figure: Figure, name: str) -> Picture:
        """Renders and closes the figure; the same numbers give the same bytes."""
        out, kind = io.BytesIO(), Path(name).suffix[1:]
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        plt.close(figure)
        return cls(name, out.getvalue())

    @property
    def source(self) -> str:
        """As a data URL, which needs no file."""
        kind = "image/png" if self.name.endswith(".png") else "image/svg+xml"
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class ReportBlock:
    """A part of the report: any of a heading, text, table rows and a picture."""

    title: str = ""
    text: str = ""
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    picture: Picture | None = None


def markdown(blocks: Sequence[ReportBlock], pictures: Path) -> str:
    """The report as Markdown; its pictures are written to a folder beside it."""
    lines = ["# The study"]
    for block in blocks:
        lines += [f"## {block.title}"] * bool(block.title) + [block.text] * bool(block.text)
        if block.picture:
            atomic.write_bytes(pictures / block.picture.name, block.picture.content)
            title = block.title or Path(block.picture.name).stem
            lines.append(f"![{title}]({pictures.name}/{block.picture.name})")
        if block.table:
            heads, rows = block.table
            lines.append("\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)))
    return "\n\n".join(lines) + "\n"


def page(blocks: Sequence[ReportBlock]) -> str:
    """The report as one self-contained page."""
    return html_page.fill(Path(__file__).with_name("report.html.jinja"), blocks=blocks, kind=_kind)


def _kind(cell: str) -> str:
    if cell in ("reproduced", "supported"):
        return "yes"
    if cell in ("not reproduced", "refuted"):
        return "no"
    return "number" if cell[:1].isdigit() or cell[:1] == "-" else ""
