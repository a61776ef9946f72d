"""Every impossible stream is refused at construction, with the numbers and the remedy in the sentence; others run."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import yaml

from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from tests.support.tiny import ROOT, SHAPE, Drawn, TaggedStudent


def told_defaults() -> dict[str, Any]:
    """`stream.<name>` to its default, of rows in docs/guide/method.md that are about one name and one value."""
    found = {}
    for line in (ROOT / "docs/guide/method.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = [name for cell in cells[:2] for name in re.findall(r"^`stream\.(\w+)`$", cell)]
        value = re.match(r"`?(\w+)`?(?: \[|;|$)", cells[-1])
        if names and value:
            found[names[0]] = yaml.safe_load(value[1])
    return found


def test_the_defaults_are_those_of_the_docs() -> None:
    told, spec = told_defaults(), StreamSpec()
    assert {"state_frames", "chunk_frames", "past_frames", "state_visibility", "warmup", "cache_grad"} <= told.keys()
    assert told == {name: getattr(spec, name) for name in told}


PINGPONG = {"anchor": "pingpong", "state_frames": 3, "pingpong_slots": 2, "position": "absolute"}

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"chunk_frames": 0}, "chunk_frames is 0; a chunk has at least one latent frame"),
    (
        {"past_frames": -1},
        "past_frames is -1: the window would be smaller than a chunk of 3; past_frames counts the frames",
    ),
    ({"anchor": "none"}, "anchor is 'none' with state_frames 1: use state_frames 0 with anchor none"),
    ({"state_frames": 0}, "anchor is 'state' with state_frames 0: .* at least 1 with any other"),
    ({"anchor": "static", "state_frames": 0}, "anchor is 'static' with state_frames 0"),
    ({"state_frames": -1}, "state_frames -1"),
    ({"position": "absolute"}, "a state has no place in absolute time: use position: slot"),
    ({"past_frames": None}, "warmup: fixed needs to know the window; set past_frames, or use warmup: growing"),
    ({"state_init": "first_frame", "state_frames": 4}, "the first chunk has 3 frames, too few for a state of 4"),
    ({"state_grad": 1, "cache_grad": "straight_through"}, "two ways to teach the state; use one of them"),
    ({"state_grad": -2}, "state_grad is -2; it counts chunks, 0 is off"),
    ({"denoising_steps": ()}, r"a step list holds whole numbers from 1 to 1000, got \[\]"),
    ({"denoising_steps": (1001, 500)}, r"whole numbers from 1 to 1000, got \[1001, 500\]"),
    ({"denoising_steps": (1000, 0)}, "whole numbers from 1 to 1000"),
    ({"denoising_steps": (937.5,)}, "whole numbers from 1 to 1000"),
    ({"denoising_steps": (500, 750)}, r"runs from noise to data, so it must fall; got \[500, 750\]"),
    ({"denoising_steps": (500, 500)}, "must fall"),
    ({"first_chunk_frames": 0}, "first_chunk_frames is 0; a chunk has at least one latent frame"),
    ({"anchor": "ema", "state_frames": 3}, "anchor 'ema' takes 1 decay from 0 to 1, got \\[\\]"),
    ({"anchor": "ema", "state_frames": 3, "decay": [1.5]}, "takes 1 decay from 0 to 1, got \\[1.5\\]"),
    ({"decay": [0.9]}, r"anchor 'state' takes no decay, got \(0.9,\)"),
    ({"anchor": "ema", "state_frames": 1, "decay": [0.9]}, "state_frames 1 has to equal chunk_frames 3"),
    (
        {"anchor": "ema", "state_frames": 3, "decay": [0.9], "past_frames": 4},
        "past_frames 4 has to be a multiple of chunk_frames 3",
    ),
    (
        {"anchor": "dual_ema", "state_frames": 3, "decay": [0.9, 0.5], "past_frames": None, "warmup": "growing"},
        "averages what leaves the window: set past_frames",
    ),
    ({"pingpong_slots": 2}, "anchor 'state' takes no pingpong_slots, got 2"),
    (
        {"anchor": "pingpong", "state_frames": 3, "position": "absolute"},
        "anchor 'pingpong' needs pingpong_slots, at least 1, got 0",
    ),
    ({"anchor": "sttic"}, "stream cannot have anchor 'sttic'; did you mean 'static'?"),
    ({"anchor": "x"}, "stream cannot have anchor 'x'; it takes none, static, ema, dual_ema, pingpong, state, or the"),
    ({"anchor": "no_module.MINE"}, r"there is no such Anchor \(No module named 'no_module'\)"),
    ({"anchor": "adastate.stream.StreamSpec"}, r"'adastate.stream.StreamSpec', which is a type and no Anchor"),
    (
        {"anchor": "pingpong", "state_frames": 3, "pingpong_slots": 2},
        "needs position 'absolute' and past_frames, got 'slot' and 3",
    ),
    (
        {"anchor": "pingpong", "state_frames": 3, "pingpong_slots": 5, "position": "absolute"},
        "pingpong_slots 5 are more than the 3 frames kept",
    ),
    ({"attention_frames": 3}, "attention_frames is 3, less than the anchor of 1 and the 3 frames of a pass together"),
    ({"anchor": "none", "state_frames": 0, "position": "anchor_contiguous"}, "moves an anchor, and anchor is 'none'"),
    ({"query_position": "stream"}, "got position 'slot', warmup 'fixed', past_frames 3, anchor 'state'"),
    (
        {"anchor": "static", "position": "absolute", "clean_pass_context": "recent"},
        "counts attention_frames in stream time: got None with position 'absolute'",
    ),
    (
        {"state_update_every": (1, 2)},
        r"state_update_every \[1, 2\] with a state of 1 frames: give one number of chunks",
    ),
    ({"state_update_every": (0,)}, "at least 1, for each frame of the state"),
    ({"state_update_every": (1,), "anchor": "static"}, "anchor 'static' takes no state_update_every"),
    ({"schedule": "staircase"}, "schedule 'staircase' has several levels in a pass, a state has one: use uniform"),
    (
        {"schedule": "staircase", "anchor": "static", "first_chunk_denoising_steps": [1000]},
        "knows no first_chunk_denoising_steps, first_chunk_frames or shared_noise",
    ),
    ({"restart_frames": 6}, "restart_frames 6 needs a restart_overlap below it, got 0"),
    ({"restart_frames": 6, "restart_overlap": 2}, "restart_overlap 2 does not divide into chunks of 3"),
    ({"switch": {"kind": "cut"}, "anchor": "static", "position": "absolute"}, "position is 'absolute'"),
    ({"switch": {"kind": "flush", "frames": 5}}, "switch 'flush' keeps 5 frames, the window has 3"),
    ({"switch": {"kind": "flush", "keeps": "last_places"}}, "'last_places' belongs to a static anchor"),
    ({"switch": {"kind": "recache", "frames": -1}}, "switch.frames is -1"),
    (
        {"switch": {"kind": "recache"}, **PINGPONG},
        "got schedule 'uniform' and anchor 'pingpong': use switch 'keep'",
    ),
    ({"timestep_shift": math.inf}, "timestep_shift is inf; it has to be above 0"),
    (
        {"switch": {"kind": "recache"}, "schedule": "staircase", "anchor": "static"},
        "got schedule 'staircase' and anchor 'static': use switch 'keep'",
    ),
)


@pytest.mark.parametrize(("wrong", "sentence"), WRONG, ids=[str(w) for w, _ in WRONG])
def test_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StreamSpec(**wrong)


RIGHT: tuple[dict[str, Any], ...] = (
    {"anchor": "none", "state_frames": 0},
    {"anchor": "none", "state_frames": 0, "position": "absolute", "past_frames": None},
    {"anchor": "static", "state_frames": 3, "position": "absolute"},
    {"past_frames": None, "warmup": "growing"},
    {"past_frames": 0},
    {"state_init": "first_frame", "state_frames": 3},
    {"state_grad": 2},
    {"cache_grad": "straight_through"},
    {"denoising_steps": (1,)},
)


@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_accepted_and_streamed(right: dict[str, Any]) -> None:
    s = StreamSpec(**right)
    chunks = list(rollout(TaggedStudent(), Drawn(), StateCache(s), 3, SHAPE))
    assert [(c.start, c.frames) for c in chunks] == [(n * s.chunk_frames, s.chunk_frames) for n in range(3)]
    states = [0 if c.state is None else c.state.shape[1] for c in chunks]
    first = 0 if s.state_init == "first_frame" else s.state_frames
    assert states == ([first, s.state_frames, s.state_frames] if s.anchor == "state" else [0] * 3)


def test_a_length_is_a_multiple_of_the_chunk() -> None:
    assert [StreamSpec().chunks(n) for n in (3, 21, 126)] == [1, 7, 42]
    for frames, near in ((22, 21), (23, 24), (1, 3), (0, 3)):
        with pytest.raises(ValueError, match=f"^{frames} frames are not a multiple of the chunk of 3; {near} would be"):
            StreamSpec().chunks(frames)
