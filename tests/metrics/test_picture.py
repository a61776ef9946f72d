"""Contrast, sharpness, change: what they grow and fall with."""

from __future__ import annotations

import pytest
import torch

from adastate import metrics
from datamodules.worlds.flyover import render_flyover
from tests.support.flights import PICTURES, clips, flights


def test_contrast_and_sharpness_fall_with_what_they_measure() -> None:
    half, grain = 0.5 * clips(), torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(metrics.contrast(half), 0.5 * metrics.contrast(clips()))
    assert torch.allclose(metrics.sharpness(half), 0.5 * metrics.sharpness(clips()))
    assert metrics.sharpness(torch.nn.functional.avg_pool2d(grain[0], 3, 1)[None]) < 0.5 * metrics.sharpness(grain)
    flat = torch.full((1, 2, 3, 4, 4), 0.3)
    assert metrics.contrast(flat).item() == pytest.approx(0, abs=1e-6)
    assert metrics.sharpness(flat).item() == 0


def test_change_sees_a_part_that_moves_where_displacement_does_not() -> None:
    video = clips()[:1, :1].repeat(3, PICTURES, 1, 1, 1)
    for t in range(PICTURES):
        video[0, t, :, 4:10, 3 * t : 3 * t + 6] = 1
        video[1, t, :, 4:10, t : t + 6] = 1
    assert metrics.displacement(video).tolist() == [[0, 0]] * 3
    fast, slow, still = metrics.change(video).tolist()
    assert fast > 2 * slow > 0 and still == 0


def test_over_a_larger_gap_motion_changes_more_and_flicker_does_not() -> None:
    flicker = clips()[:, :1] + 0.1 * torch.randn(clips().shape, generator=torch.Generator().manual_seed(0))
    growth = [(metrics.change(video, 3) / metrics.change(video)).mean().item() for video in (clips(), flicker)]
    assert growth[0] > 1.5 and growth[1] == pytest.approx(1, abs=0.02)


def test_change_does_not_depend_on_contrast_and_is_largest_for_unrelated_pictures() -> None:
    assert torch.allclose(metrics.change(0.5 * clips() + 0.1), metrics.change(clips()))
    noise = torch.randn(2, 9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert metrics.change(noise).tolist() == pytest.approx([1.13, 1.13], rel=0.02)
    assert metrics.change(torch.zeros(1, 3, 3, 4, 4)).item() == 0


def test_the_nearest_clip_is_that_of_the_same_scene() -> None:
    apart = clips()[::3]
    later = render_flyover(flights()[::3], PICTURES + 1)[:, 1:]
    assert metrics.nearest(later, apart).tolist() == list(range(len(apart)))


def test_drift_is_the_same_for_twice_and_half() -> None:
    first = torch.tensor([1.0, 1, 1, 0])
    drift = metrics.drift(first, torch.tensor([1.0, 2, 0.5, 0]))
    assert drift.tolist() == pytest.approx([0, 0.6931, 0.6931, 0], abs=1e-4)
