"""Whoever trains on very few clips is told so when the training begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules import clips
from datamodules.clips import ShardData
from datamodules.shards.few_clips import FEW, few_clips
from tests.datamodules.test_clips import write

THREE: dict[str, Any] = {
    "settings": {"pictures": 21, "stride": 1},
    "sources": {"a": {"clips": 9}, "b": {}, "c": {}, "d": {"clips": 0}},
}


@pytest.mark.parametrize(
    ("count", "index", "sentence"),
    [
        (
            95,
            THREE,
            "x has only 95 clips of 3 videos, which overlap: a network learns so few by heart and repeats them",
        ),
        (20_999, THREE, "x has only 20,999 clips of 3 videos, which overlap"),
        (1, {}, "x has only 1 clip: a network"),
        (
            FEW - 1,
            {"settings": {"pictures": 21, "stride": 21}},
            "add clips until there are 1,000 clips without overlap",
        ),
        (95, {"settings": [], "sources": "all"}, "x has only 95 clips: a network"),
    ],
)
def test_few_are_counted_and_the_remedy_is_named(count: int, index: dict[str, Any], sentence: str) -> None:
    assert sentence in few_clips(count, "x", index)


def test_enough_need_no_word() -> None:
    assert few_clips(FEW, "x", {}) == "" == few_clips(21 * FEW, "x", THREE)


@pytest.mark.parametrize("index", ["sound", "damaged"])
def test_the_sentence_comes_once_and_when_training_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(clips, "rank_zero_info", told.append)
    folder = write(tmp_path / "set", 6)
    path = Path(folder) / "index.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "sources": {"a.mp4": {}}}))
    data = ShardData(folder, batch=2)
    data.there()
    assert told == [], "who only looks at them is told nothing"
    data = ShardData(folder, batch=2)
    if index == "damaged":
        monkeypatch.setattr(clips, "read_manifest", lambda folder: few_clips_fails())
    data.setup("fit")
    data.setup("fit")
    of = " of 1 video" if index == "sound" else ""
    assert len(told) == 1 and told[0].startswith(f"[adastate] {folder} has only 6 clips{of}: a network")


def few_clips_fails() -> dict[str, Any]:
    raise clips.ShardError("x is not readable")
