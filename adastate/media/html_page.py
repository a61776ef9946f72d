"""HTML pages from templates that lie beside the code that fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def fill(template: Path, **values: Any) -> str:
    """The text of a page. Every value is escaped, as prompts and names may hold markup.

    Raises:
        jinja2.UndefinedError: if the template names a value that is not given.
    """
    loader = FileSystemLoader(template.parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template.name).render(values)
