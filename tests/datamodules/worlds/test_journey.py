"""Journeys: what their captions do not say is drawn as told, follows the flight, and comes from the seed alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adastate import metrics
from datamodules.world_data import WorldData
from datamodules.worlds import journey
from datamodules.worlds.flyover import flight, render_flyover
from datamodules.worlds.journey import COMPANY, LAP, Journey, even_journeys
from datamodules.worlds.world_clips import world_batch

BARE = replace(journey.journey(0, 0), mover="nothing else moves")


def test_the_ground_turns_with_the_distance_flown() -> None:
    journeys = [replace(j, mover="nothing else moves") for j in even_journeys(16, 3)]
    hue = metrics.ground_hue(journey.render_journey(journeys, 22))
    turned = metrics.turned(hue)[:, -1]
    expected = torch.tensor([21 * j.turning for j in journeys])
    assert torch.allclose(turned, expected, atol=0.03), "discs hide a part of the ground, hence not exactly"
    assert torch.allclose(
        metrics.apart(hue[:, 0], torch.tensor([j.region for j in journeys])), torch.zeros(16), atol=0.03
    )
    assert journeys[8].turning == pytest.approx(2 / LAP)


def test_thirty_two_even_journeys_have_each_combination_once() -> None:
    assert len({(j.heading, j.speed, j.mover) for j in even_journeys(32, 0)}) == 32
    drawn = [journey.journey(0, i) for i in range(200)]
    assert 0.35 < sum(j.mover == COMPANY[0] for j in drawn) / 200 < 0.65
    assert max(abs(sum(j.region < q for j in drawn) / 200 - q) for q in (0.25, 0.5, 0.75)) < 0.12


def test_a_lap_ends_where_it_began() -> None:
    east = replace(BARE, heading="east", speed="slow")
    once, again = journey.render_journey([east], 1), journey.render_journey([east], 1, first=int(LAP))
    assert metrics.apart(metrics.ground_hue(once), metrics.ground_hue(again)).max() < 0.01


def test_discs_wear_the_livery_and_the_ball_has_no_hue() -> None:
    journeys = even_journeys(32, 5)[::2]
    assert {j.mover for j in journeys} == set(COMPANY)
    hue = metrics.bright_hue(journey.render_journey(journeys, 21))
    livery = torch.tensor([j.livery for j in journeys])[:, None].expand_as(hue)
    told = ~hue.isnan()
    assert 0.5 < told.float().mean() < 1, "discs are at times out of view"
    assert metrics.apart(hue, livery)[told].max() < 0.05


def test_pictures_come_from_their_number_alone() -> None:
    journeys = even_journeys(4, 1)
    assert torch.allclose(
        journey.render_journey(journeys, 6)[:, 2:], journey.render_journey(journeys, 4, first=2), atol=1e-5
    )


def test_captions_hide_region_and_livery() -> None:
    a = journey.journey(0, 0)
    assert replace(a, region=0.1, livery=0.9).caption == a.caption
    assert a.heading in a.caption and a.speed in a.caption and a.mover in a.caption
    assert isinstance(a, Journey) and {"region", "livery"} <= a.facts.keys()
    with pytest.raises(ValueError, match="a red ball bounces"):
        journey.journey(0, 0, mover="a red ball bounces")


def test_the_world_hands_out_journeys_where_it_is_told_to() -> None:
    plain, other = world_batch(0, range(3), 2), world_batch(0, range(3), 2, kind="journey")
    assert torch.equal(plain.video, render_flyover([flight(0, i) for i in range(3)], 2))  # type: ignore[arg-type]
    assert torch.equal(other.video, journey.render_journey([journey.journey(0, i) for i in range(3)], 2))  # type: ignore[arg-type]
    data = WorldData(video_frames=2, batch=3, kind="journey")
    assert data.batches().make(range(3)).prompts == other.prompts
