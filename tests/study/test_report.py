"""The report: whole from whatever there is, and it says what is missing."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adastate.study import report, report_page
from adastate.study.table import read_table
from tests.support.made_study import study


def full(folder: Path) -> Path:
    """A report of three arms in two seeds, one with states."""
    none = {"places": ("past -1", "own 0"), "shares": (0.5, 0.5)}
    return report.write_report(
        study(folder, seeds=2, state={"state": True}, none=none, detached={}), read_table(), "short"
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("full"))


@pytest.mark.slow
def test_a_page_that_needs_nothing_beside_it(page: Path) -> None:
    text = page.read_text()
    HTMLParser().feed(text)
    assert not re.search(r'(?:src|href)="(?!data:)', text), "everything is inside"
    assert text.count("data:image/svg+xml") >= 8 and text.count("data:image/png") == 3
    for word in ("Dynamics against drift at 6x", "Memory at 2x-6x", "2 of 8 seeds", "What is missing"):
        assert word in text, word
    assert "static (seed 0, 1, 2, 3, 4, 5, 6, 7)" in text and "state (seed 2, 3" in text
    notes = page.with_name("report.md").read_text()
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", notes):
        assert (page.parent / picture).is_file(), picture
    widths = {
        len(row.split("|")) for row in notes.split("## Claims")[1].split("## ")[0].splitlines() if row.startswith("|")
    }
    assert len(widths) == 1, "rows of a table are equally long"


@pytest.mark.slow
def test_memory_is_told_with_its_baselines_and_experiments_with_what_was_done(tmp_path: Path) -> None:
    row = {"deed": "swap", "hidden": 9, "slope": 0.5, "error": 0.3, "hold": 0.3, "mean": 0.1, "donor_error": 0.02}
    kept = {"occlusions": [{**row, "appeared": 1.0}]}
    page = report.write_report(study(tmp_path, state=kept, none={"slope": 0.0}), read_table(), "short")
    told = page.with_name("report.md").read_text()
    rows = told.split("## Memory at 2x-6x")[1].split("## ")[0]
    assert re.search(r"\| state \| 3 \| (1\.0|0\.9)\d* \[0\.9", rows), rows
    assert re.search(r"\| none \| 3 \| -?0\.0", rows)
    for name in ("a constant hue", "the mean distance", "an unrelated hue", "the teacher", "true flights"):
        assert name in rows, name
    done = told.split("## Experiments in the fog")[1].split("## ")[0]
    assert re.search(r"\| state \| swap \| 9 \| 0\.[45]\d* \[", done), done
    assert "half forgotten after" in told


def test_a_hostile_text_stays_text() -> None:
    told = "</p><script>alert(1)</script>{{ 7 * 191 }}\"'&amp;"
    picture = report_page.Picture(f"{told}.png", b"x")
    blocks = [report_page.ReportBlock(told, told, ((told,), [(told,)])), report_page.ReportBlock(picture=picture)]
    text = report_page.page(blocks)
    assert "<script" not in text and "1337" not in text and html.unescape(text).count(told) == 5


def test_the_report_of_nothing_but_real_flights(tmp_path: Path) -> None:
    page = report.write_report(study(tmp_path), read_table(), "short")
    assert "0 of 24 runs measured" in page.read_text()


@pytest.mark.slow
def test_the_same_numbers_make_the_same_report(page: Path, tmp_path: Path) -> None:
    assert full(tmp_path).read_text() == page.read_text()
