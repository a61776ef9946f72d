"""Foggy journeys: under a clear sky they are the journeys that they are, and fog hides them for as long as it says."""

from __future__ import annotations

from dataclasses import replace

import torch

from adastate import metrics
from datamodules.worlds import fog, journey
from datamodules.worlds.fog import BRIGHTNESS, CLEAR, PERIODS, Foggy
from datamodules.worlds.world_clips import world_batch

BARE = [replace(f, mover="nothing else moves") for f in fog.even_foggy(6, 3)]


def clear_share(flights: list[Foggy], pictures: int) -> torch.Tensor:
    level = fog.brightness(flights, torch.arange(pictures))
    return ((CLEAR[1] - level) / (CLEAR[1] - CLEAR[0])).clamp(0, 1)


def test_the_sky_clears_over_the_very_journey() -> None:
    foggy, plain = fog.render_fog(BARE, 40), journey.render_journey(BARE, 40)
    clear = clear_share(BARE, 40)
    seen = clear == 1
    assert 0.2 < seen.float().mean() < 0.35
    hues = [metrics.ground_hue(v)[seen] for v in (foggy, plain)]
    assert metrics.apart(*hues).max() < 0.02


def test_in_a_bank_of_fog_there_is_nothing_but_fog() -> None:
    hidden = clear_share(BARE, 40) == 0
    foggy = fog.render_fog(BARE, 40)[hidden]
    assert foggy.flatten(1).std(1).max() < 1e-6
    assert BRIGHTNESS[0] < foggy.min() and foggy.max() <= BRIGHTNESS[1] + 1e-6


def test_banks_last_longer_than_windows_reach() -> None:
    """Whatever the phase, so many past latents of three pictures are fog to the last picture when the sky clears."""
    for period, latents in zip(PERIODS, (1, 2, 3), strict=True):
        runs = []
        for phase in torch.linspace(0, 1, 40).tolist():
            flights = [replace(BARE[0], period=period, phase=phase)]
            hidden = (clear_share(flights, 120)[0] == 0).view(-1, 3)
            told = "".join("f" if all(latent) else " " for latent in hidden.tolist())
            runs += [len(run) for run in told.strip("f").split()]  # those that begin and end
        fewest = min(runs)
        assert fewest >= latents, period


def test_a_short_stretch_tells_whether_fog_comes_or_goes() -> None:
    level = fog.brightness(BARE, torch.arange(60))
    slope = level.diff(dim=1).abs()
    for row, flight in enumerate(BARE):
        due = 2 * (BRIGHTNESS[1] - BRIGHTNESS[0]) / flight.period
        assert slope[row].max() <= due + 1e-5 and slope[row].median() > 0.9 * due


def test_pictures_come_from_their_number_alone_and_the_caption_says_nothing_of_fog() -> None:
    flights = fog.even_foggy(4, 1)
    assert torch.allclose(fog.render_fog(flights, 6)[:, 2:], fog.render_fog(flights, 4, first=2), atol=1e-5)
    assert [f.caption for f in flights] == [j.caption for j in journey.even_journeys(4, 1)]
    assert {"period", "phase", "region"} <= flights[0].facts.keys()


def test_the_world_hands_out_foggy_journeys_where_it_is_told_to() -> None:
    made = world_batch(0, range(3), 2, kind="fog")
    assert torch.equal(made.video, fog.render_fog([fog.foggy(0, i) for i in range(3)], 2))  # type: ignore[arg-type]
    assert {fog.foggy(0, i).period for i in range(30)} == set(PERIODS)
