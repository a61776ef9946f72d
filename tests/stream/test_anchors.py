"""Kinds of anchors: a row each, and what any of them, a user's own too, gets from the stream."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from adastate.models.wan.fused import Streamer
from adastate.stream import StateCache, StreamSpec
from adastate.stream.anchors import ANCHORS
from adastate.stream.anchors.anchor import Anchor, AnchorChoices, Kept, leaving, newest_frames
from adastate.stream.kv_frames import CachedFrames, TensorFrames
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, Drawn, TaggedStudent, normal, random_net, slots, spec


class Row(NamedTuple):
    """An anchor in streams with chunks of 3 and a window of 3.

    Attributes:
        choices: the smallest that it takes.
        described: it, in a few words.
        context: what chunk 5, frames 15 to 17, sees of the cache: stream index (S for a state or an average) @ RoPE
            index.
    """

    choices: dict[str, Any]
    described: str
    context: str


ROWS = {
    "none": Row({"state_frames": 0}, "no anchor", "12@0 13@1 14@2"),
    "static": Row({"state_frames": 2}, "first 2 kept", "0@0 1@1 12@2 13@3 14@4"),
    "ema": Row({"state_frames": 3, "decay": [0.9]}, "moving average of 3, decay 0.9", "S@0 S@1 S@2 12@3 13@4 14@5"),
    "dual_ema": Row(
        {"state_frames": 1, "decay": [0.9, 0.5]},
        "first 1 and two averages, decay 0.9, 0.5",
        "0@0 S@1 S@2 12@3 13@4 14@5",
    ),
    "pingpong": Row(
        {"state_frames": 3, "pingpong_slots": 2, "position": "absolute"},
        "first 3 forwards and backwards in 2 places",
        "1@10 0@11 12@12 13@13 14@14",
    ),
    "state": Row({}, "state of 1", "S@0 12@1 13@2 14@3"),
    f"{__name__}.LAST_TO_LEAVE": Row({}, "the last frame to leave", "11@0 12@1 13@2 14@3"),
}


def update(spec: AnchorChoices, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames) -> Kept:
    assert spec.past_frames is not None
    if grown.count <= spec.past_frames:
        return anchor, grown
    return grown.drop_last(spec.past_frames).last(1), newest_frames(spec, grown)


LAST_TO_LEAVE = Anchor(update, lambda spec: "the last frame to leave")
"""An anchor of a user's own, used by its path."""


def spec_of(name: str, **choices: Any) -> StreamSpec:
    return StreamSpec(**{"anchor": name, "denoising_steps": (1000, 500), **ROWS[name].choices, **choices})


every_anchor = pytest.mark.parametrize("name", ROWS)


def test_each_anchor_has_its_row() -> None:
    assert set(ROWS) > set(ANCHORS)


@every_anchor
def test_what_it_is_and_what_of_it_a_chunk_sees(name: str) -> None:
    spec, student = spec_of(name), TaggedStudent()
    assert spec.anchor_kind.describe(spec) == ROWS[name].described
    list(rollout(student, Drawn(), StateCache(spec), 6, SHAPE))
    passes = student.views[5 * 3 : 6 * 3]
    assert [" ".join(slots(view)) for view in passes] == [ROWS[name].context] * 3


@every_anchor
@torch.no_grad()
def test_it_streams_alike_with_memory_of_its_own_and_in_preallocated_places(name: str) -> None:
    net, text = random_net(), normal(1, SIZE.text_tokens, SIZE.text_width)
    student = Streamer(net, net.text_keys(text))
    made = []
    for layers in (None, SIZE.layers):
        stream = rollout(student, Drawn(), StateCache(spec_of(name), layers=layers), 8, SHAPE)
        made.append(torch.cat([chunk.content for chunk in stream], 1))
    assert made[0].shape == (1, 24, *SHAPE) and torch.isfinite(made[0]).all()
    assert float((made[0] - made[1]).abs().max()) < 2e-5


@every_anchor
def test_its_cache_stops_growing(name: str) -> None:
    cache = StateCache(spec_of(name))
    counts = []
    for _ in rollout(TaggedStudent(), Drawn(), cache, 12, SHAPE):
        counts.append(cache.tokens)
    assert len(set(counts[5:])) == 1


def test_what_leaves_a_window_and_what_stays_are_all_that_came() -> None:
    frames = TensorFrames((normal(1, 4, 1, 2),), (normal(1, 4, 1, 2),), (0, 1, 2, 3), (0,) * 4)
    for past in (None, 5, 4):
        window = spec(past_frames=past, **({"warmup": "growing"} if past is None else {}))
        assert leaving(window, frames) is None and newest_frames(window, frames).source == (0, 1, 2, 3)
    gone = leaving(spec(past_frames=1), frames)
    assert gone is not None and gone.source == (0, 1, 2)
    assert newest_frames(spec(past_frames=1), frames).source == (3,)


@every_anchor
def test_choices_of_another_anchor_are_refused(name: str) -> None:
    for own, value in (("decay", [0.5]), ("pingpong_slots", 1), ("state_update_every", [1])):
        if own not in spec_of(name).anchor_kind.takes:
            with pytest.raises(ValueError, match=f"anchor '{name}' takes no {own}, got"):
                spec_of(name, **{own: value})
