"""Colours, on clips whose colours are known."""

from __future__ import annotations

import pytest
import torch

from adastate import metrics
from datamodules.worlds import journey
from datamodules.worlds.flyover import PALETTES
from tests.support.flights import clips, flights


def test_grey_ground_has_no_hue_where_a_strength_is_asked() -> None:
    video = torch.full((1, 2, 3, 16, 16), 0.2)
    video[:, 1] = journey.colour(torch.tensor(0.4), journey.GROUND)[:, None, None]
    found = metrics.ground_hue(video, strength=0.3)
    assert found[0, 0].isnan() and found[0, 1].item() == pytest.approx(0.4, abs=1e-4)
    assert not metrics.ground_hue(video).isnan().any()


def test_the_ground_is_the_palette_s() -> None:
    colours = torch.tensor([PALETTES[name][0] for name in PALETTES]) / 127.5 - 1
    names = list(PALETTES)
    assert [names[i] for i in metrics.ground(clips(), colours).tolist()] == [f.palette for f in flights()]


def test_saturation_is_the_spread_of_the_channels() -> None:
    red = torch.tensor([1.0, -1, -1])[None, None, :, None, None].expand(1, 2, 3, 4, 4)
    grey = torch.zeros(1, 2, 3, 4, 4)
    assert metrics.saturation(torch.cat([red, grey])).tolist() == [2, 0]


def test_a_hue_is_counted_in_turns_and_knows_nothing_of_brightness() -> None:
    red, green, blue = torch.eye(3)
    assert metrics.hue(torch.stack([red, green, blue])).tolist() == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-6)
    assert metrics.hue(0.3 * green + 0.5).item() == pytest.approx(1 / 3)


def test_turns_are_counted_over_laps_and_taken_the_shorter_way() -> None:
    hues = torch.tensor([[0.9, 0.1, 0.4, 0.8, 0.2], [0.1, 0.9, 0.8, 0.9, 0.1]])
    expected = [[0, 0.2, 0.5, 0.9, 1.3], [0, -0.2, -0.3, -0.2, 0.0]]
    assert torch.allclose(metrics.turned(hues), torch.tensor(expected), atol=1e-6)
    assert metrics.apart(torch.tensor(0.95), torch.tensor(0.1)).item() == pytest.approx(0.15)


def test_ground_and_bright_things_have_their_own_hues() -> None:
    video = journey.colour(torch.tensor(0.2), journey.GROUND).reshape(1, 1, 3, 1, 1).repeat(1, 2, 1, 16, 16)
    video[0, 0, :, 2:8, 2:8] = journey.colour(torch.tensor(0.7), journey.DISC)[:, None, None]
    video[0, :, :, 10:14, 10:14] = 1.0  # a white ball
    assert metrics.ground_hue(video)[0].tolist() == pytest.approx([0.2, 0.2], abs=1e-3)
    bright = metrics.bright_hue(video)[0]
    assert bright[0].item() == pytest.approx(0.7, abs=1e-3) and bright[1].isnan()
