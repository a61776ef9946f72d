"""Text files are opened as UTF-8, whatever the locale says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("adastate", "callbacks", "datamodules", "benchmarks")
OWN = ("atomic.write_text",)
"""Those that see to it themselves."""


def without_encoding(source: str) -> Iterator[int]:
    """Lines of `source` that open a text file and do not say in which encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {k.arg for k in node.keywords}
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
        text = name.endswith((".read_text", ".write_text")) and name not in OWN
        opens = name in ("open", "os.fdopen") or (name.endswith(".open") and not node.args[1:] and _is_path(node))
        if (text or (opens and not any("b" in mode for mode in modes))) and "encoding" not in words:
            yield node.lineno


def _is_path(call: ast.Call) -> bool:
    """Whether it is `path.open("r")` or the like, by its only argument; other things have an `open` as well."""
    first = call.args[0] if call.args else None
    return isinstance(first, ast.Constant) and str(first.value) in ("r", "w", "a", "r+", "w+", "a+", "x")


def test_what_is_looked_for_is_found() -> None:
    assert [*without_encoding("p.read_text()\nopen(p)\np.open('w')\nopen(p, 'rb')\np.open('wb')\nav.open(p)\n")] == [
        1,
        2,
        3,
    ]
    assert not [
        *without_encoding("p.write_text(x, encoding='utf-8')\natomic.write_text(p, x)\nopen(p, encoding='u')\n")
    ]


def test_every_text_file_is_opened_as_utf_8() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []
