"""Seams and coherence, on pictures made for it and on flights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_landmarks import blurred
from adastate.metrics.flight_picture import match, match_across, seam_ratio
from tests.support.flight_clips import codec_like, flown


def texture(seed: int, width: int = 64) -> Tensor:
    """A picture `[3, 64, width]` of soft spots."""
    g = torch.Generator().manual_seed(seed)
    rough = torch.randn(1, 3, 16, width // 4, generator=g)
    return nnf.interpolate(rough, size=(64, width), mode="bicubic")[0] * 0.3


@pytest.mark.parametrize("step", [4, 8, 16])
def test_a_smooth_picture_has_no_seams(step: int) -> None:
    slope = torch.linspace(-1, 1, 64)[:, None] * 0.5 + torch.linspace(-1, 1, 64) * 0.4
    assert seam_ratio(slope.expand(2, 3, 3, 64, 64), step) == pytest.approx(1, abs=0.01)
    noise = torch.rand(4, 9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert seam_ratio(noise, step) == pytest.approx(1, abs=0.02)


def test_painted_seams_show_at_their_step() -> None:
    slope = torch.linspace(-1, 1, 64)[:, None] * 0.5 + torch.linspace(-1, 1, 64) * 0.4
    squares = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) * 0.2
    video = (slope + squares.repeat_interleave(8, 0).repeat_interleave(8, 1)).expand(1, 3, 3, 64, 64)
    assert seam_ratio(video, 8) > 3
    assert seam_ratio(video, 8) > seam_ratio(video, 16) > 1
    spots = torch.randn(24, 3, 80, 80, generator=torch.Generator().manual_seed(2))
    soft = blurred(spots, 2.0)[None, ..., 8:-8, 8:-8]
    assert seam_ratio(soft, 8) == pytest.approx(1, abs=0.02)
    faint = soft + 0.2 * squares.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert 1.02 < seam_ratio(faint, 8) < 1.5


def test_a_step_must_fit() -> None:
    with pytest.raises(ValueError, match="half"):
        seam_ratio(torch.zeros(1, 1, 3, 64, 64), 64)
    with pytest.raises(ValueError, match="groups of 2"):
        match_across(torch.zeros(1, 3, 3, 64, 64))


def test_what_only_turns_matches_and_what_is_unrelated_does_not() -> None:
    wide = texture(3, 96)
    still = torch.stack([wide[..., :64]] * 4)[None]
    assert torch.allclose(match(still), torch.ones(1, 3), atol=1e-2)
    turning = torch.stack([wide[..., 3 * i : 3 * i + 64] for i in range(7)])[None]
    assert match(turning).min() > 0.85, "but for what a plane is bent to on a cylinder"
    unrelated = torch.stack([texture(10 + i) for i in range(12)])[None]
    assert match(unrelated).mean() < 0.35 and match(unrelated).max() < 0.6


def test_a_change_between_latents_is_found_across_and_not_within() -> None:
    video = torch.stack([texture(20 + i // 3) for i in range(21)])[None]
    found = match_across(video)
    assert found.within.item() > 0.98 and found.across.item() < 0.4
    same = match_across(video, group=6)
    assert same.across.item() < 0.4 < same.within.item()


@pytest.mark.slow
def test_flights_are_coherent_and_a_codec_takes_little_of_it() -> None:
    video = flown(100, 24, 4).video
    real, worse = match_across(video), match_across(codec_like(video, noise=0.02))
    assert real.across.mean() > 0.8 and abs(float(real.across.mean() - real.within.mean())) < 0.03
    assert 0.85 < float(worse.across.mean() / real.across.mean()) < 1.1
    other = torch.stack([video[i, 0] for i in range(24)])[None]
    assert match(other).mean() < 0.35
