"""Clips of the flight world: the same whatever batch they are asked in, steered as their poses are, and mirrored."""

from __future__ import annotations

import pytest
import torch

from adastate.config.world_words import vocabulary, words
from datamodules.worlds.flight import flight_clips
from datamodules.worlds.flight.camera_path import PICTURES, path
from datamodules.worlds.flight.flight_clips import (
    BEFORE,
    MIRRORED,
    flight_batch,
    flight_facts,
    flight_prompts,
    next_prompt,
)
from datamodules.worlds.flight.voxel_render import render_flight
from datamodules.worlds.flight.voyages import steering, voyage
from datamodules.worlds.world_clips import world_batch, world_facts, world_prompts

KEYS = "wasdijkl"


def test_a_mirrored_clip_is_the_flight_with_left_and_right_exchanged() -> None:
    batch = flight_batch(3, range(12), 6)
    assert batch.video is not None and batch.actions is not None
    assert torch.equal(batch.video[1::2], batch.video[::2].flip(-1))
    swapped = {"a": "d", "d": "a", "j": "l", "l": "j"}
    for one, other in zip(batch.actions[::2], batch.actions[1::2], strict=True):
        for key in KEYS:
            assert torch.equal(one[:, KEYS.index(key)], other[:, KEYS.index(swapped.get(key, key))])
    assert batch.prompts[::2] == batch.prompts[1::2]
    assert [KEYS[i] for i in MIRRORED] == [swapped.get(key, key) for key in KEYS]


def test_a_mirrored_camera_goes_the_mirrored_way() -> None:
    """Over even land; over hills, which are not mirrored, it would climb otherwise."""
    flight, actions = voyage(0, 5), steering(0, 5, 12)
    one, other = path(flight, actions), path(flight, actions[:, MIRRORED])
    turned, back = one[:, 3] - flight.heading, other[:, 3] - flight.heading
    assert turned.abs().max() > 0.1
    torch.testing.assert_close(turned, -back)
    torch.testing.assert_close(one[:, 5], -other[:, 5])


def test_a_clip_is_the_same_whatever_batch_it_is_asked_in() -> None:
    whole = flight_batch(1, range(8), 3)
    assert whole.video is not None and whole.actions is not None
    for indices in ([5], [7, 2, 5], [5, 5]):
        some = flight_batch(1, indices, 3)
        assert some.video is not None and some.actions is not None
        assert torch.equal(some.video, whole.video[indices]) and torch.equal(some.actions, whole.actions[indices])
        assert some.prompts == [whole.prompts[i] for i in indices] and some.index.tolist() == indices
    assert not torch.equal(flight_batch(2, [5], 3).video, whole.video[5:6])  # type: ignore[arg-type]


@pytest.mark.slow
def test_half_of_the_clips_begin_in_mid_flight_and_go_on_as_the_flight_does() -> None:
    begun = [i for i in range(200) if flight_clips._before(flight_clips._drawn(0, i))]
    assert 70 < len(begun) < 130
    later, first = begun[0], next(i for i in range(200) if i not in begun)
    for i, before in ((later, BEFORE), (first, 0)):
        flight = flight_clips._drawn(0, i)
        assert not flight.changing, "another place would show more of the change"
        actions = steering(0, i, before + 2)
        clip = flight_batch(0, [2 * i], 6)
        assert clip.video is not None and clip.actions is not None
        assert torch.equal(clip.actions[0], actions[before:])
        shown = render_flight(flight, path(flight, actions))[before * PICTURES :]
        torch.testing.assert_close(clip.video[0], shown, atol=2 / 255, rtol=0)


def test_prompts_without_pictures_are_steered_for_as_long_as_is_asked() -> None:
    long, short = flight_prompts(0, range(6), 28), flight_prompts(0, range(6), 7)
    assert long.actions is not None and short.actions is not None and long.video is None
    assert long.actions.shape == (6, 28, 8) and torch.equal(long.actions[:, :7], short.actions)
    assert long.actions.unique().tolist() == [0, 1]
    clips = flight_batch(0, [0, 3, 4], 6)  # flight 0, flight 1 mirrored, flight 2
    assert clips.actions is not None
    assert clips.prompts == long.prompts[:3] and torch.equal(clips.actions, long.actions[:3, :2])


def test_facts_tell_what_the_prompt_says_and_more() -> None:
    for i in range(8):
        facts, prompt = flight_facts(4, i), flight_batch(4, [i], 0).prompts[0]
        assert all(facts[name] in prompt for name in ("biome", "time", "weather")) and facts == world_facts(
            4, i, "flight"
        )
        assert facts["mirrored"] == bool(i % 2)
    told = [flight_facts(0, 2 * i) for i in range(400)]
    assert 0.13 < sum(f["changing"] for f in told) / 400 < 0.27 and 0.05 < sum(f["veils"] for f in told) / 400 < 0.15


def test_a_prompt_turns_to_the_same_land_at_another_hour_in_words_of_this_world() -> None:
    known = set(vocabulary("flight"))
    for i in range(20):
        now, then, facts = flight_prompts(0, [i], 1).prompts[0], next_prompt(0, i), flight_facts(0, 2 * i)
        assert facts["biome"] in then and facts["weather"] not in then and now != then
        assert set(words(then)) <= known


def test_whole_latent_frames_are_asked_for() -> None:
    with pytest.raises(ValueError, match="clips of 7 pictures: a latent frame of this world spans 3"):
        flight_batch(0, [0], 7)


def test_every_world_gives_clips_and_prompts_by_its_name() -> None:
    for kind in ("plain", "journey", "fog", "circuit", "mist", "flight"):
        clips, prompts = world_batch(0, range(2), 3, kind), world_prompts(0, range(2), 4, kind)
        assert clips.video is not None and len(clips.video) == len(prompts.prompts) == 2 and prompts.video is None
        assert (clips.actions is not None) == (prompts.actions is not None) == (kind == "flight")
