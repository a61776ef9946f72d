"""The measurements, on clips of the tiny world whose every motion and colour is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from adastate import metrics
from datamodules.world import HEADINGS, PALETTES, SPEEDS, Flight, flight, render

PICTURES = 7
PLAIN = replace(flight(0, 0), mover="nothing else moves")


@cache
def flights() -> list[Flight]:
    """Every heading at every speed, over every palette in turn, without a ball."""
    names = list(PALETTES)
    both = [(h, s) for h in HEADINGS for s in SPEEDS]
    return [
        replace(PLAIN, seed=100 + i, heading=h, speed=s, palette=names[i % len(names)], start=(37 * i, -91 * i))
        for i, (h, s) in enumerate(both)
    ]


@cache
def clips() -> Tensor:
    return render(flights(), PICTURES)


@cache
def velocities() -> Tensor:
    return torch.tensor([f.velocity for f in flights()], dtype=torch.float32)


def test_displacement_is_exact() -> None:
    assert torch.equal(metrics.displacement(clips()), velocities())


@pytest.mark.parametrize("gap", [1, 2])
def test_displacement_of_a_sheet_that_slides(gap: int) -> None:
    """Without the world: a camera over a fixed sheet of noise, moved by (2, -1) a picture."""
    sheet = torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    video = torch.stack([sheet[20 - t : 44 - t, 5 + 2 * t : 29 + 2 * t] for t in range(5)])[None, :, None].expand(
        -1, -1, 3, -1, -1
    )
    assert metrics.displacement(video, gap).tolist() == [[2, -1]]


def test_displacement_finds_no_motion_in_a_still() -> None:
    assert metrics.displacement(clips()[:2, :1].expand(-1, 5, -1, -1, -1)).tolist() == [[0, 0], [0, 0]]


def test_balls_do_not_hide_the_camera() -> None:
    some = [replace(f, mover="a white ball bounces") for f in flights()[::3]]
    assert torch.equal(metrics.displacement(render(some, PICTURES)), velocities()[::3])


def test_headings_are_the_world_s() -> None:
    assert metrics.heading(velocities()) == [f.heading for f in flights()]
    assert metrics.heading(metrics.displacement(clips())) == [f.heading for f in flights()]


def test_headings_are_the_nearest_of_eight() -> None:
    motion = torch.tensor([[2.0, 0.5], [2.0, 1.5], [-2, 0.1], [-2, -0.1], [0.3, -0.2], [0, 0]])
    assert metrics.heading(motion) == ["east", "south-east", "west", "west", None, None]


def test_the_residual_is_small_for_the_right_velocity_only() -> None:
    right = metrics.residual(clips(), velocities())
    assert right.max() < 1e-6, "a camera over a plain explains every pixel"
    for wrong in (-velocities(), velocities().flip(-1) * torch.tensor([1.0, -1.0]), torch.zeros_like(velocities())):
        other = metrics.residual(clips(), wrong)
        assert (other[(wrong != velocities()).any(1)] > 0.02).all()
    shuffled = clips()[:, torch.tensor([0, 4, 1, 6, 3])]
    assert metrics.residual(shuffled, velocities()).min() > 0.05


def test_the_residual_of_unrelated_pictures_is_two() -> None:
    noise = torch.randn(2, 9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert metrics.residual(noise, torch.tensor([[1.0, 0], [0, -2]])).tolist() == pytest.approx([2, 2], rel=0.05)


def test_the_ground_is_the_palette_s() -> None:
    colours = torch.tensor([PALETTES[name][0] for name in PALETTES]) / 127.5 - 1
    names = list(PALETTES)
    assert [names[i] for i in metrics.ground(clips(), colours).tolist()] == [f.palette for f in flights()]


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
    later = render(flights()[::3], PICTURES + 1)[:, 1:]
    assert metrics.nearest(later, apart).tolist() == list(range(len(apart)))


def test_saturation_is_the_spread_of_the_channels() -> None:
    red = torch.tensor([1.0, -1, -1])[None, None, :, None, None].expand(1, 2, 3, 4, 4)
    grey = torch.zeros(1, 2, 3, 4, 4)
    assert metrics.saturation(torch.cat([red, grey])).tolist() == [2, 0]


def test_drift_is_the_same_for_twice_and_half() -> None:
    first = torch.tensor([1.0, 1, 1, 0])
    drift = metrics.drift(first, torch.tensor([1.0, 2, 0.5, 0]))
    assert drift.tolist() == pytest.approx([0, 0.6931, 0.6931, 0], abs=1e-4)
