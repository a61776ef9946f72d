"""Tilt and turn are read off unseen flights as well as the docstrings and the plan say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adastate.metrics import flight_pose
from adastate.metrics.flight_pose import SURE, Turning, cylinder, tilt, turning
from datamodules.worlds.flight import camera_path, voxel_render
from tests.support.flight_clips import Flown, codec_like, flown


@pytest.fixture(scope="module")
def unseen() -> Flown:
    return flown(100, 64, 4)


def turned(poses: Tensor) -> Tensor:
    return poses[..., 3].diff(dim=1)


def test_the_measures_know_the_world_s_camera() -> None:
    assert (flight_pose.VIEW, flight_pose.LEVEL) == (voxel_render.VIEW, camera_path.DOWN)


@pytest.mark.parametrize(("worse", "median", "mean"), [(False, 1.0, 2.0), (True, 1.6, 2.6)])
def test_tilt_in_degrees(unseen: Flown, worse: bool, median: float, mean: float) -> None:
    video = codec_like(unseen.video) if worse else unseen.video
    error = torch.rad2deg(tilt(video) - unseen.poses[..., 5]).abs()
    assert error.median() < median and error.mean() < mean
    banked = unseen.poses[..., 5].abs() > math.radians(6)
    right_way = (tilt(video).sign() == unseen.poses[..., 5].sign())[banked].float().mean()
    assert right_way > 0.95 and banked.sum() > 100


@pytest.mark.parametrize(("worse", "median", "share"), [(False, 0.005, 0.65), (True, 0.006, 0.5)])
def test_turns_in_radians_a_picture_where_the_measure_is_sure(
    unseen: Flown, worse: bool, median: float, share: float
) -> None:
    found = turning(codec_like(unseen.video) if worse else unseen.video)
    error, sure = (found.rate - turned(unseen.poses)).abs(), found.sure > SURE
    assert error[sure].median() < median
    assert sure.float().mean() > share, "sure often enough to be of use"
    assert error[~sure].median() > error[sure].median()
    clear = sure & (turned(unseen.poses).abs() > 0.03)
    assert (found.rate.sign() == turned(unseen.poses).sign())[clear].float().mean() > 0.95


def test_a_mirror_turns_the_signs(unseen: Flown) -> None:
    video = unseen.video[:8, :6]
    assert torch.allclose(tilt(video.flip(-1)), -tilt(video), atol=0.01)
    one, two = turning(video), turning(video.flip(-1))
    sure = one.sure > SURE
    assert torch.allclose(two.rate[sure], -one.rate[sure], atol=0.005)


def test_a_still_neither_turns_nor_leaves_doubt(unseen: Flown) -> None:
    video = unseen.video[:4, :1].expand(-1, 3, -1, -1, -1)
    found = turning(video)
    assert isinstance(found, Turning) and found.rate.shape == (4, 2)
    assert found.rate.abs().max() < 2e-3 and (found.sure > SURE).all()


def test_plain_pictures_give_no_confidence() -> None:
    grey = torch.full((1, 3, 3, 64, 64), 0.2)
    assert (turning(grey).sure <= SURE).all()
    assert (turning(0.2 + 0.02 * torch.randn(4, 6, 3, 64, 64)).sure <= SURE).float().mean() > 0.9, "noise"


def test_a_turn_shifts_the_cylinder_and_does_nothing_else() -> None:
    (flight,) = flown(100, 1, 1, lens=False, weather="scattered clouds").flights
    pose = torch.tensor([*flight.start, 60, flight.heading, camera_path.DOWN, 0, 0, 0], dtype=torch.float64).repeat(
        2, 1
    )
    pose[1, 3] += 10 * 2 * math.atan(0.7) / 128
    video = voxel_render.pictures(flight, pose)[None]
    (one, two), seen = cylinder(video, torch.zeros(1, 2))[0][0], cylinder(video, torch.zeros(1, 2))[1][0]
    both = (seen[0, ..., 10:] * seen[1, ..., :-10]).bool().expand(3, -1, -1)
    assert (one[..., 10:] - two[..., :-10]).abs()[both].mean() < 0.02
    assert (one - two).abs().mean() > 0.04
