"""What follows from the picture before it, and what happens where chunks meet."""

from __future__ import annotations

import pytest
import torch

from adastate import metrics
from tests.support.synthetic import slide, still, unrelated


def test_a_sheet_that_slides_follows_as_well_as_a_still() -> None:
    both = torch.cat([slide(2, -1, 9), still(9)])
    assert metrics.warp_error(both).shape == (2, 8)
    assert metrics.warp_error(both).max() < 1e-9


def test_what_moves_farther_than_the_search_does_not_follow() -> None:
    assert metrics.warp_error(slide(4, 0, 9)).min() > 0.05
    assert metrics.warp_error(slide(4, 0, 9), reach=4).max() < 1e-9


def test_unrelated_pictures_have_the_largest_error_and_noise_twice_its_share() -> None:
    assert 1 < metrics.warp_error(unrelated()).mean() < 2
    noisy = still(30) + 0.1 * torch.randn(1, 30, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = 2 * 0.1**2 / float(metrics.spread(noisy))
    assert metrics.warp_error(noisy, reach=0).mean().item() == pytest.approx(expected, rel=0.05)


def test_the_error_does_not_depend_on_contrast() -> None:
    video = unrelated(6)
    assert torch.allclose(metrics.warp_error(video), metrics.warp_error(0.3 * video), rtol=1e-4)


def test_flicker_at_borders_is_change_there_over_change_within() -> None:
    smooth = torch.arange(12.0).reshape(1, 12, 1, 1, 1).expand(-1, -1, 3, 4, 4) * 0.01
    jumps = smooth + 0.03 * (torch.arange(12) // 3).reshape(1, 12, 1, 1, 1)
    assert metrics.border_flicker(smooth, 3).item() == pytest.approx(1, abs=1e-4)
    assert metrics.border_flicker(jumps, 3).item() == pytest.approx(4, abs=1e-3)
    assert metrics.border_flicker(jumps[:, 1:], 3).item() < 2, "the clip has to begin with a chunk"
    assert metrics.border_flicker(slide(1, 0, 12), 3).item() == pytest.approx(1, rel=0.2)
    with pytest.raises(ValueError, match="chunks of 2 or more"):
        metrics.border_flicker(smooth[:, :2], 3)
