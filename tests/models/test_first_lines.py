"""A file that computes what a plain function computes says so in its first line, and names the test that proves it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "adastate/models"
BACKWARD = {path for path in FOLDER.rglob("*.py") if "(torch.autograd.Function)" in path.read_text()}
OTHERS = {FOLDER / name for name in ("wan/fused.py", "engine.py", "linear.py")}
FAST = sorted(str(path.relative_to(ROOT)) for path in BACKWARD | OTHERS)


@pytest.mark.parametrize("file", FAST)
def test_its_first_line_names_what_it_equals_and_where_that_is_tested(file: str) -> None:
    first = (ROOT / file).read_text().splitlines()[0]
    told = re.fullmatch(r'"""Equals .+: (tests/[\w/]+\.py)\.', first)
    assert told, first
    assert re.search(rf"^from adastate\.models.*\b{Path(file).stem}\b", (ROOT / told[1]).read_text(), re.M)
