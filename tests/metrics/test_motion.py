"""Motion, on clips whose motion is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adastate import metrics
from datamodules.worlds.flyover import render_flyover
from tests.support.flights import PICTURES, clips, flights, velocities
from tests.support.synthetic import sheet, slide, still


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
    assert torch.equal(metrics.displacement(render_flyover(some, PICTURES)), velocities()[::3])


def test_faint_ground_leads_where_differences_are_capped_and_a_ball_where_they_are_not() -> None:
    x = torch.arange(64.0)
    video = torch.stack([(0.016 * x[t : t + 32] - 0.5).expand(3, 32, 32) for t in range(8)])[None].clone()
    video[:, :, 1] = -video[:, :, 1]
    for t in range(8):
        video[:, t, :, 8:14, 20 - 2 * t : 26 - 2 * t] = 1
    assert metrics.displacement(video)[0, 0].item() == 2, "against the ball, which moves to the left"
    assert metrics.displacement(video, colour=True, cap=0.1)[0, 0].item() == 1


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


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-2, 1), (0, 2)])
def test_flow_is_the_camera_s_motion_turned_round(dx: int, dy: int) -> None:
    found = metrics.flow(slide(dx, dy, 5), gap=1, reach=3)
    assert found.shape == (1, 4, 2, 32, 32)
    inside = found[..., 6:-6, 6:-6]  # nearer to the edge the block has left the picture
    assert (inside[:, :, 0] == -dx).float().mean() > 0.99 and (inside[:, :, 1] == -dy).float().mean() > 0.99


def test_flow_finds_what_moves_by_itself_and_nothing_on_plain_ground() -> None:
    video = torch.zeros(1, 3, 3, 32, 32)
    for t in range(3):
        video[0, t, :, 8:17, 6 + 2 * t : 15 + 2 * t] = sheet(3)[:, :9, :9]
    found = metrics.flow(video, gap=1, reach=3)
    assert found[0, 0, :, 12, 10].tolist() == [2, 0]
    assert found[0, 0, :, 26, 24].tolist() == [0, 0]
    assert metrics.dynamic_degree(found).tolist() == [pytest.approx([2, 2], abs=0.1)]
    assert metrics.flow(video, gap=2, reach=4)[0, 0, :, 12, 10].tolist() == [2, 0], "pixels a picture, whatever the gap"


def test_noise_on_plain_ground_does_not_flow() -> None:
    noise = 0.03 * torch.randn(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert metrics.flow(noise).abs().max() == 0
    moving = metrics.flow(slide(1, 0, 5) + noise)[..., 8:-8, 8:-8]
    assert (moving[:, :, 0] == -1).float().mean() > 0.9


def test_dynamic_degree_is_zero_for_a_still_and_grows_with_speed() -> None:
    slow, fast = (metrics.dynamic_degree(metrics.flow(slide(v, 0, 6))).mean() for v in (1, 2))
    assert metrics.dynamic_degree(metrics.flow(still(6))).max() == 0
    assert fast > 1.5 * slow > 1


def test_forward_is_the_share_of_the_prompted_motion() -> None:
    velocity = torch.tensor([[2, 0], [1, 1], [0, -1]])
    motion = torch.tensor([[1.0, 5], [1, 1], [0, 1]])
    assert metrics.forward(motion, velocity).tolist() == pytest.approx([0.5, 1, -1])
    assert metrics.forward(motion[:, None].expand(-1, 4, -1), velocity).shape == (3, 4)
