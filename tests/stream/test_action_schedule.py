"""A schedule of actions: what is held from when on, and what is no schedule."""

from __future__ import annotations

import pytest
import torch

from adastate.stream.action_schedule import KEYS, WORDS, action_rows, held_keys, label, label_of, parse_actions
from datamodules.worlds.flight import camera_path

STARTS = [0.0, 0.375, 0.75, 1.125]


def keys(text: str) -> str:
    (cue,) = parse_actions([text])
    return "".join(k for k in KEYS if k in cue.keys)


def test_the_keys_are_those_of_the_flight_world_in_its_order() -> None:
    assert KEYS == camera_path.KEYS


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("straight", ""),
        ("left", "a"),
        ("Left + climb", "ai"),
        ("hover", "ws"),
        ("look  back", "jl"),
        ("right+look left+slower", "sdj"),
        ("a", "a"),
        ("w+i", "wi"),
        ("0s: w + sink", "wk"),
        (" 0 s :straight", ""),
    ],
)
def test_words_and_keys_are_read(text: str, held: str) -> None:
    assert keys(text) == held


def test_what_is_held_is_told_by_keys_or_words() -> None:
    assert held_keys("ia") == held_keys("left+climb") == "ai" and held_keys("") == ""
    with pytest.raises(ValueError, match="actions are a text, the keys that are held or words for them, and not 3"):
        held_keys(3)


def test_every_word_has_a_meaning_of_its_own() -> None:
    assert len({frozenset(k) for k in WORDS.values()}) == len(WORDS)
    assert set("".join(WORDS.values())) == set(KEYS)


def test_actions_hold_from_the_first_frame_that_starts_then_or_later() -> None:
    found = action_rows(parse_actions(["0s: straight", "0.4s: left", "1.125s: a+climb"]), STARTS, 8)
    assert [label(row[None]) for row in found[0]] == ["-", "-", "a", "ai"]
    assert found.shape == (1, 4, 8) and found.unique().tolist() == [0.0, 1.0]
    one = action_rows(parse_actions(["left"]), STARTS, 8)
    assert torch.equal(one, action_rows(parse_actions(["0s: left"]), STARTS, 8)) and label(one[0]) == "a"


def test_a_chunk_is_named_by_what_its_frames_hold() -> None:
    found = action_rows(parse_actions(["0s: straight", "0.4s: left", "1.1s: a+climb"]), STARTS, 8)
    assert label_of(found, 0, 2) == "-" and label_of(found, 1, 3) == "- a ai" and label_of(found, 9, 3) == "ai"


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (["up"], r"'up' asks for 'up': actions are straight, left, .*look back, or the keys w, a, s, d, i, j, k, l"),
        (["0s: left+"], "asks for ''"),
        (["0s: left", "right"], "the actions 'right' have no time"),
        (["1s: left"], "the first actions begin at 1s"),
        (["-1s: left"], "the first actions begin at -1s"),
        (["0s: left", "2s: right", "2s: climb"], "2s stands after 2s: the times of actions must rise"),
    ],
)
def test_what_is_no_schedule_is_told(schedule: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_actions(schedule)


def test_what_does_not_fit_the_stream_is_told_and_a_preview_leaves_it_out() -> None:
    late = parse_actions(["0s: left", "1.4s: right"])
    with pytest.raises(ValueError, match=r"the actions at 1\.4s come after the end"):
        action_rows(late, STARTS, 8, seconds=1.5)
    assert label(action_rows(late, STARTS, 8)[0]) == "a"
    with pytest.raises(ValueError, match=r"at 0\.5s fall to the same latent frame .* starts at 0\.75s"):
        action_rows(parse_actions(["0s: left", "0.4s: right", "0.5s: left"]), STARTS, 8, seconds=1.5)
    with pytest.raises(ValueError, match="this network is steered by 4 actions, w, a, s, d, and not by i"):
        action_rows(parse_actions(["climb"]), STARTS, 4)
