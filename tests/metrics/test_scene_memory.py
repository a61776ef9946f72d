"""Leaving the first view, and coming back."""

from __future__ import annotations

import pytest
import torch

from adastate import metrics
from tests.support.synthetic import slide, still


def test_a_still_never_leaves_and_a_flight_does_sooner_if_it_is_faster() -> None:
    slow, fast = slide(1, 0, 40, start=(20, 64)), slide(3, 0, 40, start=(0, 64))
    assert metrics.departure(still(), 1).max() < 1e-4
    for clip, speed in ((slow, 1), (fast, 3)):
        gone = metrics.departure(clip, 1)[0]
        assert gone[0] < 1e-4
        assert gone[: 9 // speed].diff().min() > -0.02, "it grows as the view leaves"
        assert gone[33 // speed + 1 :].mean().item() == pytest.approx(1, abs=0.35), "another place of the same kind"
    assert metrics.departure(fast, 1)[0, 3] > 2 * metrics.departure(slow, 1)[0, 3] > 0.01


def test_the_first_view_is_all_of_the_first_pictures() -> None:
    assert metrics.departure(slide(2, 0, 24), 8)[0, :8].max() < 1e-4


def test_another_colour_is_farther_than_another_place() -> None:
    video = torch.cat([slide(1, 0, 4), slide(1, 0, 4, seed=1), slide(1, 0, 4, seed=1) + 1], 1)
    place, colour = metrics.departure(video, 4)[0, 4:8].mean(), metrics.departure(video, 4)[0, 8:].mean()
    assert colour > place + 1


def test_what_was_out_of_view_is_held_against_where_it_should_be() -> None:
    away = torch.full((6,), torch.nan)
    rate = torch.tensor([0.02, 0.02])
    kept = torch.cat([torch.tensor([0.9, 0.92]), away, torch.tensor([0.06, 0.08])])  # past the end of the ring
    lost = torch.cat([torch.tensor([0.9, 0.92]), away, torch.tensor([0.3, 0.32])])
    found = metrics.across_gaps(torch.stack([kept, lost]), rate, 5)
    assert found[:, 8].tolist() == pytest.approx([0.0, 0.24], abs=1e-5), "where the gap ends"
    assert found.isnan().sum() == 18, "and nowhere else"
    assert metrics.across_gaps(kept[None], rate[:1], 7).isnan().all(), "six pictures are no gap of seven"
    assert metrics.across_gaps(kept[None, 2:], rate[:1], 5).isnan().all(), "nothing was seen before it"


def test_a_loop_has_its_period() -> None:
    clip = slide(2, 1, 7)
    period, strength = metrics.loop(clip.repeat(1, 4, 1, 1, 1))
    assert period.item() == 7 and strength.item() == pytest.approx(1, abs=1e-4)
    period, strength = metrics.loop(still())
    assert period.item() == 4 and strength.item() == pytest.approx(1, abs=1e-4)
    assert metrics.loop(slide(2, 0, 40, start=(0, 64)))[1].item() < 0.6
    with pytest.raises(ValueError, match="too few"):
        metrics.loop(clip)


def test_what_came_before_is_found_again_after_the_gap_only() -> None:
    there = slide(2, 0, 30, start=(0, 64))
    back = torch.cat([there, there[:, :6]], 1)
    found = metrics.repetition(back, gap=20)[0]
    assert found[:20].isnan().all() and not found[20:].isnan().any()
    assert found[30:].min() > 0.999 and found[20:30].max() < 0.9
    assert metrics.repetition(back + 0.5, gap=20)[0, 20:].allclose(found[20:], atol=1e-3), "colour alone is no return"
