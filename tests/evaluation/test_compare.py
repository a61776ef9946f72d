"""`adastate compare`: what it prints."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from adastate.evaluation.compare import DEFAULT, MAIN, TRAINED, tables
from adastate.evaluation.evaluate import MetricsRow


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_figure_is_legible_in_any_terminal(width: int) -> None:
    """No line is longer, nothing is cut, and each system's row has its figures, whatever the width."""
    systems = (TRAINED, *DEFAULT)
    rows = [MetricsRow(f"{s}, horizon 6", {m: i + j / 1000 for j, m in enumerate(MAIN)}) for i, s in enumerate(systems)]
    file = io.StringIO()
    for table in tables(rows, width):
        Console(file=file, width=width).print(table)
    said = file.getvalue()
    assert "…" not in said and all(len(line) <= width for line in said.splitlines())
    for word in {w for m in MAIN for w in m.split("_")}:
        assert word in said
    for i, system in enumerate(systems):
        mine = " ".join(
            line.removeprefix(f" {system} ") for line in said.splitlines() if line.startswith(f" {system} ")
        )
        for j, measure in enumerate(MAIN):
            value = i + j / 1000
            told = f"{value:.0%}" if measure in ("heading", "speed", "scene") else f"{value:.3f}"
            assert told in mine.split(), (system, measure)
