"""What `make docs` adds to docs/: the pages that lie beside it, under names of their own, and links to them.

On GitHub and in an editor `../CONTRIBUTING.md` leads to the file; on the site the same link leads to the page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BESIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tests/data/README.md": "reference/recorded_runs.md",
}
"""File from the root -> page of the site."""

LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Any, config: Any) -> Any:
    """mkdocs asks for it when it has found the files of docs/."""
    from mkdocs.structure.files import File

    for source, page in BESIDE.items():
        text = relinked((ROOT / source).read_text(encoding="utf-8"), Path(source).parent, Path(page).parent)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs asks for it with the text of every page."""
    name = page.file.src_uri
    if name in BESIDE.values():
        return markdown
    return relinked(markdown, Path("docs", name).parent, Path(name).parent)


def relinked(text: str, here: Path, there: Path) -> str:
    """A text whose links from the folder `here`, of the project, lead from the folder `there` of the site."""

    def change(match: re.Match[str]) -> str:
        file = os.path.normpath(here / match[2])
        page = BESIDE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        return f"{match[1]}{os.path.relpath(page, there)}{match[3]}" if page else match[0]

    return LINK.sub(change, text)
