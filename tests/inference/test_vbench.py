"""Names and records as VBench looks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adastate.inference.vbench import LONGEST, content_fingerprint, items, record, stem

LONG = "a very long prompt " * 30


def test_a_name_is_the_prompt_to_the_letter() -> None:
    for prompt in ("A corgi's head, Van Gogh style", "a 3D model of a house.", "snow: 50% \\ *?", "ein Bär im Schnee"):
        assert stem(prompt) == prompt


@pytest.mark.parametrize("prompt", ["and/or", "nul\0", LONG, "ä" * 200, "雪" * 100])
def test_what_a_file_system_forbids_is_replaced_and_told_by_a_hash(prompt: str, tmp_path: Path) -> None:
    name = stem(prompt)
    assert len(name.encode()) <= LONGEST and "/" not in name and "_" not in name
    assert name != stem(prompt + "!") and name == stem(prompt)
    # the longest that VBench-Long makes of it: a clip of a scene of a video
    (tmp_path / f"{name}-24-Scene-100_full.mp4").touch()
    (tmp_path / f".{name}-24.mp4.part").touch()


def test_names_that_would_meet_stay_apart() -> None:
    assert len({stem(p) for p in ("and/or", "and-or", "and\0or", LONG, LONG + "x")}) == 5


def test_every_prompt_has_its_samples_and_the_same_noise_whatever_their_number() -> None:
    few, many = items("ab", "AB", 2), items("abc", "ABC", 5)
    assert [i.name for i in few] == ["a-0.mp4", "a-1.mp4", "b-0.mp4", "b-1.mp4"]
    assert [i.told for i in few] == ["A", "A", "B", "B"]
    assert len({i.index for i in many}) == 15
    assert {i.name: i.index for i in few}.items() <= {i.name: i.index for i in many}.items()
    assert [i.index for i in many if i.name.endswith("-0.mp4")] == [0, 1, 2], "sample 0 is the plain layout's video"


def test_a_prompt_that_comes_again_is_made_once() -> None:
    assert [(i.name, i.row, i.told) for i in items("aba", "ABC", 1)] == [("a-0.mp4", 0, "A"), ("b-0.mp4", 1, "B")]


def test_records_grow_and_refuse_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "v.1.info"
    record(folder, items("a", "A", 1), {"seed": 0, "steps": (1, 2)})
    record(folder, items("ab", "AB", 1), {"seed": 0, "steps": (1, 2), "later": 3})
    assert json.loads((folder / "prompts.json").read_text()) == {"a-0.mp4": "a", "b-0.mp4": "b"}
    assert json.loads((folder / "extended.json").read_text()) == {"a-0.mp4": "A", "b-0.mp4": "B"}
    with pytest.raises(ValueError, match=r"in .*v\.1 were made with seed 0, now it is 1: .* --out"):
        record(folder, items("a", "A", 1), {"seed": 1})
    with pytest.raises(ValueError, match=r"a-0\.mp4 was made of another extended prompt"):
        record(folder, items("a", "X", 1), {"seed": 0})
    assert sorted(p.name for p in folder.iterdir()) == ["extended.json", "prompts.json", "settings.json"]


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(bytes(10**6)), b.write_bytes(bytes(10**6))
    assert content_fingerprint(a) == content_fingerprint(b)
    b.write_bytes(bytes(10**6 - 1) + b"x")
    assert content_fingerprint(a) != content_fingerprint(b)
    assert content_fingerprint(tmp_path) != content_fingerprint(a)
    assert content_fingerprint(tmp_path / "none") == str(tmp_path / "none")
