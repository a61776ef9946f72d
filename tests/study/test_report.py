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
    return report.write(study(folder, seeds=2, state={"state": True}, none=none, alpha_0={}), read_table(), "full")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("full"))


def test_a_page_that_needs_nothing_beside_it(page: Path) -> None:
    text = page.read_text()
    HTMLParser().feed(text)
    assert not re.search(r'(?:src|href)="(?!data:)', text), "everything is inside"
    assert text.count("data:image/svg+xml") >= 8 and text.count("data:image/png") == 3
    for word in ("Dynamics against drift at 6x", "Horizon weight", "2 of 3 seeds", "What is missing"):
        assert word in text, word
    assert "static (seed 0, 1, 2)" in text and "state (seed 2)" in text
    notes = page.with_name("report.md").read_text()
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", notes):
        assert (page.parent / picture).is_file(), picture
    widths = {
        len(row.split("|")) for row in notes.split("## Claims")[1].split("## ")[0].splitlines() if row.startswith("|")
    }
    assert len(widths) == 1, "rows of a table are equally long"


def test_what_fog_hides_is_told_over_all_horizons(tmp_path: Path) -> None:
    kept, lost = {"levels": {"recall": (0.1, 0.1)}}, {"levels": {"recall": (0.25, 0.25), "ground_hue": (0.0, 0.5)}}
    page = report.write(study(tmp_path, world="fog", state=kept, none=lost, none_w3=lost), read_table(), "reach")
    told = page.with_name("report.md").read_text()
    rows = told.split("## What fog hides")[1].split("##")[0]
    assert re.search(r"\| none - state \| 3 \| 0\.1[45]\d \[0\.1", rows), rows
    assert re.search(r"\| state \| 3 \| 0\.(09|10)", rows)
    assert re.search(r"\| none \| 3 \|.*\| 0\.2[67]\d \[[^|]*\] \|$", rows, re.M), (
        "and how far it has left its first view"
    )
    assert "as another; with the state it is the same. | reproduced" in told


def test_a_hostile_text_stays_text() -> None:
    told = "</p><script>alert(1)</script>{{ 7 * 191 }}\"'&amp;"
    picture = report_page.Picture(f"{told}.png", b"x")
    blocks = [report_page.ReportBlock(told, told, ((told,), [(told,)])), report_page.ReportBlock(picture=picture)]
    text = report_page.page(blocks)
    assert "<script" not in text and "1337" not in text and html.unescape(text).count(told) == 5


def test_the_report_of_nothing_but_real_flights(tmp_path: Path) -> None:
    page = report.write(study(tmp_path), read_table(), "short")
    assert "0 of 18 runs measured" in page.read_text()


def test_the_same_numbers_make_the_same_report(page: Path, tmp_path: Path) -> None:
    assert full(tmp_path).read_text() == page.read_text()
