"""A schedule of prompts: which chunk a prompt begins with, what it does to the cache, and what is no schedule."""

from __future__ import annotations

import pytest

from adastate.inference.prompt_schedule import TimedPrompt, parse_prompts, prompts_by_chunk
from adastate.stream import SwitchPolicy

STARTS = [0.0, 0.5, 1.0, 1.5]


def timed(text: str) -> TimedPrompt:
    prompts = parse_prompts(["0s: a", text])
    assert prompts is not None
    return prompts[1]


def test_prompts_without_times_are_no_schedule() -> None:
    assert parse_prompts(["a red ball", "ratio 3:4", "10 sheep: a film"]) is None
    assert parse_prompts([]) is None
    assert parse_prompts(["1980s: a street"]) is None
    assert parse_prompts(["1980s: a street", "1990s: a street"]) is None
    assert parse_prompts(["1980s: a street", "a field"]) is None


@pytest.mark.parametrize(
    ("text", "seconds", "kind", "reset"),
    [
        ("10s: b", 10, None, False),
        ("2.5s: b", 2.5, None, False),
        (" 10 s  cut : b ", 10, "cut", False),
        ("10s Cut reset: b", 10, "cut", True),
        ("10s reset recache: b", 10, "recache", True),
        ("10s reset: b", 10, None, True),
    ],
)
def test_a_prompt_with_a_time_is_read(text: str, seconds: float, kind: str | None, reset: bool) -> None:
    found = timed(text)
    assert (found.seconds, found.text, found.kind, found.reset) == (seconds, "b", kind, reset)


def test_a_prompt_may_hold_colons() -> None:
    assert timed("1s: night: 5s: rain").text == "night: 5s: rain"


def test_the_kind_of_a_switch_stands_before_that_of_the_stream() -> None:
    own = SwitchPolicy("recache", frames=12, anchor="reset")
    assert timed("1s: b").policy(own) is None
    assert timed("1s recache: b").policy(own) == SwitchPolicy("recache", frames=12)
    assert timed("1s cut: b").policy(own) == SwitchPolicy("cut"), "12 frames were meant for a recache"
    assert timed("1s cut reset: b").policy(own) == SwitchPolicy("cut", anchor="reset")
    assert timed("1s reset: b").policy(SwitchPolicy("flush", frames=1)) == SwitchPolicy(
        "flush", frames=1, anchor="reset"
    )


@pytest.mark.parametrize(("seconds", "chunk"), [("0.5", 1), ("0.51", 2), ("0.1", 1), ("1.5", 3)])
def test_a_prompt_begins_with_the_first_chunk_at_its_time_or_later(seconds: str, chunk: int) -> None:
    prompts = parse_prompts(["0s: a", f"{seconds}s: b"])
    assert prompts is not None
    assert list(prompts_by_chunk(prompts, STARTS, 2.0)) == [chunk]


@pytest.mark.parametrize(("seconds", "chunk"), [("2.333333", 1), ("2.333334", 1), ("2.33334", 2)])
def test_a_time_that_was_rounded_to_six_places_is_that_of_its_chunk(seconds: str, chunk: int) -> None:
    prompts = parse_prompts(["0s: a", f"{seconds}s: b"])
    assert prompts is not None
    assert list(prompts_by_chunk(prompts, [0.0, 7 / 3, 14 / 3], 7.0)) == [chunk]


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (["0s: a", "b"], "'b' has no time, but '0s: a' has"),
        (["5s: a", "10s: b"], "begins at 5s: a stream needs one from its beginning"),
        (["0s cut: a"], "nothing comes before '0s cut'"),
        (["0s: a", "5s: b", "5s: c"], "5s stands after 5s: the times of the prompts must rise"),
        (["0s: a", "-5s: b"], "-5s stands after 0s"),
        (["0s: a", "5s cat: b"], "asks for 'cat': after a time stands one of keep, recache, flush, cut"),
        (["0s: a", "5s cut flush: b"], "asks for cut and flush"),
        (["0s: a", "5s cut:"], "no prompt after the colon"),
    ],
)
def test_a_wrong_schedule_is_told(prompts: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_prompts(prompts)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (["0s: a", "2s: b"], "at 2s comes after the end: the stream has 2 seconds"),
        (["0s: a", "1.9s: b"], r"no chunk starts at 1.9s or later: the last of the 2 seconds starts at 1.5s"),
        (["0s: a", "0.6s: b", "0.7s: c"], r"0.6s and 0.7s fall to the same chunk, which starts at 1s"),
    ],
)
def test_a_prompt_without_a_chunk_of_its_own_is_told(prompts: list[str], sentence: str) -> None:
    found = parse_prompts(prompts)
    assert found is not None
    with pytest.raises(ValueError, match=sentence):
        prompts_by_chunk(found, STARTS, 2.0)


@pytest.mark.parametrize("prompts", [["1980s: a street"], ["1980s: a street", "a field"], ["a field", "3 s: too"]])
def test_a_prompt_that_begins_like_a_time_is_a_prompt_where_nothing_begins_at_0s(prompts: list[str]) -> None:
    assert parse_prompts(prompts) is None
