"""`adastate compare`: what it prints, and its page."""

from __future__ import annotations

import html
import io
from pathlib import Path

import pytest
from rich.console import Console

from adastate.config.systems import TRAINED, System
from adastate.evaluation.compare import MAIN, SystemResult, tables, told_apart, write_page
from adastate.evaluation.compare_command import DEFAULT
from adastate.evaluation.metrics_table import MetricsRow
from adastate.stream import StreamSpec


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_figure_is_legible_in_any_terminal(width: int) -> None:
    """No line is longer, nothing is cut, and each system's row has its figures, whatever the width."""
    systems = (TRAINED, *DEFAULT)
    rows = [MetricsRow(s, "horizon 6", {m: i + j / 1000 for j, m in enumerate(MAIN)}) for i, s in enumerate(systems)]
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


def test_a_hostile_prompt_and_a_hostile_title_stay_text(tmp_path: Path) -> None:
    prompt, title = "</h3><script>alert(1)</script>{{ 7 * 191 }}\"'&amp;", "<b>mine</b>"
    rows = [MetricsRow(title, "1x", {"change": 0.25}), MetricsRow(title, "last second of 2x", {"contrast_drift": 0.5})]
    system = System("mine", "<i>what</i> it does", StreamSpec(), 0)
    result = SystemResult(title, system, "trained & otherwise", [tmp_path / "a.mp4"], tmp_path / "strip.png", rows, 3.5)
    page = write_page(tmp_path, [result], [prompt], Path("runs/<u>"), 2).read_text()
    assert not any(tag in page for tag in ("<script", "<b>", "<i>", "<u>", "1337"))
    for told in (prompt, title, system.description, result.warning, "runs/<u>", "0.250", "contrast drift", "0.500"):
        assert told in html.unescape(page), told
    assert 'src="a.mp4"' in page and 'src="strip.png"' in page


def test_runs_are_told_apart_by_as_much_of_their_folders_as_it_takes() -> None:
    assert told_apart([Path("runs/tiny")]) == ["tiny"]
    seeds = [Path("runs/state/seed0"), Path("runs/none/seed0"), Path("runs/none/seed1")]
    assert told_apart(seeds) == ["state/seed0", "none/seed0", "none/seed1"]
    assert told_apart([Path("a"), Path("a")]) == ["a, 1", "a, 2"]
